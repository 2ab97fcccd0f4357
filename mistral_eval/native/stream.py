"""Run a model whose layers are read on demand: to score, all packs go through a layer together.

A *super-pack* is a run of packs. Its hidden states stay in memory while it goes through the model,
and each layer is read once for it. The packs are those of a model in memory, so replies are too.

Where the tree needs several super-packs, the keys and values of the path between two of them are
kept for every layer, so that no token is computed twice. A single super-pack keeps those of the
layer in use.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from mistral_eval.console import duration
from mistral_eval.model.attention import Attend
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.load.by_layer import streamed_bytes
from mistral_eval.model.load.weights import weight_bytes
from mistral_eval.model.memory import GIB, free_bytes, sent
from mistral_eval.model.shared_cache import row_slots
from mistral_eval.model.transformer import Transformer
from mistral_eval.native.admission import Budget
from mistral_eval.native.pack import Pack
from mistral_eval.native.pack_attention import Stack, make_attend, stack_bytes
from mistral_eval.native.pack_batches import CPU_COSTS
from mistral_eval.native.requests import Counters, GenerateRequest, Stop
from mistral_eval.native.tree import TokenTree

# With so many tokens computing a layer takes many times as long as reading the next one. More
# would only delay the replies, which come when a super-pack ends.
_ENOUGH_TOKENS = {"cpu": 16384, "cuda": 262144}
_SHARE = 0.4  # of the free memory
_GROUP_TOKENS = 64  # whose keys a mask has beside the path's: the CPU's groups,


@dataclass(frozen=True, slots=True)
class Room:
    """What a super-pack may hold: tokens, and bytes of hidden states, masks and kept keys."""

    tokens: int
    size: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """What generation with streamed layers costs at most: the decoding steps read all layers each.

    Attributes:
        replies: number of replies, of which `rows` are decoded in one step.
        steps: steps if every reply reaches its limit.
        step_seconds: time to read all layers, by that of the first one.
    """

    replies: int
    rows: int
    steps: int
    step_seconds: float

    @property
    def seconds(self) -> float:
        """The time of all steps."""
        return self.steps * self.step_seconds


def forecast(
    requests: Sequence[GenerateRequest],
    budget: Budget,
    config: ModelConfig,
    read_layer: Callable[[int], object],
) -> Forecast:
    """Read a layer, and count the steps that replies to `requests` need at most."""
    started = perf_counter()
    read_layer(0)
    seconds = config.n_layers * (perf_counter() - started)
    longest = max(request.max_tokens for request in requests)
    rows = min(budget.rows, len(requests), max(1, budget.cached // row_slots(longest)))
    steps = max(longest, -(-sum(request.max_tokens for request in requests) // rows))
    return Forecast(len(requests), rows, steps, seconds)


def streaming_sentence(
    config: ModelConfig, dtype: torch.dtype, device: torch.device, *, is_asked: bool
) -> str:
    """Return what the user is told when a model's layers are read while it runs."""
    whole, held = (size(config, dtype) / GIB for size in (weight_bytes, streamed_bytes))
    why = "as --stream-layers asks" if is_asked else f"since they do not fit in {device}'s memory"
    return (
        f"The weights ({whole:.2f} GiB) are read from the files a layer at a time, {why}: at most "
        f"{held:.2f} GiB of them are in memory at once."
    )


def generating_sentence(cost: Forecast) -> str:
    """Return what the user is told before a generation with streamed layers."""
    return (
        f"Each step of generation reads all layers, {duration(cost.step_seconds)} by the first "
        f"one's read, for up to {cost.rows} replies at once: {cost.replies} replies need at most "
        f"{cost.steps} steps, {duration(cost.seconds)}. Benchmarks that only score read the layers "
        "a few times in all: name them with --tasks to leave generation out."
    )


def room_on(device: torch.device) -> Room:
    """Return the room for a super-pack beside what the device's memory holds now."""
    return Room(_ENOUGH_TOKENS.get(device.type, 16384), int(_SHARE * free_bytes(device)))


