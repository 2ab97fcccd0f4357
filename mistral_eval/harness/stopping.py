"""Ctrl-C and SIGTERM: what was answered is kept, and a sentence says where."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from mistral_eval.errors import StoppedError
from mistral_eval.journal_file import count_noted
from mistral_eval.records import JOURNAL_FILE


class _Terminated(BaseException):
    """SIGTERM arrived: no `except Exception` on the way may swallow it."""


@contextmanager
def stoppable(folder: Path) -> Iterator[None]:
    """End the block with one sentence when a signal says so.

    The batch in flight is dropped; the journal, which the block holds, has flushed what came before
    by the time this speaks.

    Raises:
        StoppedError: Ctrl-C or SIGTERM.
    """
    is_main = threading.current_thread() is threading.main_thread()  # signals are heard there only
    earlier = signal.signal(signal.SIGTERM, _terminate) if is_main else None
    try:
        yield
    except (KeyboardInterrupt, _Terminated) as stop:
        number = signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM
        raise StoppedError(
            f"Stopped by {number.name}. {count_noted(folder / JOURNAL_FILE)} replies are in "
            f"{folder / JOURNAL_FILE}; the same command goes on from there.",
            number,
        ) from None
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, earlier)


def _terminate(number: int, frame: FrameType | None) -> None:
    del frame
    signal.signal(number, signal.SIG_IGN)  # once is enough: what follows is saving
    raise _Terminated
