"""Cut a run's requests into shards of balanced cost that lose little of what requests share.

Requests are sorted by their token ids, so that a shard is a run of neighbours in the prefix tree. A
cut costs the prefix that both its neighbours share, which the second shard computes again: cuts are
made where that is short.
"""

import heapq
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


class Cutter:
    """Requests sorted by their paths, ready to be cut.

    Args:
        paths: the token ids that each request feeds before it generates, or any other ids that are
            equal where work is shared.
        extra: cost of each request beside its path, in tokens; none if empty.
    """

    def __init__(self, paths: Sequence[Sequence[int]], extra: Sequence[float] = ()) -> None:
        groups: dict[bytes, list[int]] = {}
        path, key = None, b""  # neighbours often share one tuple
        for n, ids in enumerate(paths):
            if ids is not path:
                path, key = ids, sortable(ids)
            groups.setdefault(key, []).append(n)
        ordered = sorted(groups)
        self._groups = [groups[key] for key in ordered]
        sequences = [np.frombuffer(key, dtype=">u4") for key in ordered]
        shared = [common_length(left, right) for left, right in pairwise([NO_IDS, *sequences])]
        self._shared = np.array(shared, dtype=np.int64)
        own = np.array([len(ids) for ids in sequences], dtype=np.int64) - self._shared
        self._unique = int(own.sum())
        if extra:
            beside = [sum(extra[n] for n in group) for group in self._groups]
            self._ends = np.cumsum(own + np.array(beside))
        else:
            self._ends = np.cumsum(own.astype(np.float64))

    @property
    def cost(self) -> float:
        """The cost of all requests in one shard."""
        return float(self._ends[-1]) if self._groups else 0.0

    def cut(self, parts: int) -> Cut:
        """Cut into at most `parts` shards of about equal cost.

        Requests with equal paths, as the samples of one question, stay in one shard. There are
        fewer shards if there are fewer distinct paths.
        """
        if not self._groups:
            return Cut((), 0.0, 0)
        shards = []
        for first, last in pairwise(_borders(self._ends, self._shared, parts)):
            indices = [n for group in self._groups[first:last] for n in group]
            before = self._ends[first - 1] if first else 0.0
            cost = float(self._ends[last - 1] - before + self._shared[first])
            shards.append(Shard(tuple(indices), cost))
        return Cut(tuple(shards), self.cost, self._unique)


def cut_shards(paths: Sequence[Sequence[int]], parts: int, extra: Sequence[float] = ()) -> Cut:
    """Cut requests into at most `parts` shards of about equal cost; see `Cutter`."""
    return Cutter(paths, extra).cut(parts)


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


@dataclass(frozen=True, slots=True)
class Fewest:
    """What a shard should have on average, where that leaves one for each worker.

    Attributes:
        requests: number of requests.
        cost: cost in tokens of a prompt.
    """

    requests: int = 1
    cost: float = 0.0


def cut_for_workers(
    paths: Sequence[Sequence[int]],
    workers: int,
    extra: Sequence[float] = (),
    fewest: Fewest = Fewest(),
) -> Cut:
    """Cut requests into several shards per worker, as many as cost little.

    Many shards keep all workers busy to the end; each costs the prefix that it computes again.

    Args:
        paths: the token ids that each request feeds (see `Cutter`).
        workers: number of workers.
        extra: cost of each request beside its path, in tokens.
        fewest: what a shard should have.
    """
    cutter = Cutter(paths, extra)
    for per_worker in _SHARDS_A_WORKER:
        parts = per_worker * workers
        is_small = parts * fewest.requests > len(paths) or parts * fewest.cost > cutter.cost
        if per_worker > 1 and is_small:
            continue
        cut = cutter.cut(parts)
        if cut.excess <= _EXCESS:
            return cut
    return cut


def makespan(shards: Sequence[Shard], workers: int) -> float:
    """Return the cost of the busiest worker, if each takes the largest shard left when idle."""
    busy = [0.0] * workers
    for shard in sorted(shards, key=lambda shard: -shard.cost):
        heapq.heapreplace(busy, busy[0] + shard.cost)
    return max(busy)
