"""Which requests a worker gets next, and what becomes of those of a worker that died."""

import heapq
import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from mistral_eval.native.shards import Shard

DEATHS: Final = 3  # of workers that had a request alone, before it is left out

Recut = Callable[[Sequence[int], int], Sequence[Shard]]


@dataclass(frozen=True, slots=True)
class Piece:
    """A shard that one worker answers.

    Attributes:
        number: unique among a scheduler's pieces.
        indices: the requests' places among all of the call.
        known: those of `indices` that have a reply.
    """

    number: int
    indices: tuple[int, ...]
    known: frozenset[int]


class Scheduler:
    """Deals shards out, the most expensive first, and takes those of dead workers back.

    What a dead worker has left unanswered is cut into pieces, and what is left of a piece whose
    worker dies too into single requests. So a request that kills workers is found: it is left out
    once `DEATHS` workers that had nothing else died over it. All others are answered. (A request
    that is merely there when machines go down is not blamed for it.)

    Args:
        shards: all requests, the known ones included.
        known: requests that have a reply.
        recut: cuts requests into at most so many shards.
    """

    def __init__(self, shards: Sequence[Shard], known: Collection[int], recut: Recut) -> None:
        self._known = set(known)
        self._recut = recut
        self._deaths = Counter[int]()  # of workers that had a request
        self._alone = Counter[int]()  # and nothing else
        self._waiting: list[tuple[float, int, Piece]] = []
        self._numbers = 0
        self.left_out: list[tuple[int, str]] = []
        for shard in shards:
            self._add(shard)

    @property
    def waiting(self) -> int:
        """Number of pieces that no worker has."""
        return len(self._waiting)

    def take(self) -> Piece | None:
        """Return the most expensive piece that waits; None if there is none."""
        return heapq.heappop(self._waiting)[2] if self._waiting else None

    def is_news(self, index: int) -> bool:
        """Note a request's reply; return False if it had one."""
        if index in self._known:
            return False
        self._known.add(index)
        return True

    def failed(self, index: int, why: str) -> None:
        """Note that a request cannot be answered."""
        if self.is_news(index):
            self.left_out.append((index, why))

    def lost(self, piece: Piece, why: str) -> None:
        """Take back the unanswered requests of a worker that died."""
        left = [index for index in piece.indices if index not in self._known]
        self._deaths.update(left)
        if len(left) == 1:
            self._alone.update(left)
            if self._alone[left[0]] >= DEATHS:
                said = f"{DEATHS} workers died while they had nothing else, the last one {why}"
                self.failed(left[0], said)
                return
        if left and max(self._deaths[index] for index in left) == 1:
            pieces = self._recut(left, math.isqrt(len(left)))
        else:
            pieces = [Shard((index,), 0.0) for index in left]
        for shard in pieces:
            self._add(shard)

    def _add(self, shard: Shard) -> None:
        known = frozenset(shard.indices) & self._known
        if len(known) < len(shard.indices):
            piece = Piece(self._numbers, shard.indices, known)
            heapq.heappush(self._waiting, (-shard.cost, piece.number, piece))
            self._numbers += 1
