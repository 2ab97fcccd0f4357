"""Compute log-probability and argmax of asked tokens from hidden states."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mistral_eval.model.lm_head import TILE
from mistral_eval.model.memory import HostCopy, sent
from mistral_eval.model.products import largest
from mistral_eval.model.transformer import Transformer
from mistral_eval.native.requests import ScoreReply, ScoreRequest, not_finite

_ROWS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Asked:
    """One token of a request's continuation, and the row of hidden states that predicts it."""

    row: int
    token: int
    request: int


class Tally:
    """Sums the log-probabilities of each request until its last token.

    Sums are in float64 and in the order of the continuation, so they do not depend on packing.
    """

    def __init__(self, requests: Sequence[ScoreRequest]) -> None:
        self._missing = [len(request.continuation) for request in requests]
        self._sums = [0.0] * len(requests)
        self._is_greedy = [True] * len(requests)

    def add(self, request: int, logprob: float, *, is_greedy: bool) -> ScoreReply | None:
        """Add the next token of a request; return its reply after the last one."""
        self._sums[request] += logprob
        self._is_greedy[request] &= is_greedy
        self._missing[request] -= 1
        if self._missing[request]:
            return None
        return ScoreReply(self._sums[request], self._is_greedy[request])


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Asked tokens; their log-probabilities and whether each is the argmax (0 or 1), (2, A)."""

    asked: Sequence[Asked]
    numbers: HostCopy

    def read(self) -> Iterator[tuple[Asked, float, bool]]:
        """Yield each asked token, its log-probability, and whether it is its row's argmax.

        Raises:
            EngineError: a logit is NaN or plus infinity; names the first request it affects.
        """
        logprobs, is_greedy = self.numbers.read()
        finite = logprobs.isfinite().tolist()
        if not all(finite):
            raise not_finite("score", self.asked[finite.index(False)].request)
        yield from zip(self.asked, logprobs.tolist(), is_greedy.bool().tolist(), strict=True)


def token_logprobs(
    model: Transformer, hidden: Tensor, asked: Sequence[Asked]
) -> list[TokenLogprobs]:
    """Compute each asked token's log-probability and whether it is its row's argmax, in blocks.

    A row asked for by several tokens goes through the LM head once. Log-softmax is in float32.

    Args:
        model: has the LM head.
        hidden: final hidden states of a pack, (T, dim).
        asked: sorted by `row`, an index into `hidden`.
    """
    rows = sorted({item.row for item in asked})
    blocks, done = [], 0
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[start : start + _ROWS_AT_ONCE]
        index = {row: n for n, row in enumerate(some)}
        end = bisect_right(asked, some[-1], lo=done, key=lambda item: item.row)
        block, done = asked[done:end], end
        wanted = (some, [index[item.row] for item in block], [item.token for item in block])
        at, local, tokens = (sent(torch.tensor(ids), hidden.device) for ids in wanted)
        logprobs, is_greedy = _block(model, hidden[at], local, tokens)
        numbers = torch.stack([logprobs, is_greedy.to(logprobs.dtype)])
        blocks.append(TokenLogprobs(block, HostCopy(numbers)))
    return blocks


@torch.inference_mode()
def _block(
    model: Transformer, states: Tensor, local: Tensor, tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """Return log-probability, (A,), of `tokens` in rows `local` of `states`, and if each is argmax.

    Running maximum and sum of exponentials are updated tile by tile (online softmax). Of equal
    logits the lowest id is the argmax.
    """
    shape, device = len(states), states.device
    largest_yet = torch.full((shape,), float("-inf"), device=device)
    best = torch.zeros(shape, dtype=torch.int64, device=device)
    total = torch.zeros(shape, device=device)
    found = torch.zeros(len(tokens), device=device)
    for first, logits in model.logit_tiles(states, _ROWS_AT_ONCE * TILE // shape):
        width = logits.shape[1]
        inside = (tokens >= first) & (tokens < first + width)
        picked = logits[local, (tokens - first).clamp(0, width - 1)]
        found = torch.where(inside, picked, found)
        top, where = largest(logits)
        best = torch.where(top > largest_yet, where + first, best)
        new = torch.maximum(largest_yet, top)
        total = total * (largest_yet - new).exp() + logits.sub_(new[:, None]).exp_().sum(dim=1)
        largest_yet = new
    return found - (largest_yet + total.log())[local], best[local] == tokens
