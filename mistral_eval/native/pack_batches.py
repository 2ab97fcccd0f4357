"""Combine a pack's groups into few attention calls: blocks with a shared prefix, and batches.

Neighbouring groups whose rows all see the same long prefix form a *block*, whose queries attend to
that prefix in one call without a mask. What a group sees beyond the prefix (the rest of the path,
and its own tokens) is computed in *batches* of groups of similar size, with masks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mistral_eval.native.pack import Bools, Group, Pack
from mistral_eval.native.tree import Ints


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs that decide how groups are combined; defaults measured on a CPU at width 512.

    The unit is one key seen by one row of a prefix. A prefix call saves gathering keys and masking
    rows, at the cost of a call and of merging two partial results per row.

    Attributes:
        merge: merging one row's two parts.
        call: one prefix call.
        aligned: numbers of keys are multiples of it, because kernels read keys by vectors and are
            an eighth slower with a remainder.
        gathered: maximum keys per batch; a single group may have more.
        row: one row of a batch, apart from its keys.
        batch: one batch's call.
    """

    merge: int = 96
    call: int = 16384
    aligned: int = 16
    gathered: int = 8192
    row: int = 43
    batch: int = 8192

    def at_width(self, width: int) -> "Costs":
        """Return the costs for queries of this width, n_heads * head_dim.

        The time of a call is constant, and wider keys cost more, so it equals fewer keys.
        """
        call, batch = (cost * _WIDTH // width for cost in (self.call, self.batch))
        return replace(self, call=call, batch=batch)


CPU_COSTS = Costs()
_WIDTH = 512  # of the measurement


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring rows of a pack that attend, (r,), and the slots of the prefix they all see."""

    rows: Ints
    slots: Ints


@dataclass(frozen=True, slots=True)
class Batch:
    """Groups computed in one call, padded to equal sizes.

    Attributes:
        rows: the pack's rows, (G, m); padding repeats a group's first row.
        is_row: False for padding, (G, m).
        slots: slots of the keys, (G, s).
        seen: whether a row sees a key, (G, m, s).
    """

    rows: Ints
    is_row: Bools
    slots: Ints
    seen: Bools


@dataclass(frozen=True, slots=True)
class _Rest:
    """Rows of a group that attend, (n,), slots they see beyond the prefix, and which sees which."""

    rows: Ints
    slots: Ints
    seen: Bools


def cut_batches(
    pack: Pack, window: int | None, costs: Costs = CPU_COSTS
) -> tuple[list[Block], list[Batch]]:
    """Return blocks, in order, and batches, which hold each row that attends once.

    A row sees its block's prefix and, in its batch, everything else visible in layers of `window`.
    If the window hides keys from any row, there are no blocks.
    """
    window = pack.window(window)
    runs = _runs(pack.groups, costs) if window is None else [(pack.groups, 0)]
    blocks = [_block(groups, prefix) for groups, prefix in runs if prefix]
    rests = [
        _beyond(pack, group, prefix, window)
        for groups, prefix in runs
        for group in groups
        if len(group.queries)
    ]
    return blocks, [_batch(some, costs) for some in _alike(rests, costs)]


def _runs(groups: Sequence[Group], costs: Costs) -> list[tuple[Sequence[Group], int]]:
    """Split groups into runs, each with a prefix length, saving the most (dynamic programming)."""
    best = [0]  # savings of the first n groups
    cuts: list[tuple[int, int]] = []  # start of their last run, and its prefix length
    for end in range(1, len(groups) + 1):
        shared, rows = len(groups[end - 1].ancestors), 0
        best.append(best[-1])
        cuts.append((end - 1, 0))
        for start in range(end - 1, -1, -1):
            shared = min(shared, groups[start].shared)
            rows += len(groups[start].queries)
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
    rows = np.concatenate([group.queries for group in groups])
    return Block(rows, groups[0].ancestors[:prefix])


def _beyond(pack: Pack, group: Group, prefix: int, window: int | None) -> _Rest:
    slots, seen = pack.seen(group, window)
    return _Rest(group.queries, slots[prefix:], seen[:, prefix:])


def _alike(rests: Sequence[_Rest], costs: Costs) -> Iterator[list[_Rest]]:
    """Yield the rests in batches that minimise the cost of padding and calls.

    A batch is a run of rests sorted by number of keys. Dynamic programming finds the best last run
    of the first n rests for each n.
    """
    ordered = sorted(rests, key=lambda rest: -len(rest.slots))
    rows = np.array([len(rest.seen) for rest in ordered])
    keys = np.array([_padded(len(rest.slots), costs) for rest in ordered])
    least = np.zeros(len(ordered) + 1)  # cost of the first n rests
    starts: list[int] = []  # start of their last run
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
    """Combine rests, the longest first; a padding row sees what its group's first row sees."""
    sizes = np.array([len(rest.rows) for rest in rests])
    most, keys = int(sizes.max()), _padded(len(rests[0].slots), costs)
    rows = np.empty((len(rests), most), dtype=np.int64)
    slots = np.empty((len(rests), keys), dtype=np.int64)
    seen = np.zeros((len(rests), most, keys), dtype=np.bool_)
    for n, rest in enumerate(rests):
        size, count = sizes[n], len(rest.slots)
        rows[n, :size] = rest.rows
        rows[n, size:] = rest.rows[0]
        slots[n, :count] = rest.slots
        slots[n, count:] = rest.slots[-1]
        seen[n, :size, :count] = rest.seen
        seen[n, size:, :count] = rest.seen[0]
    return Batch(rows, np.arange(most) < sizes[:, None], slots, seen)
