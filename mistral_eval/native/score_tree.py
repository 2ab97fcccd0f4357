"""Score on the prefix tree, which computes each distinct prefix once."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress

import numpy as np
from torch import Tensor

from mistral_eval.errors import EngineError
from mistral_eval.model.transformer import Transformer
from mistral_eval.native.head import Asked, Tally, TokenLogprobs, token_logprobs
from mistral_eval.native.pack import Bools, Pack, cut_packs
from mistral_eval.native.pack_attention import Stack
from mistral_eval.native.plain import score_plain
from mistral_eval.native.requests import (
    WHOLE,
    Counters,
    Flops,
    ScoreReply,
    ScoreRequest,
    Stop,
    Turn,
    not_finite,
)
from mistral_eval.native.stream import Fed, Room, run_by_layers
from mistral_eval.native.tree import Ints, TokenTree, build_tree

# Default tokens per group: small groups waste less masked work, large ones need fewer calls.
_GROUP_TOKENS = {"cpu": 64, "cuda": 256}


def score_tree(  # noqa: PLR0913 - what differs between callers
    model: Transformer,
    requests: Sequence[ScoreRequest],
    batch_tokens: int,
    stats: Counters,
    group_tokens: int | None = None,
    *,
    turn: Turn = WHOLE,
    reads_late: bool | None = None,
    room: Room | None = None,
) -> Iterator[tuple[int, ScoreReply]]:
    """Score requests, computing each distinct prefix once.

    All requests form the packs; packs that no unknown request needs are skipped. The others are
    computed with the same shapes as if nothing were known, so replies have identical bits whatever
    is known.

    Args:
        model: the transformer.
        requests: valid ones; the packs depend on their set, not on their order.
        batch_tokens: tokens per forward pass.
        stats: updated with what is computed.
        group_tokens: maximum tokens per group; None chooses by device.
        turn: which requests are not answered, and whether to stop before the next pack.
        reads_late: start a pack before reading the last one's results, so that the device does not
            wait for the host; None: on CUDA.
        room: what a super-pack may hold, if the model's layers are streamed; None chooses by
            device and free memory.

    Yields:
        (index, reply) as soon as a continuation's last token is computed.
    """
    if group_tokens is None:
        group_tokens = _GROUP_TOKENS.get(model.device.type, 64)
    if reads_late is None:
        reads_late = model.device.type == "cuda"
    is_asked = np.ones(len(requests), dtype=np.bool_)
    is_asked[list(turn.known)] = False
    if not is_asked.any():
        return
    tree = build_tree(requests)
    if not turn.again:
        _count(stats, tree if is_asked.all() else build_tree(list(compress(requests, is_asked))))
    walk = _Walk(model, requests, is_asked, Tally(requests))
    flops = Flops.of(model.config, model.n_words)
    unread: list[TokenLogprobs] = []
    packs = cut_packs(tree, batch_tokens, group_tokens, walk.wanted(tree))
    size = min(batch_tokens, len(tree.tokens))
    if model.is_streamed:
        passes = run_by_layers(model, tree, packs, size, turn.stopping, stats, room)
    else:
        passes = _run_by_packs(model, tree, packs, size, turn.stopping, stats)
    for pack, hidden in passes:
        asked = _asked(tree, pack)
        rows = len({item.row for item in asked})
        depths = tree.depths[pack.first : pack.last]
        unasked = np.delete(depths, tree.asked_rows(pack.first, pack.last))
        stats.score_flop += flops.tokens(depths) - flops.spared(unasked)
        if not any(is_asked[item.request] for item in asked):
            continue  # only its keys and values are needed
        stats.score_flop += flops.row * rows
        computed = token_logprobs(model, hidden, asked)
        if reads_late:
            unread, computed = computed, unread
        yield from walk.replies(computed)
    yield from walk.replies(unread)


def _run_by_packs(
    model: Transformer,
    tree: TokenTree,
    packs: Iterable[Pack],
    size: int,
    stopping: Stop,
    stats: Counters,
) -> Iterator[tuple[Pack, Tensor]]:
    """Yield each pack of at most `size` tokens with the hidden states asked for, (R, dim).

    End when told to stop.
    """
    stack = Stack(model, tree.height, size)
    for pack in packs:
        if stopping():
            return
        fed = Fed.of(tree, pack, stack)
        hidden = model.hidden(fed.tokens, fed.positions, fed.attend, fed.rows)
        stats.score_computed += len(fed.tokens)
        yield pack, hidden


@dataclass(frozen=True, slots=True)
class _Walk:
    """State of one walk of the tree: the sums so far, and which requests are answered."""

    model: Transformer
    requests: Sequence[ScoreRequest]
    is_asked: Bools
    tally: Tally

    def wanted(self, tree: TokenTree) -> Ints:
        """Return the tree's tokens that predict a token of an unknown request."""
        return tree.asked_node[self.is_asked[tree.asked_request]]

    def replies(self, blocks: Sequence[TokenLogprobs]) -> Iterator[tuple[int, ScoreReply]]:
        """Yield the replies that a pack's tokens complete."""
        try:
            for item, logprob, is_greedy in chain.from_iterable(block.read() for block in blocks):
                reply = self.tally.add(item.request, logprob, is_greedy=is_greedy)
                if reply and self.is_asked[item.request]:
                    yield item.request, reply
        except EngineError:
            asked = [item for block in blocks for item in block.asked]
            raise _named(self.model, self.requests, asked) from None


def _count(stats: Counters, tree: TokenTree) -> None:
    stats.score_unique += len(tree.tokens)
    stats.score_naive += tree.naive_tokens


def _named(
    model: Transformer, requests: Sequence[ScoreRequest], asked: Sequence[Asked]
) -> EngineError:
    """Return the error for the first request whose own logits are not finite.

    A masked NaN key spoils the whole pack (0 * NaN is NaN), so each request is scored alone.
    """
    suspects = sorted({item.request for item in asked})
    for n in suspects:
        try:
            list(score_plain(model, [requests[n]], batch_tokens=1))
        except EngineError:
            return not_finite("score", n)
    return not_finite("score", suspects[0])  # each is finite alone, but not in the pack


def _asked(tree: TokenTree, pack: Pack) -> list[Asked]:
    """Return what is asked of the pack's tokens; a row counts those of which something is asked."""
    own = tree.asked_in(pack.first, pack.last)
    rows = np.unique(tree.asked_node[own], return_inverse=True)[1]
    return [
        Asked(row, token, request)
        for row, token, request in zip(
            rows.tolist(),
            tree.asked_token[own].tolist(),
            tree.asked_request[own].tolist(),
            strict=True,
        )
    ]
