"""How a pack's groups are put together for few attention calls: what is shared, what is left.

Neighbouring groups whose rows all see the same long prefix form a *block*: its queries attend to
that prefix in one call without a mask. What a group sees beyond it, its own tokens and the path
down to them, is answered in *batches* of groups of similar size, under masks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mistral_eval.engine.pack import Bools, Group, Pack
from mistral_eval.engine.tree import Ints

# What a call for a prefix spares, gathered keys and masks, against what it costs, in keys seen by
# rows: merging a row's two parts is worth so many keys, beginning a call so many.
_KEYS_A_MERGE = 96
_KEYS_A_CALL = 16384
_ALIGNED = 16  # kernels are an eighth slower where the keys are no multiple of a vector's length
_KEYS_AT_ONCE = 16384  # gathered for a batch: bounds its memory
_FILLED = 0.75  # of a batch's keys, at the least, the rest being padding


@dataclass(frozen=True, slots=True)
class Block:
    """Rows `start` ... `end` of a pack, and the slots of the prefix they all see."""

    start: int
    end: int
    slots: Ints


@dataclass(frozen=True, slots=True)
class Batch:
    """Groups answered in one call, padded to equal sizes.

    Attributes:
        rows: the pack's rows, (G, m); a group's padding repeats its first row.
        is_row: what is no padding, (G, m).
        slots: of the keys, (G, s).
        seen: whether a row sees a key, (G, m, s).
    """

    rows: Ints
    is_row: Bools
    slots: Ints
    seen: Bools


@dataclass(frozen=True, slots=True)
class _Rest:
    """What one group sees beyond its block's prefix: slots, (s,), and which row sees which."""

    group: Group
    slots: Ints
    seen: Bools


def cut_batches(pack: Pack, window: int | None) -> tuple[list[Block], list[Batch]]:
    """Blocks, in order, and batches, which hold each row once.

    A row sees its block's prefix and, in its batch, what else it may see in layers of `window`.
    Where the window hides keys from some row there are no prefixes.
    """
    deepest = max(int(group.depths.max()) for group in pack.groups)
    if window is not None and deepest >= window:
        blocks, rests = [], [_windowed(pack, group, window) for group in pack.groups]
    else:
        runs = _runs(pack.groups)
        blocks = [_block(groups, prefix) for groups, prefix in runs if prefix]
        rests = [_beyond(pack, group, prefix) for groups, prefix in runs for group in groups]
    return blocks, [_batch(some) for some in _alike(rests)]


def _runs(groups: Sequence[Group]) -> list[tuple[Sequence[Group], int]]:
    """The pack's groups in runs, each with the length of its prefix, so that most is spared."""
    best = [0]  # what the first so many groups spare
    cuts: list[tuple[int, int]] = []  # where the last of their runs begins, and its prefix
    for end in range(1, len(groups) + 1):
        shared, rows = len(groups[end - 1].ancestors), 0
        best.append(best[end - 1])
        cuts.append((end - 1, 0))
        for start in range(end - 1, -1, -1):
            shared = min(shared, groups[start].shared)
            rows += groups[start].end - groups[start].start
            prefix = shared - shared % _ALIGNED
            spared = rows * (prefix - _KEYS_A_MERGE) - _KEYS_A_CALL
            if prefix <= _KEYS_A_MERGE:
                break
            if best[start] + spared > best[end]:
                best[end] = best[start] + spared
                cuts[-1] = (start, prefix)
    runs: list[tuple[Sequence[Group], int]] = []
    end = len(groups)
    while end:
        start, prefix = cuts[end - 1]
        runs.append((groups[start:end], prefix))
        end = start
    return runs[::-1]


def _block(groups: Sequence[Group], prefix: int) -> Block:
    return Block(groups[0].start, groups[-1].end, groups[0].ancestors[:prefix])


def _slots(pack: Pack, group: Group) -> Ints:
    """Of the group's ancestors and its own rows, (a + n,), as the columns of `related`."""
    return np.concatenate([group.ancestors, pack.base + np.arange(group.start, group.end)])


def _beyond(pack: Pack, group: Group, prefix: int) -> _Rest:
    return _Rest(group, _slots(pack, group)[prefix:], group.related[:, prefix:])


def _windowed(pack: Pack, group: Group, window: int) -> _Rest:
    low = max(0, int(group.depths.min()) - window + 1)
    key_depths = np.concatenate([np.arange(len(group.ancestors)), group.depths])
    seen = group.related & (key_depths > group.depths[:, None] - window)
    return _Rest(group, _slots(pack, group)[low:], seen[:, low:])


def _alike(rests: Sequence[_Rest]) -> Iterator[list[_Rest]]:
    """The groups' rests, those that see about as many keys together."""
    some: list[_Rest] = []
    for rest in sorted(rests, key=lambda one: -len(one.slots)):
        most = _padded(len(some[0].slots if some else rest.slots))
        is_short = _padded(len(rest.slots)) < _FILLED * most
        if some and (is_short or (len(some) + 1) * most > _KEYS_AT_ONCE):
            yield some
            some = []
        some.append(rest)
    yield some


def _padded(keys: int) -> int:
    return -(-keys // _ALIGNED) * _ALIGNED


def _batch(rests: Sequence[_Rest]) -> Batch:
    """Rests side by side; padding sees what the group's first row sees, and no key but its own."""
    most = max(rest.group.end - rest.group.start for rest in rests)
    keys = _padded(max(len(rest.slots) for rest in rests))
    rows = np.empty((len(rests), most), dtype=np.int64)
    slots = np.empty((len(rests), keys), dtype=np.int64)
    seen = np.zeros((len(rests), most, keys), dtype=np.bool_)
    sizes = np.array([rest.group.end - rest.group.start for rest in rests])
    for n, rest in enumerate(rests):
        group, size, count = rest.group, sizes[n], len(rest.slots)
        rows[n, :size] = np.arange(group.start, group.end)
        rows[n, size:] = group.start
        slots[n, :count] = rest.slots
        slots[n, count:] = rest.slots[-1]
        seen[n, :size, :count] = rest.seen
        seen[n, size:, :count] = rest.seen[0]
    return Batch(rows, np.arange(most) < sizes[:, None], slots, seen)
