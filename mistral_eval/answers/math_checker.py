"""Compare many pairs of answers in worker processes that are killed at their limits.

The workers are plain subprocesses with pipes, which is safe beside CUDA and threads. They end when
the checker is closed, on Ctrl-C, and, because their input ends, when this process is killed.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from mistral_eval.answers.latex.boxed import Equality
from mistral_eval.answers.math_worker import OUT_OF_MEMORY, READY
from mistral_eval.errors import MistralEvalError

START_SECONDS = 120.0
WALL_FACTOR = 10  # wall time per CPU limit: catches a worker that does not run at all
MAX_WORKERS = 16

Pair = tuple[str, str]


class _Worker:
    """One worker process. It compares one pair at a time once it is `ready`."""

    def __init__(self, limit_seconds: float, memory_bytes: int) -> None:
        self._limit = limit_seconds
        import_path = [str(Path(entry).resolve()) for entry in sys.path]
        call = (
            f"import sys; sys.path[:] = {import_path!r}; "
            "from mistral_eval.answers.math_worker import main; "
            f"sys.exit(main({limit_seconds!r}, {memory_bytes!r}))"
        )
        self._process = subprocess.Popen(  # noqa: S603  our own interpreter and module
            [sys.executable, "-P", "-c", call],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            start_new_session=True,  # Ctrl-C goes to this process, which then closes the worker
        )
        self._line = b""
        self.ready = False
        self.pair: Pair | None = None
        self.deadline = time.monotonic() + START_SECONDS

    def fileno(self) -> int:
        """Return the file descriptor of the worker's results, for the selector."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def feed(self, todo: deque[Pair]) -> None:
        """Send the worker the next pair if it is ready and idle."""
        if not (self.ready and self.pair is None and todo):
            return
        assert self._process.stdin is not None
        self.pair = todo.popleft()
        self.deadline = time.monotonic() + WALL_FACTOR * self._limit
        with suppress(BrokenPipeError):  # it died; the end of its output is handled on reading
            self._process.stdin.write(json.dumps(self.pair).encode() + b"\n")
            self._process.stdin.flush()

    def receive(self) -> str | None:
        """Return the line received: "" for an unfinished one, None if the worker died."""
        piece = os.read(self.fileno(), 4096)
        if not piece:
            return None
        self._line += piece
        if not self._line.endswith(b"\n"):
            return ""
        line, self._line = self._line.decode().strip(), b""
        return line

    def close(self, *, kill: bool) -> int:
        """End the process and return its exit status."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if kill:
            self._process.kill()
        with suppress(BrokenPipeError):  # it died with a pair unread
            self._process.stdin.close()
        try:
            status = self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._process.stdout.close()
        return status


class MathChecker:
    """Compare formulas in killable processes; a context manager.

    Args:
        workers: Number of processes; None means one per core available to this process.
        limit_seconds: CPU time of one comparison; beyond it the result is `timeout`.
        memory_bytes: Address space of a worker; beyond it the result is `timeout` as well.

    Raises:
        MistralEvalError: On entering, if the workers cannot start (for example without sympy).
    """

    def __init__(
        self,
        workers: int | None = None,
        limit_seconds: float = 2.0,
        memory_bytes: int = 1 << 30,
    ) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        self._count = max(1, min(workers or cores, MAX_WORKERS))
        self._limits = (limit_seconds, memory_bytes)
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        try:
            self._workers.extend(_Worker(*self._limits) for _ in range(self._count))
            self.equal_many([("1", "2")])
        except BaseException:
            self._close(kill=True)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close(kill=kind is not None)

    def equal_many(
        self,
        pairs: Sequence[Pair],
        on_done: Callable[[int, int], None] | None = None,
    ) -> list[Equality]:
        """Compare pairs of answers and return the results in the same order.

        Equal strings need no worker and repeated pairs are compared once. A comparison that is
        killed costs only its own worker, which is replaced.

        Args:
            pairs: (gold, answer) as LaTeX; between two answers, see `latex.boxed.equal`.
            on_done: Called with (comparisons done, comparisons in all), for a progress bar.
        """
        assert self._workers, "MathChecker must be entered as a context manager"
        results = {(a, b): Equality.EQUAL for a, b in pairs if a == b}
        todo = deque(dict.fromkeys(pair for pair in pairs if pair not in results))
        known, total = len(results), len(results) + len(todo)
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker, selectors.EVENT_READ)
                worker.feed(todo)
            while len(results) < total:
                heard, late = self._wait(selector)
                for worker in heard:
                    self._receive(worker, selector, results).feed(todo)
                for worker in late:
                    self._replace(worker, selector, results, late=True).feed(todo)
                if on_done:
                    on_done(len(results) - known, total - known)
        return [results[pair] for pair in pairs]

    def _wait(self, selector: selectors.BaseSelector) -> tuple[list[_Worker], list[_Worker]]:
        """Wait; return the workers with output (or at its end) and those past their deadline."""
        waiting = [worker for worker in self._workers if worker.pair or not worker.ready]
        rest = min(worker.deadline for worker in waiting) - time.monotonic()
        fds = {key.fd for key, _ in selector.select(max(0.0, rest))}
        now = time.monotonic()
        heard = [worker for worker in self._workers if worker.fileno() in fds]
        return heard, [w for w in waiting if w.deadline < now and w not in heard]

    def _receive(
        self, worker: _Worker, selector: selectors.BaseSelector, results: dict[Pair, Equality]
    ) -> _Worker:
        """Handle a worker's output, or replace a dead worker; return the one to feed."""
        line = worker.receive()
        if line is None:
            return self._replace(worker, selector, results, late=False)
        if line.startswith("missing"):
            raise MistralEvalError(
                f"Expected sympy, which formulas are compared with, in {sys.executable}; "
                f"found: {line}. "
                "Install it there: pip install sympy"
            )
        if line == READY:
            worker.ready = True
        elif line and worker.pair:
            results[worker.pair] = Equality(line)
            worker.pair = None
        return worker

    def _replace(
        self,
        worker: _Worker,
        selector: selectors.BaseSelector,
        results: dict[Pair, Equality],
        *,
        late: bool,
    ) -> _Worker:
        """Replace a worker that died or is past its deadline; record its pair's result."""
        selector.unregister(worker)
        status = worker.close(kill=late)
        if not worker.ready:
            raise MistralEvalError(
                f"Expected a process that compares formulas to be ready within "
                f"{START_SECONDS:.0f} s, found that it ended with status {status}. "
                "Check the memory limit and the installation."
            )
        if worker.pair:
            stopped = late or status in {OUT_OF_MEMORY, -signal.SIGPROF}
            results[worker.pair] = Equality.TIMEOUT if stopped else Equality.FAILED
        fresh = _Worker(*self._limits)
        self._workers[self._workers.index(worker)] = fresh
        selector.register(fresh, selectors.EVENT_READ)
        return fresh

    def _close(self, *, kill: bool) -> None:
        while self._workers:
            self._workers.pop().close(kill=kill)
