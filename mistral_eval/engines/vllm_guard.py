"""End vLLM's processes when the process that started them is gone, however it ended.

vLLM computes in processes of its own. If the main process is killed they live on and keep their
memory. So the main process marks what it starts with an environment variable, and starts this
program beside it, which waits for the main process to end and then kills what bears the mark.
Source of environments: /proc/PID/environ, as it was when the program of that process started;
processes must be spawned, not forked, to have the mark there.

The module imports nothing but the standard library, since it is a program of its own.
"""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

MARK: Final = "MISTRAL_EVAL_VLLM"
PAUSE: Final = 0.5  # seconds between two looks
LOOKS: Final = 2  # that find nothing; a process may just be starting, and have no mark yet
PROC: Final = Path("/proc")
TRACKER: Final = b"multiprocessing.resource_tracker"


class Guard:
    """Has every process that is started while `marking` killed, at the latest with this process."""

    def __init__(self) -> None:
        self._mark = secrets.token_hex(16)
        program = [sys.executable, "-I", __file__, self._mark, str(os.getpid())]
        self._process = subprocess.Popen(  # noqa: S603 - this file
            program,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the terminal must not end it
        )

    @contextmanager
    def marking(self) -> Iterator[None]:
        """Mark every process that the `with` block starts."""
        os.environ[MARK] = self._mark
        try:
            yield
        finally:
            del os.environ[MARK]

    def end(self) -> None:
        """Kill the marked processes, and the guard."""
        self._process.kill()  # it bears no mark
        self._process.wait()
        end_marked(self._mark)


def end_marked(mark: str) -> int:
    """Kill every other process with the mark; return how many there were.

    Python's resource trackers stay: they end by themselves, and free the shared memory that the
    killed processes leave.
    """
    ended = 0
    for folder in PROC.glob("[0-9]*"):
        if int(folder.name) == os.getpid():
            continue
        with suppress(OSError):  # it has ended, or belongs to somebody else
            if f"{MARK}={mark}".encode() not in (folder / "environ").read_bytes().split(b"\0"):
                continue
            if TRACKER not in (folder / "cmdline").read_bytes():
                os.kill(int(folder.name), signal.SIGKILL)
                ended += 1
    return ended


def wait_and_end(mark: str, main: int) -> None:
    """Wait until `main`, this process's parent, has ended; then kill what bears the mark."""
    while os.getppid() == main:
        time.sleep(PAUSE)
    calm = 0
    while calm < LOOKS:
        calm = 0 if end_marked(mark) else calm + 1
        time.sleep(PAUSE)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends with the main process
    wait_and_end(sys.argv[1], int(sys.argv[2]))
