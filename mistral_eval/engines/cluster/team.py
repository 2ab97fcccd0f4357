"""Drive the workers of a pool: deal jobs out, collect replies, replace workers that die."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Final

from mistral_eval.engines.cluster.scheduler import Piece, Scheduler
from mistral_eval.engines.cluster.worker_messages import (
    Answered,
    Checked,
    Died,
    Done,
    Event,
    Job,
    Opened,
    Pool,
    Question,
    Refused,
    Said,
)
from mistral_eval.engines.interface import Check, Reply, Request, Say, Stop
from mistral_eval.errors import EngineError, MistralEvalError, RequestError
from mistral_eval.native.requests import PEAKS, Counters
from mistral_eval.settings import RunSettings

POLL_SECONDS: Final = 0.2
OPENING_DEATHS: Final = 3  # of the first worker, before the run ends
OPENING_SECONDS: Final = 60.0  # of the first worker, before the user is told
FRUITLESS_DEATHS: Final = 3  # per seat, without any reply in between, before the run ends
# What the driver counts for all workers together.
_COUNTED_BY_DRIVER: Final = ("score_unique", "prompt_unique")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a busy worker may be silent before it counts as hanging.

    A worker speaks before each forward pass. It may be silent `factor` times as long as any worker
    has been so far, but at least `least` and at most `most` seconds.
    """

    factor: float = 10.0
    least: float = 60.0
    most: float = 1800.0

    def limit(self, longest: float) -> float:
        """Return the seconds, where `longest` is the longest silence so far; 0 before any."""
        return min(max(self.factor * longest, self.least), self.most) if longest else self.most


@dataclass(slots=True, eq=False)
class Seat:
    """One worker's place.

    Attributes:
        state: "empty" before a worker is started; "opening"; "idle"; "busy"; "refused" once its
            engine could not be opened, which ends it for good.
        piece: what the worker answers.
        dealer: the scheduler that the piece is from.
        heard: when its last event came, by time.monotonic().
        counted: what the worker has computed, as it last said.
    """

    state: str = "empty"
    piece: Piece | None = None
    dealer: Scheduler | None = None
    heard: float = 0.0
    counted: Counters = field(default_factory=Counters)


