"""What a person sees: data on stdout, talk on stderr, a live display only on a terminal."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mistral_eval.progress import Snapshot, Standing

PLAIN_SECONDS: Final = 30.0  # how often a log file hears of progress
LOOKS_A_SECOND: Final = 2
BAR_WIDTH: Final = 24

Look = Callable[[], Snapshot]


class Talk:
    """The run's voice on stderr; silent when `quiet`."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """One line of information."""
        if not self.quiet:
            self.console.print(text, markup=False)

    def show(self, look: Look) -> AbstractContextManager[None]:
        """A display of work that goes on inside the block.

        Live on a terminal, gone at the end; elsewhere a line at the start and now and then; nothing
        when quiet.

        Args:
            look: how the work stands; called from another thread.
        """
        if self.quiet:
            return nullcontext()
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            return self._live(look)
        return self._lines(look)

    @contextmanager
    def _live(self, look: Look) -> Iterator[None]:
        live = Live(
            console=self.console,
            get_renderable=lambda: picture(look(), self.console.width),
            refresh_per_second=LOOKS_A_SECOND,
            transient=True,
            redirect_stdout=False,  # it belongs to the table
        )
        with live:
            yield

    @contextmanager
    def _lines(self, look: Look) -> Iterator[None]:
        ended = threading.Event()

        def tell() -> None:
            while not ended.wait(PLAIN_SECONDS):
                self.say(line(look()))

        self.say(line(look()))
        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def picture(now: Snapshot, width: int) -> Group:
    """A row for each benchmark, and a foot with speed and time, for a terminal of this width."""
    rows = Table.grid(padding=(0, 2, 0, 0))
    for justify in ("left", "left", "right", "left"):
        rows.add_column(justify=justify, no_wrap=True)
    for one in now.standings:
        bar = ProgressBar(one.total or 1, one.done, width=min(BAR_WIDTH, max(4, width - 60)))
        rows.add_row(one.column, bar, f"{one.done:,}/{one.total:,}", _score(one))
    foot = Text(f"{now.label}: {_speed(now)}", no_wrap=True, overflow="ellipsis")
    return Group(rows, foot)


def line(now: Snapshot) -> str:
    """The same on one line, for a log file."""
    parts = [
        " ".join(filter(None, (one.column, f"{one.done:,}/{one.total:,}", _score(one))))
        for one in now.standings
    ]
    return f"{now.label}: {'; '.join(parts)}; {_speed(now)}"


def _score(one: Standing) -> str:
    if one.score is None:
        return ""
    score = one.score
    return f"{score.value:.1f} [{score.low:.1f}, {score.high:.1f}] of {one.judged:,}"


def _speed(now: Snapshot) -> str:
    parts = [] if now.rate is None else [f"{_count(now.rate)} {now.unit}/s"]
    parts.append(f"{_time(now.elapsed)} so far")
    parts += [] if now.left is None else [f"{_time(now.left)} left"]
    return ", ".join(parts)


def _count(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def show(renderable: object) -> None:
    """Print one thing on stdout: text as it is, anything else through rich."""
    if isinstance(renderable, str):
        Console(soft_wrap=True).out(renderable.rstrip("\n"), highlight=False)
    else:
        Console(highlight=False).print(renderable)
