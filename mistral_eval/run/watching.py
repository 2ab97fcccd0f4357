"""Display a run's progress: requests answered, speed, time left; then scores as it judges.

No score is shown while requests are answered. Replies arrive in the order of the prefix tree,
subject by subject, so the first ones are not a random sample and their score would mislead.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Self

from mistral_eval.console import Row, Talk
from mistral_eval.engines.interface import Engine, Kind, Reply, Request
from mistral_eval.native.requests import Counters
from mistral_eval.record.run_record import Cell
from mistral_eval.run.questions import LoadedBenchmark

LABELS: Final[Mapping[Kind, str]] = {
    "score": "Scoring choices",
    "rolling": "Scoring texts",
    "generate": "Generating replies",
}
SPEED_SECONDS: Final = 30.0  # window over which speed is measured
CHARACTERS_PER_TOKEN: Final = 4  # converts max_tokens for engines that return text


@dataclass(slots=True)
class AnswerRow(Row):
    """A benchmark's requests and the lengths of its replies, in the unit of `Work`.

    Attributes:
        limit: the largest possible length of a reply; 0 if requests only score.
        pending: distinct requests without a reply.
        replies: replies received, including those of an earlier process.
        length: sum of these lengths.
        longest: largest of these lengths.
    """

    limit: int = 0
    pending: int = 0
    replies: int = 0
    length: int = 0
    longest: int = 0

    @property
    def mean(self) -> float:
        """The mean length of a reply, or the limit before the first reply."""
        return self.length / self.replies if self.replies else self.limit


@dataclass(slots=True)
class Work:
    """A phase's input and output, in tokens or characters, and its estimated time left.

    Attributes:
        label: the phase's name, as displayed.
        rows: the benchmarks.
        unit: "tokens" or "characters".
        read: input processed so far.
        to_read: all input to process; 0 until it is known.
        written: output so far, including unfinished replies.
        clock: a clock in seconds.
        finished: output of the finished replies.
        fastest: the highest speed of one reply, in units per second since the start of the phase:
            a lower bound of the speed at which one reply grows.
    """

    label: str
    rows: Sequence[AnswerRow]
    unit: str
    read: Callable[[], float]
    to_read: Callable[[], float]
    written: Callable[[], float] = lambda: 0.0
    clock: Callable[[], float] = time.monotonic
    finished: int = field(default=0, init=False)
    fastest: float = field(default=0.0, init=False)
    began: float = field(init=False)
    _seen: deque[tuple[float, float]] = field(init=False)  # (time, done) in the window

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Measure speed from now on."""
        self.began = self.clock()
        self._seen = deque([(self.began, self.done)])

    @property
    def done(self) -> float:
        """Input and output so far."""
        return self.read() + self.written()

    def ended(self, length: int) -> None:
        """Count a reply of this length that has just been generated."""
        self.finished += length
        self.fastest = max(self.fastest, length / max(self.clock() - self.began, 1e-9))

    def speed(self) -> float | None:
        """Return units per second over the latest window with progress; None before any."""
        seen, now, done = self._seen, self.clock(), self.done
        seen.append((now, done))
        while seen[1][0] <= now - SPEED_SECONDS and seen[1][1] < done:
            seen.popleft()
        began, before = seen[0]
        return (done - before) / (now - began) if done > before and now > began else None

    def left(self, speed: float) -> tuple[float, bool]:
        """Estimate the seconds left at this speed, in units per second.

        Pending replies are assumed to have their benchmark's mean length. The phase cannot end
        before its longest unfinished reply: that one is assumed to grow to the longest length seen,
        or to the limit once unfinished replies are longer than that.

        Returns:
            The seconds, and whether they assume the limit and are therefore an upper bound.
        """
        pending = sum(row.pending for row in self.rows)
        under_way = self.written() - self.finished
        to_write = sum(row.pending * row.mean for row in self.rows) - under_way
        seconds = (max(0.0, self.to_read() - self.read()) + max(0.0, to_write)) / speed
        is_bound = any(row.pending and row.limit and not row.replies for row in self.rows)
        if not pending:
            return seconds, False
        age = under_way / pending  # of a typical unfinished reply
        for row in self.rows:
            if row.pending:
                growing = row.longest > age
                reach = (row.longest if growing else row.limit) - age
                one = reach / max(self.fastest, speed / pending)
                if one > seconds:
                    seconds, is_bound = one, not growing
        return seconds, is_bound

    def pace(self) -> str:
        """Return speed, time passed and time left as text."""
        speed, passed = self.speed(), self.clock() - self.began
        parts = [] if speed is None else [f"{_number(speed)} {self.unit}/s"]
        parts.append(f"{_time(passed)} so far")
        if speed is not None and self.to_read() and any(row.pending for row in self.rows):
            seconds, is_bound = self.left(speed)
            parts.append(f"{'at most' if is_bound else 'about'} {_time(max(1, seconds))} left")
        return ", ".join(parts)


