"""Write data to stdout, messages to stderr, and a live display only to a terminal."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Final, Protocol

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

LINE_SECONDS: Final = 60.0  # between two lines of progress in a log file
REFRESHES_PER_SECOND: Final = 2


@dataclass(slots=True)
class Row:
    """One row of a display: `done` of `total`, and a note, e.g. a score."""

    name: str
    total: int
    done: int = 0
    note: str = ""


class Phase(Protocol):
    """A phase of work to display; the display reads it from another thread."""

    label: str

    @property
    def rows(self) -> Sequence[Row]:
        """The current counts."""
        ...

    def pace(self) -> str:
        """Return speed, time passed and time left, e.g. "812 tokens/s, 0:01:15 so far"."""
        ...


class Talk:
    """Write a command's messages and progress to stderr; write nothing when `quiet`."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Write one line."""
        if not self.quiet:
            self.console.print(text, markup=False)

    def show(self, phase: Phase) -> AbstractContextManager[object]:
        """Display a phase while the `with` block runs.

        On a terminal, show bars and erase them at the end. Elsewhere write a line at the start, at
        the end and every `LINE_SECONDS`. Write nothing when quiet.
        """
        if self.quiet:
            return nullcontext()
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            return Bars(phase, self.console)
        return self._lines(phase)

    @contextmanager
    def _lines(self, phase: Phase) -> Iterator[None]:
        ended = threading.Event()

        def write() -> None:
            while not ended.wait(LINE_SECONDS):
                self.say(line(phase))

        self.say(line(phase))
        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.say(line(phase))


class Bars(Progress):
    """A bar for each row and a last line with the pace, read from the phase at each refresh."""

    def __init__(self, phase: Phase, console: Console) -> None:
        self._phase = phase
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(min(24, max(4, console.width - 60))),
            TextColumn("{task.completed:,}/{task.total:,}", justify="right"),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,
            redirect_stdout=False,  # only data is written to stdout
        )
        for row in phase.rows:
            self.add_task(row.name, total=row.total, note=row.note)

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the bars and the last line."""
        # strict=False: add_task() draws before every row has its task
        for task, row in zip(self.tasks, self._phase.rows, strict=False):
            self.update(task.id, completed=row.done, note=row.note)
        yield self.make_tasks_table(self.tasks)
        foot = f"{self._phase.label}: {self._phase.pace()}"
        yield Text(foot, no_wrap=True, overflow="ellipsis")


def line(phase: Phase) -> str:
    """Return the display as one line, for a log file."""
    rows = [f"{row.name} {row.done:,}/{row.total:,} {row.note}".rstrip() for row in phase.rows]
    return f"{phase.label}: {'; '.join(rows)}; {phase.pace()}"


def show(renderable: object) -> None:
    """Print text unchanged, or any other object with rich, on stdout."""
    if isinstance(renderable, str):
        Console(soft_wrap=True).out(renderable.rstrip("\n"), highlight=False)
    else:
        Console(highlight=False).print(renderable)


def counted(number: int, noun: str) -> str:
    """Format a count with its noun: 1 question, 2 questions, 1,024 replies."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def duration(seconds: float) -> str:
    """Format a time with its unit: 12 s, 3.5 min, 2.1 h, 4.0 days."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
