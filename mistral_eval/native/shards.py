"""Cut a run's requests into shards of balanced cost that lose little of what requests share.

Requests are sorted by their token ids, so that a shard is a run of neighbours in the prefix tree. A
cut costs the prefix that both its neighbours share, which the second shard computes again: cuts are
made where that is short.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mistral_eval.native.tree import NO_IDS, Ints, common_length, sortable

_SLACK = 0.3  # how far a cut may lie from its ideal place, as a share of a shard's cost
_SHARDS_A_WORKER = (16, 8, 4, 2, 1)
_EXCESS = 0.02  # what cutting for workers may add to the cost, where fewer shards would add less


@dataclass(frozen=True, slots=True)
class Shard:
    """Requests that one worker answers together.

    Attributes:
        indices: the requests' places among those that were cut, in the order of the tree.
        cost: what it costs to answer them, in tokens of a prompt.
    """

    indices: tuple[int, ...]
    cost: float


@dataclass(frozen=True, slots=True)
class Cut:
    """All shards, and what is computed with and without cutting.

    Attributes:
        shards: in the order of the tree.
        whole: cost of one process that answers everything.
        unique: distinct tokens of all paths.
    """

    shards: tuple[Shard, ...]
    whole: float
    unique: int

    @property
    def excess(self) -> float:
        """What cutting adds to the cost, as a share of `whole`."""
        total = sum(shard.cost for shard in self.shards)
        return total / self.whole - 1 if self.whole else 0.0


def cut_shards(paths: Sequence[Sequence[int]], parts: int, extra: Sequence[float] = ()) -> Cut:
    """Cut requests into at most `parts` shards of about equal cost.

    Requests with equal paths, as the samples of one question, stay in one shard.

    Args:
        paths: the token ids that each request feeds before it generates, or any other ids that are
            equal where work is shared.
        parts: number of shards; there are fewer if there are fewer distinct paths.
        extra: cost of each request beside its path, in tokens; none if empty.
    """
    groups: dict[bytes, list[int]] = {}
    path, key = None, b""  # neighbours often share one tuple
    for n, ids in enumerate(paths):
        if ids is not path:
            path, key = ids, sortable(ids)
        groups.setdefault(key, []).append(n)
    ordered = sorted(groups)
    if not ordered:
        return Cut((), 0.0, 0)
    sequences = [np.frombuffer(key, dtype=">u4") for key in ordered]
    shared = np.array(
        [common_length(left, right) for left, right in pairwise([NO_IDS, *sequences])]
    )
    own = np.array([len(ids) for ids in sequences]) - shared
    beside = [sum(extra[n] for n in groups[key]) if extra else 0.0 for key in ordered]
    costs = own + np.array(beside)
    ends = np.cumsum(costs)
    borders = _borders(ends, shared, parts)
    shards = []
    for first, last in pairwise(borders):
        indices = [n for key in ordered[first:last] for n in groups[key]]
        cost = float(costs[first:last].sum() + shared[first])
        shards.append(Shard(tuple(indices), cost))
    return Cut(tuple(shards), float(ends[-1]), int(own.sum()))


def _borders(ends: NDArray[np.float64], shared: Ints, parts: int) -> list[int]:
    """Return where shards begin, and the number of groups: 0 = b[0] < b[1] < ... = len(ends).

    Each cut is the one with the shortest shared prefix near its ideal place.

    Args:
        ends: cost of all groups up to each one, it included, (G,).
        shared: tokens that each group shares with the one before it, (G,).
        parts: number of shards.
    """
    borders = [0]
    share = float(ends[-1]) / max(1, parts)
    for n in range(1, parts):
        ideal = n * share
        low = int(np.searchsorted(ends, ideal - _SLACK * share)) + 1
        high = int(np.searchsorted(ends, ideal + _SLACK * share)) + 1
        nearest = int(np.searchsorted(ends, ideal)) + 1
        low = max(low, borders[-1] + 1)
        high = min(max(high, low), len(ends) - 1)
        if low > high:
            continue
        places = np.arange(low, high + 1)
        order = np.lexsort((np.abs(places - nearest), shared[low : high + 1]))
        borders.append(int(places[order[0]]))
    return [*borders, len(ends)]


def cut_for_workers(
    paths: Sequence[Sequence[int]], workers: int, extra: Sequence[float] = ()
) -> Cut:
    """Cut requests into several shards per worker, as many as cost little.

    Many shards keep all workers busy to the end; each costs the prefix that it computes again.
    """
    for per_worker in _SHARDS_A_WORKER:
        cut = cut_shards(paths, per_worker * workers, extra)
        if cut.excess <= _EXCESS:
            return cut
    return cut