class AnswerWatch:
    """Display progress while requests of one kind are answered.

    `begin` opens the display, once the logged replies are known. The end of the `with` block closes
    it. The time left is that of this turn; the next turn of a conversation has its own display.
    """

    def __init__(
        self,
        kind: Kind,
        asked: Sequence[LoadedBenchmark],
        engine: Engine,
        talk: Talk,
        turn: int = 1,
    ) -> None:
        self._rows = {
            one.benchmark.id: AnswerRow(one.benchmark.column, len(one.requests)) for one in asked
        }
        self._talk = talk
        self._display = ExitStack()
        self._counters = engine.counters
        self._askers: dict[bytes, list[AnswerRow]] = {}  # equal requests have one key
        self._sizes: dict[bytes, int] = {}  # characters to read, for text engines
        self._read = self._to_read = self._written = 0
        label = LABELS[kind] if turn == 1 else f"{LABELS[kind]}, turn {turn}"
        self.work = self._work(kind, label)

    def __enter__(self) -> Self:
        """Return the watch; `begin` opens the display."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the display."""
        self._display.close()

    def begin(
        self, keys: Sequence[bytes], requests: Sequence[Request], known: Mapping[bytes, Reply]
    ) -> None:
        """Open the display for `requests` with their `keys`; count the replies in `known`."""
        asked = Counter(request.benchmark for request in requests)
        for name, row in self._rows.items():  # a part of a run has some of the requests
            row.total = asked[name]
        for key, request in zip(keys, requests, strict=True):
            row = self._rows[request.benchmark]
            if key not in self._askers:
                self._askers[key] = []
                row.limit = row.limit or self._limit(request)
                row.pending += 1
                if key not in known and not self._counters:
                    self._sizes[key] = len(request.context) + len(request.continuation)
            self._askers[key].append(row)
        self._to_read = sum(self._sizes.values())
        for key in self._askers.keys() & known.keys():
            self._take(key, known[key])
        self.work.start()
        self._display.enter_context(self._talk.show(self.work))

    def reply(self, key: bytes, reply: Reply) -> None:
        """Count a computed reply. This runs once per reply, so it must be fast."""
        length = self._take(key, reply)
        if not self._counters:
            self._read += self._sizes[key]
            self._written += length
        if length:
            self.work.ended(length)

    def _take(self, key: bytes, reply: Reply) -> int:
        """Count a reply for every request with this key; return its length in the work's unit."""
        askers = self._askers[key]
        for row in askers:
            row.done += 1
        first, length = askers[0], self._length(reply)
        first.pending -= 1
        first.replies += 1
        first.length += length
        first.longest = max(first.longest, length)
        return length

    def _length(self, reply: Reply) -> int:
        """Return the length in tokens (with EOS) or characters; 0 for a log-likelihood."""
        if self._counters and reply.finish:
            return len(reply.ids or ()) + (reply.finish == "eos")
        return len(reply.text)

    def _limit(self, request: Request) -> int:
        """Return the largest possible length of the reply, in the work's unit; 0 for scoring."""
        limit = request.settings.max_tokens if request.settings else 0
        return limit if self._counters else limit * CHARACTERS_PER_TOKEN

    def _work(self, kind: Kind, label: str) -> Work:
        """Return the work in tokens, or in characters if the engine has no counters."""
        rows = tuple(self._rows.values())
        if self._counters is None:
            return Work(
                label,
                rows,
                "characters",
                lambda: self._read,
                lambda: self._to_read,
                lambda: self._written,
            )
        names = ("prompt_computed", "prompt_unique", "generated")
        counters = names if kind == "generate" else ("score_computed", "score_unique")
        return Work(label, rows, "tokens", *(_since(self._counters, name) for name in counters))


class JudgeRow(Row):
    """A benchmark's row in the display of judging."""

    def advance(self, done: int, of: int) -> None:
        """Show the share of the benchmark's programs or comparisons that is done."""
        self.done = self.total * done // of

    def end(self, cell: Cell) -> None:
        """Show the score after all questions are judged."""
        self.done = self.total
        score = f"{cell.value:.1f} [{cell.low:.1f}, {cell.high:.1f}]"
        self.note = score if cell.n else "no answer could be judged"


class JudgeWatch:
    """Display progress while the benchmarks are judged, one after another.

    A benchmark's score appears only after all its questions are judged. The first programs to end
    are not a random sample, since a wrong one may fail quickly or run until its time limit. No time
    left is shown, since judging a program takes a thousand times as long as judging a choice.
    """

    label = "Judging"

    def __init__(self, loaded: Sequence[LoadedBenchmark]) -> None:
        self.rows = [JudgeRow(one.benchmark.column, len(one.questions)) for one in loaded]
        self._began = time.monotonic()

    def pace(self) -> str:
        """Return the time passed as text."""
        return f"{_time(time.monotonic() - self._began)} so far"


def _since(stats: Counters, name: str) -> Callable[[], float]:
    """Return a function that gives the increase of a counter since this call."""
    before = getattr(stats, name)
    return lambda: getattr(stats, name) - before


def _number(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