def super_pack_bytes(
    config: ModelConfig, dtype: torch.dtype, tree: TokenTree, size: int, room: Room
) -> tuple[int, int]:
    """Estimate what scoring a tree in packs of `size` tokens holds.

    Returns:
        Bytes of a super-pack's hidden states and masks, and of keys and values.
    """
    total = len(tree.tokens)
    each = token_bytes(config, dtype, tree.height + min(size, _GROUP_TOKENS))
    kept = stack_bytes(config, dtype, tree.height, size)
    fitting = min(room.tokens, max(size, (room.size - kept) // each))
    one_layer = stack_bytes(config, dtype, tree.height, size, one_layer=True)
    return min(total, fitting) * each, one_layer if total <= fitting else kept


def token_bytes(config: ModelConfig, dtype: torch.dtype, keys: int) -> int:
    """Return the bytes that a super-pack holds for a token whose mask has `keys` columns.

    That is its hidden state, and for every kind of window a mask row for each query head that
    shares keys. What prefixes share needs no mask, and rows are padded: the former is more.
    """
    masks = len(set(config.sliding_window)) * (config.n_heads // config.n_kv_heads)
    columns = -(-keys // CPU_COSTS.aligned) * CPU_COSTS.aligned
    return (config.dim + masks * columns) * dtype.itemsize


def run_by_layers(
    model: Transformer,
    tree: TokenTree,
    packs: Iterable[Pack],
    size: int,
    stopping: Stop,
    stats: Counters,
    room: Room | None = None,
) -> Iterator[tuple[Pack, Tensor]]:
    """Yield each pack of at most `size` tokens with the final hidden states asked for, (R, dim).

    When `stopping` returns True, drop the super-pack in progress. Its tokens count as computed
    layer by layer, so that progress is seen before it ends.
    """
    room = room_on(model.device) if room is None else room
    stack = None
    for members, is_all in super_packs(model.config, model.dtype, tree, packs, size, room):
        if stopping():
            return
        if stack is None:
            stack = Stack(model, tree.height, size, one_layer=is_all)
        parts = _parts(model, tree, members, stack)
        done = 0  # tokens, times layers
        for n, layer in enumerate(model.layers):
            for part in parts:
                if stopping():
                    return
                before = done // model.config.n_layers
                done += len(part.states)
                fed = part.fed
                found = model.run_block(n, layer, part.states, fed.positions, fed.attend, fed.rows)
                if found is not part.states:  # the last layer gives fewer
                    part.states = part.states[: len(found)].copy_(found)
                stats.score_computed += done // model.config.n_layers - before
        for part in parts:
            yield part.pack, model.finish(part.states)
        del parts, part, fed, found  # before the next super-pack's are made


@dataclass(frozen=True, slots=True)
class Fed:
    """What a forward pass of a pack takes, on the model's device.

    Attributes:
        tokens: ids, (T,).
        positions: their positions, (T,).
        rows: indices of the tokens whose final hidden states are asked, (R,); None for all.
        attend: their attention.
    """

    tokens: Tensor
    positions: Tensor
    rows: Tensor | None
    attend: Attend

    @classmethod
    def of(cls, tree: TokenTree, pack: Pack, stack: Stack) -> "Fed":
        """Return what a pack of a tree takes, whose tokens see what is on `stack`."""
        run = slice(pack.first, pack.last)
        tokens, positions = (
            sent(torch.from_numpy(numbers[run]), stack.device)
            for numbers in (tree.tokens, tree.depths)
        )
        asked = tree.asked_rows(pack.first, pack.last)
        if len(asked) == len(tokens):
            return cls(tokens, positions, None, make_attend(stack, pack))
        rows = sent(torch.from_numpy(asked), stack.device)
        return cls(tokens, positions, rows, make_attend(stack, pack, asked))


def super_packs(
    config: ModelConfig,
    dtype: torch.dtype,
    tree: TokenTree,
    packs: Iterable[Pack],
    size: int,
    room: Room,
) -> Iterator[tuple[list[Pack], bool]]:
    """Yield runs of packs that fit in `room`, each of at least one, and whether it is all packs."""
    free = room.size - stack_bytes(config, dtype, tree.height, size)
    members: list[Pack] = []
    tokens = held = 0
    is_first = True
    for pack in packs:
        count = pack.last - pack.first
        keys = max(group.related.shape[1] for group in pack.groups)
        more = count * token_bytes(config, dtype, keys)
        if members and (tokens + count > room.tokens or held + more > free):
            yield members, False
            members, tokens, held, is_first = [], 0, 0, False
        members.append(pack)
        tokens, held = tokens + count, held + more
    if members:
        yield members, is_first


@dataclass(slots=True)
class _Part:
    """A pack in a super-pack: its hidden states so far, a view of the super-pack's.

    After the last layer only those asked are left.
    """

    pack: Pack
    states: Tensor
    fed: Fed


def _parts(model: Transformer, tree: TokenTree, packs: Sequence[Pack], stack: Stack) -> list[_Part]:
    """Return a super-pack's parts, with the embeddings of their tokens as hidden states."""
    sizes = [pack.last - pack.first for pack in packs]
    states = torch.empty(sum(sizes), model.config.dim, dtype=model.dtype, device=model.device)
    parts = []
    for pack, own in zip(packs, torch.split(states, sizes), strict=True):
        fed = Fed.of(tree, pack, stack)
        model.embed(fed.tokens, own)
        parts.append(_Part(pack, own, fed))
    return parts
