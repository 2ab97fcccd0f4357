"""Stop on Ctrl-C or SIGTERM: finish the batch in flight, keep all replies, report where."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from types import FrameType

from mistral_eval.console import counted
from mistral_eval.errors import EndedEarlyError, StoppedError
from mistral_eval.record.replies import Replies

NOTED = "Stopping after the batch in flight; press Ctrl-C again to stop at once."
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_Handler = Callable[[int, FrameType | None], object]


class _Terminated(BaseException):
    """SIGTERM arrived; a BaseException, so that no `except Exception` catches it."""


class Stopper:
    """Defers the first signal while a batch is in flight, so that its work is not lost.

    Args:
        say: called in a separate thread to acknowledge the signal.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._noted: int | None = None

    def is_wanted(self) -> bool:
        """Return whether a signal has arrived, so that the engine stops after this batch."""
        return self._noted is not None

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Defer the first signal to the end of the `with` block; a second one acts at once.

        Raises:
            EndedEarlyError: the block raised it without a signal.
        """
        acts = _handlers()

        def note(number: int, frame: FrameType | None) -> None:
            del frame
            _install(acts)
            self._noted = number
            news.put(NOTED)  # SimpleQueue.put is reentrant, so a handler may call it

        news: SimpleQueue[str | None] = SimpleQueue()
        teller = threading.Thread(target=self._tell, args=(news,), daemon=True)
        teller.start()
        try:
            _install(dict.fromkeys(acts, note))
            yield
        except EndedEarlyError:
            if self._noted is None:
                raise
        finally:
            _install(acts)
            news.put(None)
            teller.join()
        if self._noted is not None:
            acts[self._noted](self._noted, None)

    def _tell(self, news: "SimpleQueue[str | None]") -> None:
        """Write the handler's messages; a handler must not write, as it may interrupt a write."""
        while (text := news.get()) is not None:
            self._say(text)


@contextmanager
def stoppable(folder: Path, say: Callable[[str], None]) -> Iterator[Stopper]:
    """Turn Ctrl-C and SIGTERM into a StoppedError that tells how to resume.

    The `with` block closes the replies log, so its replies are on disk before they are counted.

    Raises:
        StoppedError: Ctrl-C or SIGTERM.
    """
    is_main = threading.current_thread() is threading.main_thread()  # only it receives signals
    earlier = signal.signal(signal.SIGTERM, _terminate) if is_main else None
    try:
        yield Stopper(say)
    except (KeyboardInterrupt, _Terminated) as stop:
        replies = Replies(folder)
        number = signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM
        kept = replies.count()
        where = f"{counted(kept, 'reply')} {'is' if kept == 1 else 'are'} in {replies.folder}"
        raise StoppedError(
            f"Stopped by {number.name}. {where if kept else 'No reply was kept yet'}; the same "
            f"command {'resumes from there' if kept else 'starts again'}.",
            number,
        ) from None
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, earlier)


def _handlers() -> dict[int, _Handler]:
    """Return the signals' current handlers, without ignored ones; none outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    found = {number: signal.getsignal(number) for number in _SIGNALS}
    return {number: act for number, act in found.items() if callable(act)}


def _install(handlers: dict[int, _Handler]) -> None:
    for number, act in handlers.items():
        signal.signal(number, act)


def _terminate(number: int, frame: FrameType | None) -> None:
    del frame
    signal.signal(number, signal.SIG_IGN)  # a second one must not interrupt saving
    raise _Terminated
