"""Compares many pairs of answers in worker processes that are killed at their limits.

Plain subprocesses with pipes: safe beside CUDA and threads, and gone when the checker is closed,
when Ctrl-C comes, and, because their input ends, when this process is killed.
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
WALL_FACTOR = 10  # the worker's own limit is processor time; this is for one that does not run
MAX_WORKERS = 16

Pair = tuple[str, str]


def _import_path() -> list[str]:
    """Return this process's import path, so that a worker imports what this process would."""
    return [str(Path(entry).resolve()) for entry in sys.path]


class _Worker:
    """One child process: started, then ready, then comparing one pair at a time."""

    def __init__(self, limit_seconds: float, memory_bytes: int) -> None:
        self._limit = limit_seconds
        call = (
            f"import sys; sys.path[:] = {_import_path()!r}; "
            "from mistral_eval.answers.math_worker import main; "
            f"sys.exit(main({limit_seconds!r}, {memory_bytes!r}))"
        )
        self._process = subprocess.Popen(  # noqa: S603  our own interpreter and module
            [sys.executable, "-P", "-c", call],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            start_new_session=True,  # Ctrl-C is for the parent, which then closes us
        )
        self._line = b""
        self.ready = False
        self.pair: Pair | None = None
        self.deadline = time.monotonic() + START_SECONDS

    def fileno(self) -> int:
        """Return the descriptor on which answers arrive."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def feed(self, todo: deque[Pair]) -> None:
        """Give the worker the next pair, if it is ready and idle."""
        if not (self.ready and self.pair is None and todo):
            return
        assert self._process.stdin is not None
        self.pair = todo.popleft()
        self.deadline = time.monotonic() + WALL_FACTOR * self._limit
        with suppress(BrokenPipeError):  # it died; the end of its output says so
            self._process.stdin.write(json.dumps(self.pair).encode() + b"\n")
            self._process.stdin.flush()

    def receive(self) -> str | None:
        """Return the line that has arrived: "" for an unfinished one, None when the worker died."""
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
    """Compares formulas in killable processes; a context manager.

    Args:
        workers: Number of processes; None is one per core this process may use.
        limit_seconds: Processor time of one comparison; then its verdict is `timeout`.
        memory_bytes: Address space of a worker; beyond it the verdict is `timeout` as well.

    Raises:
        MistralEvalError: On entering, if the workers cannot start (sympy is missing).
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
        """Compare pairs of answers; the results keep their order.

        Equal strings need no worker, equal pairs are compared once, and a comparison that is killed
        costs its own worker only.

        Args:
            pairs: (a, b) as LaTeX; the order within a pair does not matter.
            on_done: Called with (comparisons done, comparisons in all) for a progress bar.
        """
        assert self._workers, "MathChecker is used as a context manager"
        results = {(a, b): Equality.EQUAL for a, b in pairs if a == b}
        todo = deque(dict.fromkeys(pair for pair in pairs if pair not in results))
        known, total = len(results), len(results) + len(todo)
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker, selectors.EVENT_READ)
                worker.feed(todo)
            while len(results) < total:
                heard, late = self._stirred(selector)
                for worker in heard:
                    self._listen(worker, selector, results).feed(todo)
                for worker in late:
                    self._replace(worker, selector, results, late=True).feed(todo)
                if on_done:
                    on_done(len(results) - known, total - known)
        return [results[pair] for pair in pairs]

    def _stirred(self, selector: selectors.BaseSelector) -> tuple[list[_Worker], list[_Worker]]:
        """Wait; return the workers that said something or died, and those past their deadlines."""
        waiting = [worker for worker in self._workers if worker.pair or not worker.ready]
        rest = min(worker.deadline for worker in waiting) - time.monotonic()
        fds = {key.fd for key, _ in selector.select(max(0.0, rest))}
        now = time.monotonic()
        heard = [worker for worker in self._workers if worker.fileno() in fds]
        return heard, [w for w in waiting if w.deadline < now and w not in heard]

    def _listen(
        self, worker: _Worker, selector: selectors.BaseSelector, results: dict[Pair, Equality]
    ) -> _Worker:
        """Take what a worker said, or replace a dead one; return the one to feed."""
        line = worker.receive()
        if line is None:
            return self._replace(worker, selector, results, late=False)
        if line.startswith("missing"):
            raise MistralEvalError(
                f"The maths scorer needs sympy, but {sys.executable} says: {line}. "
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
        """Put a new worker in the place of one that died or is past its deadline."""
        selector.unregister(worker)
        status = worker.close(kill=late)
        if not worker.ready:
            raise MistralEvalError(
                f"A process of the maths scorer should be ready within {START_SECONDS:.0f} s, but "
                f"ended with status {status}. Check the memory limit and the installation."
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