class Team:
    """The workers of a pool.

    Args:
        pool: starts workers and carries messages.
        settings: what each worker opens.
        say: receives messages.
        patience: when a silent worker counts as hanging.

    Attributes:
        counters: what all workers have computed, updated with each of their messages.
        replaced: number of workers that died and were replaced.
    """

    def __init__(
        self, pool: Pool, settings: RunSettings, say: Say, patience: Patience | None = None
    ) -> None:
        self.pool = pool
        self.counters = Counters()
        self.replaced = 0
        self._settings = settings
        self._say = say
        self._patience = patience or Patience()
        self._seats = [Seat() for _ in range(pool.size)]
        self._first: Opened | None = None
        self._longest = 0.0  # seconds between two events of a busy worker
        self._fruitless = 0  # deaths since the last reply
        self._checks: list[Check] = []

    def begin(self) -> Opened:
        """Start the first worker and return what its engine is.

        Raises:
            MistralEvalError: it cannot open its engine.
        """
        self._start(0)
        deaths = 0
        began: float | None = time.monotonic()
        while self._first is None:
            if began is not None and time.monotonic() - began > OPENING_SECONDS:
                began = None
                self._say(
                    f"No worker has opened its engine within {OPENING_SECONDS:.0f} seconds. It "
                    "still loads the model, or no core or GPU is free for it. Ctrl-C ends the wait."
                )
            for number, event in self.pool.poll(POLL_SECONDS):
                if isinstance(event, Died):
                    deaths += 1
                    if deaths == OPENING_DEATHS:
                        raise EngineError(
                            f"{deaths} workers died while they opened the engine, the last one "
                            f"{event.why}. Run the command without --workers to see the whole "
                            "error."
                        )
                    self._start(number)
                else:
                    list(self._handle(number, event))
        return self._first

    def answer(
        self, scheduler: Scheduler, requests: Sequence[Request], stop: Stop
    ) -> Iterator[tuple[int, Reply]]:
        """Answer a scheduler's requests; yield (index, reply) as they come.

        Raises:
            RequestError: one request cannot be answered.
            EngineError: no worker can go on.
        """
        self._stop_busy()  # a call that was given up
        stopping = False
        while True:
            if not stopping and stop():
                stopping = True
                self._stop_busy()
            if not stopping:
                self._deal(scheduler, requests)
            busy = any(seat.piece is not None for seat in self._seats)
            if not busy and (stopping or not scheduler.waiting):
                return
            for number, event in self._poll():
                yield from self._handle(number, event, scheduler)

    def check(self, request: Request, reply: Reply) -> Check:
        """Have a worker compare a reply with its engine's plain path.

        Raises:
            EngineError: no worker can.
        """
        asked: Seat | None = None
        while not self._checks:
            if asked not in self._seats:  # nobody was asked, or that worker has died
                asked = next((seat for seat in self._seats if seat.state == "idle"), None)
                if asked is None:
                    self._start_one()
                else:
                    asked.state, asked.heard = "busy", time.monotonic()
                    self.pool.give(self._seats.index(asked), Question(request, reply))
            for number, event in self._poll():
                list(self._handle(number, event))
        return self._checks.pop()

    def close(self) -> None:
        """End all workers."""
        self.pool.close()

    def _stop_busy(self) -> None:
        for number, seat in enumerate(self._seats):
            if seat.piece is not None:
                self.pool.stop(number)

    def _deal(self, scheduler: Scheduler, requests: Sequence[Request]) -> None:
        """Give every idle worker a piece, and start workers where pieces are left."""
        for number, seat in enumerate(self._seats):
            if seat.state == "idle" and (piece := scheduler.take()):
                self._give(number, piece, scheduler, requests)
        opening = sum(seat.state == "opening" for seat in self._seats)
        for _ in range(scheduler.waiting - opening):
            if not self._start_one():
                break

    def _give(
        self, number: int, piece: Piece, dealer: Scheduler, requests: Sequence[Request]
    ) -> None:
        seat = self._seats[number]
        known = frozenset(n for n, index in enumerate(piece.indices) if index in piece.known)
        asked = tuple(requests[index] for index in piece.indices)
        seat.state, seat.piece, seat.dealer, seat.heard = "busy", piece, dealer, time.monotonic()
        self.pool.give(number, Job(asked, known))

    def _start_one(self) -> bool:
        """Start a worker in an empty seat, if there is one.

        Raises:
            EngineError: every seat's engine was refused.
        """
        for number, seat in enumerate(self._seats):
            if seat.state == "empty":
                self._start(number)
                return True
        if all(seat.state == "refused" for seat in self._seats):
            raise EngineError(
                "No worker can open the engine any more; the sentences above say why. All replies "
                "are kept: run the same command again to resume."
            )
        return False

    def _start(self, number: int) -> None:
        self._seats[number] = Seat("opening", heard=time.monotonic())
        self.pool.start(number, self._settings)

    def _handle(
        self, number: int, event: Event, scheduler: Scheduler | None = None
    ) -> Iterator[tuple[int, Reply]]:
        """Act on one event; yield the replies that it brings to a scheduler's requests.

        Replies to requests of an earlier scheduler, whose call was given up, are dropped.
        """
        seat = self._seats[number]
        now = time.monotonic()
        if seat.piece is not None:
            self._longest = max(self._longest, now - seat.heard)
        seat.heard = now
        if isinstance(event, Opened):
            self._opened(number, event)
        elif isinstance(event, Said):
            if self._first is None:  # the others would say the same
                self._say(event.text)
        elif isinstance(event, Answered):
            yield from self._answered(seat, event, scheduler)
        elif isinstance(event, Done):
            self._done(seat, event)
        elif isinstance(event, Checked):
            seat.state = "idle"
            self._checks.append(event.check)
        elif isinstance(event, Refused):
            self._refused(number, event)
        elif isinstance(event, Died):
            self._lost(number, event.why)

    def _opened(self, number: int, event: Opened) -> None:
        """Admit a worker whose engine gives the same replies as the first one's.

        Raises:
            EngineError: a worker's engine is another one.
        """
        first = self._first
        if first is None:
            self._first = first = event
            chosen = {"choices": dict(event.choices), "engine": event.identity.engine}
            self._settings = self._settings.model_copy(update=chosen)
        if event.identity.fingerprint != first.identity.fingerprint:
            raise EngineError(
                f"The worker on {event.place} has opened another engine than the one on "
                f"{first.place}: expected {first.identity.fingerprint}, found "
                f"{event.identity.fingerprint}. Give all machines the same files and packages."
            )
        self._seats[number].state = "idle"

    def _answered(
        self, seat: Seat, event: Answered, scheduler: Scheduler | None
    ) -> Iterator[tuple[int, Reply]]:
        if event.counters is not None:
            self._count(seat, event.counters)
        piece = seat.piece
        if piece is None or scheduler is None or seat.dealer is not scheduler:
            return
        for position, reply in event.replies:
            index = piece.indices[position]
            if scheduler.is_news(index):
                self._fruitless = 0
                yield index, reply

    def _done(self, seat: Seat, event: Done) -> None:
        piece, dealer = seat.piece, seat.dealer
        seat.state, seat.piece, seat.dealer = "idle", None, None
        if piece is not None and dealer is not None:
            for position, why in event.failures:
                dealer.failed(piece.indices[position], why)

    def _refused(self, number: int, event: Refused) -> None:
        """Raise a worker's error, unless it is one of several that cannot open their engine.

        Raises:
            MistralEvalError: the error.
        """
        seat = self._seats[number]
        if seat.state == "opening" and self._first is not None:
            seat.state = "refused"
            rest = sum(one.state != "refused" for one in self._seats)
            self._say(f"Worker {number + 1} is left out: {event.what} Workers left: {rest}.")
            return
        if event.index is not None and seat.piece is not None:
            raise RequestError("worker's", seat.piece.indices[event.index], event.what)
        error: MistralEvalError = event.error(event.what)
        raise error

    def _lost(self, number: int, why: str) -> None:
        """Empty the seat of a worker that died, and put its unanswered requests back.

        Raises:
            EngineError: workers die again and again without any reply in between.
        """
        seat = self._seats[number]
        if seat.state == "refused":
            return
        if seat.piece is not None and seat.dealer is not None:
            seat.dealer.lost(seat.piece, why)
        self._seats[number] = Seat()
        self.replaced += 1
        self._fruitless += 1
        if self._fruitless > FRUITLESS_DEATHS * len(self._seats) + FRUITLESS_DEATHS:
            raise EngineError(
                f"{self._fruitless} workers have died one after the other without any reply, the "
                f"last one {why}. All replies are kept: run the same command again to resume, with "
                "fewer --workers if memory is short."
            )
        self._say(f"Worker {number + 1} died {why}; another one takes its place.")

    def _poll(self) -> list[tuple[int, Event]]:
        """Return what workers have said, after replacing those that hang.

        The driver itself may have been held up, e.g. by a slow disk: a worker whose words were
        waiting meanwhile was not silent.
        """
        events = self.pool.poll(POLL_SECONDS)
        heard = {number for number, _ in events}
        limit, now = self._patience.limit(self._longest), time.monotonic()
        for number, seat in enumerate(self._seats):
            if seat.state == "busy" and number not in heard and now - seat.heard > limit:
                self.pool.kill(number)
                self._lost(number, f"after {now - seat.heard:.0f} seconds of silence")
        return events

    def _count(self, seat: Seat, now: Counters) -> None:
        """Add what a worker has computed since it last said."""
        for one in fields(Counters):
            name = one.name
            before, after = getattr(seat.counted, name), getattr(now, name)
            ours = getattr(self.counters, name)
            if name in PEAKS:
                setattr(self.counters, name, max(ours, after))
            elif name not in _COUNTED_BY_DRIVER:
                setattr(self.counters, name, ours + after - before)
        seat.counted = now
