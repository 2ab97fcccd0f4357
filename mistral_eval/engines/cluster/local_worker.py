"""The process from which the workers of one machine are forked.

Where workers compute on the CPU, this process opens the engine before it forks, so that all workers
share the memory of its weights and a new one starts at once. It computes with one thread until
then: a fork inherits no threads. On CUDA, which does not survive a fork, each worker opens its own
engine after it.

The driver and this process talk through a Unix socket. For each worker the driver sends one end of
a new socket, through which it then talks to the worker alone. A worker ends when its socket closes
or this process ends.
"""

import ctypes
import os
import select
import signal
import socket
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Final, NoReturn

from mistral_eval.engines.cluster.worker_messages import Job, Question, Refused, Said
from mistral_eval.errors import MistralEvalError
from mistral_eval.settings import RunSettings

STOP: Final = "stop"
_PR_SET_PDEATHSIG: Final = 1  # from linux/prctl.h
_TICK_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Start:
    """What a worker has to know beside the run's settings.

    Attributes:
        settings: what it opens.
        threads: number of threads that it computes with.
        workers: number of workers on this machine, which share its memory.
        shares: whether the engine is opened before the workers are forked.
    """

    settings: RunSettings
    threads: int
    workers: int
    shares: bool


@dataclass(frozen=True, slots=True)
class Fork:
    """Ask for a worker; its socket follows."""

    seat: int
    settings: RunSettings
    device: str | None  # the CUDA device that it sees


@dataclass(frozen=True, slots=True)
class Forked:
    """A worker has been forked."""

    seat: int
    pid: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A worker's process has ended, with this status of os.waitpid."""

    pid: int
    status: int


def main() -> None:
    """Open the engine, then fork workers until the driver closes the socket.

    The program's one argument is the socket's file descriptor.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's
    control = socket.socket(fileno=int(sys.argv[1]))
    wire = Connection(os.dup(control.fileno()))
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the driver has ended
        start: Start = wire.recv()
        _prepare(start)
        worker = _open(start.settings, wire) if start.shares else None
        if worker is not None or not start.shares:
            _fork(control, wire, worker, start)


def _fork(control: socket.socket, wire: Connection, worker: object, start: Start) -> NoReturn:
    """Fork workers as the driver asks, and tell it which have ended.

    Raises:
        EOFError, BrokenPipeError, ConnectionResetError: the driver has closed the socket.
    """
    pids: set[int] = set()
    while True:
        ready, _, _ = select.select([control], [], [], _TICK_SECONDS)
        _reap(pids, wire)
        if not ready:
            continue
        asked: Fork = wire.recv()
        _, handles, _, _ = socket.recv_fds(control, 1, 1)
        if not handles:
            raise EOFError
        parent = os.getpid()
        pid = os.fork()
        if not pid:
            control.close()
            wire.close()
            _serve(Connection(handles[0]), worker, asked, start, parent)
        os.close(handles[0])
        pids.add(pid)
        wire.send(Forked(asked.seat, pid))


def _prepare(start: Start) -> None:
    """Compute with one thread until workers are forked, and share the memory of the machine."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if start.shares:
        import torch

        torch.set_num_threads(1)
    from mistral_eval.model.memory import share_memory

    share_memory(start.workers)


def _open(settings: RunSettings, wire: Connection) -> object:
    """Return a worker with an open engine; None once its error was sent."""
    from mistral_eval.engines.cluster.worker import Worker

    try:
        worker = Worker(settings, lambda text: wire.send(Said(text)))
    except MistralEvalError as error:
        wire.send(Refused(type(error), str(error)))
        return None
    return worker


def _reap(pids: set[int], wire: Connection) -> None:
    """Tell the driver which workers have ended, and how."""
    while pids:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        pids.discard(pid)
        wire.send(Ended(pid, status))


def _serve(wire: Connection, worker: object, asked: Fork, start: Start, parent: int) -> NoReturn:
    """Answer jobs until the driver closes the socket, then end this process."""
    code = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:  # it has not ended before the call
            _work(wire, worker, asked, start)
            code = 0
    except (EOFError, BrokenPipeError, ConnectionResetError):
        code = 0  # the driver has ended or wants no more
    finally:
        if sys.exc_info()[0] is not None:  # _exit comes before Python would print it
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(code)


def _work(wire: Connection, worker: object, asked: Fork, start: Start) -> None:
    from mistral_eval.engines.cluster.worker import Worker

    if asked.device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = asked.device
    import torch

    torch.set_num_threads(start.threads)
    if not isinstance(worker, Worker):
        worker = _open(asked.settings, wire)
        if not isinstance(worker, Worker):
            return
    wire.send(worker.opened())
    is_told = False

    def stop() -> bool:
        nonlocal is_told
        while not is_told and wire.poll():
            is_told = wire.recv() == STOP
        return is_told

    while True:
        message: Job | Question | str = wire.recv()
        if message == STOP:  # it crossed the end of the job
            continue
        assert not isinstance(message, str)
        is_told = False
        if not worker.do(message, wire.send, stop):
            return
