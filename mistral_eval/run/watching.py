"""Progress of a run: requests answered, speed, time left; then questions judged and their scores.

There is no score while replies come in: they come in the order of the prefix tree, subject by
subject, so the questions answered first are no random sample and their score would mislead.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Self

from mistral_eval.console import Row, Talk
from mistral_eval.engines.interface import Engine, Kind, Reply, Request
from mistral_eval.native.requests import Counters
from mistral_eval.run.questions import LoadedBenchmark
from mistral_eval.stats import wilson

LABELS: Final[Mapping[Kind, str]] = {
    "score": "Scoring choices",
    "rolling": "Scoring texts",
    "generate": "Generating replies",
}
SPEED_SECONDS: Final = 30.0  # time left goes by the speed of so many seconds
CHARACTERS_PER_TOKEN: Final = 4  # turns a reply's limit into the characters of text engines


@dataclass(slots=True)
class AnswerRow(Row):
    """A benchmark's requests and what is known of the lengths of its replies.

    Attributes:
        limit: the longest a reply can be; 0 where requests only score.
        pending: distinct requests without a reply.
        replies: replies whose lengths were seen, those of an earlier process included.
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
        """Mean length of a reply: of those seen, or the limit before there is one."""
        return self.length / self.replies if self.replies else self.limit


@dataclass(slots=True)
class Work:
    """What a phase reads and writes, in tokens or characters, and how long the rest will take.

    Attributes:
        label: what is being done.
        rows: the benchmarks.
        unit: what is counted.
        read: input processed so far.
        to_read: all input to process; 0 until it is known.
        written: output so far, including that of replies still under way.
        clock: seconds.
        finished: output of the replies that have ended.
        fastest: most output a second of one reply, counted from the start of the phase, so a lower
            bound of the speed at which one reply grows.
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
    _seen: deque[tuple[float, float]] = field(init=False)  # (time, done) of the last seconds

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Measure speed from now on."""
        self.began = self.clock()
        self._seen = deque([(self.began, self.done)])

    @property
    def done(self) -> float:
        """Read and written so far."""
        return self.read() + self.written()

    def ended(self, length: int) -> None:
        """Count a reply of this length that was generated now."""
        self.finished += length
        self.fastest = max(self.fastest, length / max(self.clock() - self.began, 1e-9))

    def speed(self) -> float | None:
        """Return units a second over the last seconds in which anything was done."""
        seen, now, done = self._seen, self.clock(), self.done
        seen.append((now, done))
        while seen[1][0] <= now - SPEED_SECONDS and seen[1][1] < done:
            seen.popleft()
        began, before = seen[0]
        return (done - before) / (now - began) if done > before and now > began else None

    def left(self, speed: float) -> tuple[float, bool]:
        """Estimate the seconds left at this speed.

        Replies to come are taken to be as long as their benchmark's mean. The phase lasts at least
        as long as one unfinished reply may: it may grow to the longest length seen, or to the limit
        once the unfinished ones are longer than that.

        Returns:
            The seconds, and whether they rest on the limit and are an upper bound.
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
        """Return speed, time passed and time left, in words."""
        speed, passed = self.speed(), self.clock() - self.began
        parts = [] if speed is None else [f"{_number(speed)} {self.unit}/s"]
        parts.append(f"{_time(passed)} so far")
        if speed is not None and self.to_read() and any(row.pending for row in self.rows):
            seconds, is_bound = self.left(speed)
            parts.append(f"{'at most' if is_bound else 'about'} {_time(max(1, seconds))} left")
        return ", ".join(parts)


class AnswerWatch:
    """Show how the requests of one kind are answered.

    The display opens with `begin`, when it is known which requests have a reply already, and closes
    with the `with` block.
    """

    def __init__(
        self, kind: Kind, asked: Sequence[LoadedBenchmark], engine: Engine, talk: Talk
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
        self.work = self._work(kind)

    def __enter__(self) -> Self:
        """Make ready; `begin` opens the display."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the display."""
        self._display.close()

    def begin(
        self, keys: Sequence[bytes], requests: Sequence[Request], known: Mapping[bytes, Reply]
    ) -> None:
        """Take the requests, in order, equal ones under one key, and the replies there are."""
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
        """Count a reply that was computed; it is called for every reply, so it does little."""
        length = self._take(key, reply)
        if not self._counters:
            self._read += self._sizes[key]
            self._written += length
        if length:
            self.work.ended(length)

    def _take(self, key: bytes, reply: Reply) -> int:
        """Count a reply for everyone who asked, and return its length in the work's unit."""
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
        """Return the tokens drawn, EOS included, or the characters; 0 of a log-likelihood."""
        if self._counters and reply.finish:
            return len(reply.ids or ()) + (reply.finish == "eos")
        return len(reply.text)

    def _limit(self, request: Request) -> int:
        """Return the longest that the reply can be, in the work's unit; 0 for scoring."""
        limit = request.settings.max_tokens if request.settings else 0
        return limit if self._counters else limit * CHARACTERS_PER_TOKEN

    def _work(self, kind: Kind) -> Work:
        """Take tokens from the engine's counters; count characters of an engine without."""
        label, rows = LABELS[kind], tuple(self._rows.values())
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
    """A benchmark's questions, judged."""

    def advance(self, done: int, of: int) -> None:
        """Note how many of the benchmark's programs or comparisons are done."""
        self.done = self.total * done // of

    def end(self, correct: int) -> None:
        """Show the score, once all questions are judged."""
        self.done = self.total
        score = wilson(correct, self.total)
        self.note = f"{score.value:.1f} [{score.low:.1f}, {score.high:.1f}]"


class JudgeWatch:
    """Show how the benchmarks are judged, one after another.

    A benchmark's score appears when all its questions are judged: the programs that end first are
    not a random sample, since a wrong one may be quick to fail or run until its time limit. No time
    left is shown, since judging a program takes a thousand times as long as judging a choice.
    """

    label = "Judging"

    def __init__(self, loaded: Sequence[LoadedBenchmark]) -> None:
        self.rows = [JudgeRow(one.benchmark.column, len(one.questions)) for one in loaded]
        self._began = time.monotonic()

    def pace(self) -> str:
        """Return the time passed, in words."""
        return f"{_time(time.monotonic() - self._began)} so far"


def _since(stats: Counters, name: str) -> Callable[[], float]:
    """Return what one of the engine's counters has gained from now on."""
    before = getattr(stats, name)
    return lambda: getattr(stats, name) - before


def _number(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
