"""How a pack's groups are put together for few attention calls: what is shared, what is left.

Neighbouring groups whose rows all see the same long prefix form a *block*: its queries attend to
that prefix in one call without a mask. What a group sees beyond it, its own tokens and the path
down to them, is answered in *batches* of groups of similar size, under masks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mistral_eval.native.pack import Bools, Group, Pack
from mistral_eval.native.tree import Ints


@dataclass(frozen=True, slots=True)
class Costs:
    """What decides how groups are put together; the defaults were measured on a CPU, 512 wide.

    A call for a prefix spares its keys the gathering and its rows the masks. What it costs in turn
    is said in keys of such a prefix, counted once for each row that sees it.

    Attributes:
        merge: keys of a row that pay for merging its two parts.
        call: keys of all rows together that pay for one call.
        aligned: the number of keys is a multiple of it: kernels read them by vectors, and are an
            eighth slower where some are left over.
        gathered: keys of a batch at most; one group alone may have more, as many as its longest
            path and itself.
        row: keys that cost as much as a row of a batch does beside those it sees.
        batch: keys of all rows together that cost as much as a batch's call.
    """

    merge: int = 96
    call: int = 16384
    aligned: int = 16
    gathered: int = 8192
    row: int = 43
    batch: int = 8192

    def at_width(self, width: int) -> "Costs":
        """Those of queries so many numbers wide, heads times head_dim.

        A call costs as much time, which is less beside keys that are dearer.
        """
        call, batch = (cost * _WIDTH // width for cost in (self.call, self.batch))
        return replace(self, call=call, batch=batch)


CPU_COSTS = Costs()
_WIDTH = 512  # where they were measured


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


def cut_batches(
    pack: Pack, window: int | None, costs: Costs = CPU_COSTS
) -> tuple[list[Block], list[Batch]]:
    """Blocks, in order, and batches, which hold each row once.

    A row sees its block's prefix and, in its batch, what else it may see in layers of `window`.
    Where the window hides keys from some row there are no prefixes.
    """
    window = pack.window(window)
    runs = _runs(pack.groups, costs) if window is None else [(pack.groups, 0)]
    blocks = [_block(groups, prefix) for groups, prefix in runs if prefix]
    rests = [_beyond(pack, group, prefix, window) for groups, prefix in runs for group in groups]
    return blocks, [_batch(some, costs) for some in _alike(rests, costs)]


def _runs(groups: Sequence[Group], costs: Costs) -> list[tuple[Sequence[Group], int]]:
    """The pack's groups in runs, each with the length of its prefix, so that most is spared."""
    best = [0]  # what the first so many groups spare
    cuts: list[tuple[int, int]] = []  # where the last of their runs begins, and its prefix
    for end in range(1, len(groups) + 1):
        shared, rows = len(groups[end - 1].ancestors), 0
        best.append(best[-1])
        cuts.append((end - 1, 0))
        for start in range(end - 1, -1, -1):
            shared = min(shared, groups[start].shared)
            rows += groups[start].end - groups[start].start
            prefix = shared - shared % costs.aligned
            if prefix <= costs.merge:
                break
            spared = best[start] + rows * (prefix - costs.merge) - costs.call
            if spared > best[end]:
                best[end] = spared
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


def _beyond(pack: Pack, group: Group, prefix: int, window: int | None) -> _Rest:
    slots, seen = pack.seen(group, window)
    return _Rest(group, slots[prefix:], seen[:, prefix:])


def _alike(rests: Sequence[_Rest], costs: Costs) -> Iterator[list[_Rest]]:
    """The groups' rests in batches, so that padding and calls together cost least.

    A batch is a run of them in the order of their numbers of keys; the best last run is found for
    the first rest, the first two, and so on.
    """
    ordered = sorted(rests, key=lambda rest: -len(rest.slots))
    rows = np.array([len(rest.seen) for rest in ordered])
    keys = np.array([_padded(len(rest.slots), costs) for rest in ordered])
    least = np.zeros(len(ordered) + 1)  # what the first so many cost
    starts: list[int] = []  # where the last of their runs begins
    for end in range(1, len(ordered) + 1):
        sizes = np.arange(end, 0, -1)  # of the run that begins at 0, 1, ...
        most = np.maximum.accumulate(rows[:end][::-1])[::-1]
        spent = least[:end] + sizes * most * (costs.row + keys[:end]) + costs.batch
        spent[:-1][sizes[:-1] * keys[: end - 1] > costs.gathered] = np.inf
        starts.append(int(spent.argmin()))
        least[end] = spent[starts[-1]]
    end = len(ordered)
    while end:
        yield ordered[starts[end - 1] : end]
        end = starts[end - 1]


def _padded(keys: int, costs: Costs) -> int:
    return -(-keys // costs.aligned) * costs.aligned


def _batch(rests: Sequence[_Rest], costs: Costs) -> Batch:
    """Rests side by side, the longest first; a padding row sees what the group's first sees."""
    sizes = np.array([rest.group.end - rest.group.start for rest in rests])
    most, keys = int(sizes.max()), _padded(len(rests[0].slots), costs)
    rows = np.empty((len(rests), most), dtype=np.int64)
    slots = np.empty((len(rests), keys), dtype=np.int64)
    seen = np.zeros((len(rests), most, keys), dtype=np.bool_)
    for n, rest in enumerate(rests):
        group, size, count = rest.group, sizes[n], len(rest.slots)
        rows[n, :size] = np.arange(group.start, group.end)
        rows[n, size:] = group.start
        slots[n, :count] = rest.slots
        slots[n, count:] = rest.slots[-1]
        seen[n, :size, :count] = rest.seen
        seen[n, size:, :count] = rest.seen[0]
    return Batch(rows, np.arange(most) < sizes[:, None], slots, seen)
