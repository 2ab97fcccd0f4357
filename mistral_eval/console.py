"""What a person sees: data on stdout, talk on stderr, a progress bar only on a terminal."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PLAIN_SECONDS = 30.0  # how often a log file hears of progress


class Talk:
    """The run's voice on stderr; silent when `quiet`."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """One line of information."""
        if not self.quiet:
            self.console.print(text, markup=False)

    def progress(self, label: str) -> "Steps":
        """A display for work that is counted."""
        return Steps(self, label)


class Steps:
    """Counts work: a bar on a terminal, a line now and then elsewhere, nothing when quiet."""

    def __init__(self, talk: Talk, label: str) -> None:
        self._talk = talk
        self._label = label
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._last = time.monotonic()
        if talk.console.is_terminal and not talk.quiet:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=talk.console,
                transient=True,
            )

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task(self._label, total=None)
        return self

    def update(self, done: int, total: int) -> None:
        """`done` of `total` are finished."""
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=done, total=total)
        elif time.monotonic() - self._last > PLAIN_SECONDS:
            self._talk.say(f"{self._label}: {done} of {total}")
            self._last = time.monotonic()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()


def show(renderable: object) -> None:
    """Print one thing on stdout: text as it is, anything else through rich."""
    if isinstance(renderable, str):
        Console(soft_wrap=True).out(renderable.rstrip("\n"), highlight=False)
    else:
        Console(highlight=False).print(renderable)
