"""How far long work is: counts by benchmark, the score of what is complete, the time left.

Arithmetic only; `console` shows it. Time left goes by tokens, not by requests: a request costs what
it has to read that nobody has read yet, and what it will write.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mistral_eval.errors import MistralEvalError
from mistral_eval.stats import Interval, wilson

Clock = Callable[[], float]
Judge = Callable[[int, Sequence[Any]], bool]  # (question, its replies) to: is it right?

PAUSE: Final = 0.25  # seconds between two rounds of judging
SHARE: Final = 0.02  # of the time, at most, that judging on the way may take


@dataclass(frozen=True, slots=True)
class Standing:
    """One benchmark's row: requests done of all, and the score (percent) of `judged` questions."""

    column: str
    done: int
    total: int
    judged: int
    score: Interval | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a display shows: seconds gone and left, `unit`s a second; None where nobody knows."""

    label: str
    standings: tuple[Standing, ...]
    elapsed: float
    unit: str
    rate: float | None
    left: float | None


class Board:
    """One benchmark's requests in a phase of the work.

    Attributes:
        column: the benchmark's name in the table.
        total: its requests.
        limit: most that a reply can be long; 0 where nothing is written.
        done: requests that have a reply.
        pending: requests still to be computed, equal ones once.
        replies: replies whose length is known.
        length: these replies' lengths, added up.
        judged: questions with a verdict.
        correct: those that are right.
    """

    def __init__(
        self, column: str, sizes: Sequence[int], judge: Judge | None = None, limit: float = 0
    ) -> None:
        """`sizes` are the requests of each question; without `judge` it keeps no score itself."""
        self.column = column
        self.total = sum(sizes)
        self.limit = limit
        self.done = self.pending = self.replies = self.judged = self.correct = 0
        self.length = 0.0
        self._judge = judge
        self._missing = list(sizes)
        self._answers: list[list[Any]] = [[None] * size for size in sizes] if judge else []
        self._complete: deque[int] = deque()

    def take(self, question: int, place: int, answer: object) -> None:
        """Keep the answer to one request of a question."""
        self.done += 1
        if self._judge is None:
            return
        self._answers[question][place] = answer
        self._missing[question] -= 1
        if not self._missing[question]:
            self._complete.append(question)

    def note_length(self, length: float) -> None:
        """A reply was this long."""
        self.replies += 1
        self.length += length

    def judge(self, has_time: Callable[[], bool]) -> None:
        """Judge questions that are complete, in the order they came, while there is time.

        A reply that cannot be judged ends this score, and not the run: what to say about it is the
        business of judging proper.
        """
        while self._judge and self._complete and has_time():
            question = self._complete.popleft()
            answers, self._answers[question] = self._answers[question], []
            try:
                self.correct += self._judge(question, answers)
                self.judged += 1
            except MistralEvalError:
                self._judge = None
                self.judged = self.correct = 0

    @property
    def to_write(self) -> float:
        """What its pending replies will probably write: as long as those so far, on average."""
        mean = self.length / self.replies if self.replies else self.limit
        return self.pending * min(mean, self.limit)

    @property
    def standing(self) -> Standing:
        """Its row."""
        correct, judged = self.correct, self.judged
        score = wilson(min(correct, judged), judged) if judged else None
        return Standing(self.column, self.done, self.total, judged, score)


@dataclass(slots=True)
class Work:
    """How much a phase has read and written, and has to read.

    Attributes:
        unit: what is counted, e.g. "tokens".
        read: input computed so far.
        to_read: all input, 0 while nobody knows; it may grow.
        written: output made so far, that of unfinished replies included.
        finished: output of the replies that were finished in this phase.
    """

    unit: str
    read: Callable[[], float]
    to_read: Callable[[], float]
    written: Callable[[], float] = lambda: 0.0
    finished: float = 0.0

    def done(self) -> float:
        """Read and written."""
        return self.read() + self.written()

    def left(self, boards: Sequence[Board]) -> float | None:
        """Still to be read and written; None while the input has not been counted."""
        to_read = self.to_read()
        if not to_read:
            return None
        under_way = self.written() - self.finished
        to_write = sum(board.to_write for board in boards)
        return max(0.0, to_read - self.read()) + max(0.0, to_write - under_way)


@dataclass(slots=True)
class Phase:
    """Work that a display can look at, from another thread too: it reads counters alone.

    Attributes:
        label: what is being done.
        boards: the benchmarks.
        work: what it costs.
        clock: seconds.
    """

    label: str
    boards: Sequence[Board]
    work: Work
    clock: Clock = time.monotonic
    _began: float = field(init=False)
    _started: float = field(init=False)
    _judged: float = field(init=False)

    def __post_init__(self) -> None:
        self._began = self._started = self._judged = self.clock()

    def start(self) -> None:
        """Preparation is over: speed is measured from here."""
        self._started = self.clock()

    def judge_some(self) -> None:
        """Judge what is complete, now and then and for a small share of the time; cheap to call."""
        now = self.clock()
        passed = now - self._judged
        if passed < PAUSE:
            return
        self._judged = now
        until = now + passed * SHARE
        for board in self.boards:
            board.judge(lambda: self.clock() < until)

    def snapshot(self) -> Snapshot:
        """How it stands now."""
        now = self.clock()
        done, left = self.work.done(), self.work.left(self.boards)
        rate = done / (now - self._started) if done and now > self._started else None
        return Snapshot(
            self.label,
            tuple(board.standing for board in self.boards),
            now - self._began,
            self.work.unit,
            rate,
            left / rate if rate and left is not None else None,
        )
