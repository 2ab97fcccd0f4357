"""Ctrl-C and SIGTERM: the batch in flight is finished, all is kept, and a sentence says where."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from types import FrameType

from mistral_eval.errors import EndedEarlyError, StoppedError
from mistral_eval.record.replies import Replies

NOTED = "Stopping after the batch in flight; press Ctrl-C again to stop at once."
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_Handler = Callable[[int, FrameType | None], object]


class _Terminated(BaseException):
    """SIGTERM arrived: no `except Exception` on the way may swallow it."""


class Stopper:
    """Has the first signal wait where work is under way that would be lost.

    Args:
        say: told, from a thread of its own, that the signal was noted.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._noted: int | None = None

    def is_wanted(self) -> bool:
        """Whether a signal was noted: end after the batch in flight."""
        return self._noted is not None

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note the first signal in this block, which acts at its end; a second acts at once.

        Raises:
            EndedEarlyError: the block's, where no signal asked for it.
        """
        acts = _handlers()

        def note(number: int, frame: FrameType | None) -> None:
            del frame
            _install(acts)
            self._noted = number
            news.put(NOTED)  # a queue may be put to wherever the signal came

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
        """Pass on what the handler has to say: it must not write where it interrupted a write."""
        while (text := news.get()) is not None:
            self._say(text)


@contextmanager
def stoppable(folder: Path, say: Callable[[str], None]) -> Iterator[Stopper]:
    """End the block with one sentence when a signal says so: at once, save where it is deferred.

    The replies log is open inside the block, so its replies are durable when this counts them.

    Raises:
        StoppedError: Ctrl-C or SIGTERM.
    """
    is_main = threading.current_thread() is threading.main_thread()  # signals are heard there only
    earlier = signal.signal(signal.SIGTERM, _terminate) if is_main else None
    try:
        yield Stopper(say)
    except (KeyboardInterrupt, _Terminated) as stop:
        replies = Replies(folder)
        number = signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM
        raise StoppedError(
            f"Stopped by {number.name}. {replies.count()} replies are in {replies.folder}; the "
            "same command resumes from there.",
            number,
        ) from None
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, earlier)


def _handlers() -> dict[int, _Handler]:
    """What the signals do now; one that is ignored stays so, and other threads hear none."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    found = {number: signal.getsignal(number) for number in _SIGNALS}
    return {number: act for number, act in found.items() if callable(act)}


def _install(handlers: dict[int, _Handler]) -> None:
    for number, act in handlers.items():
        signal.signal(number, act)


def _terminate(number: int, frame: FrameType | None) -> None:
    del frame
    signal.signal(number, signal.SIG_IGN)  # once is enough: what follows is saving
    raise _Terminated
