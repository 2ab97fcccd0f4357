"""A prepared interpreter that forks one fresh, confined process for each program.

It never reads a program itself: only the fork reads the pipe on which the program arrives, so
nothing of one program remains for the next. Besides the fork it is the sandbox's only process.
"""

import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Iterable
from typing import Any

from . import program
from .codec import Codec, Pipe
from .confine import Confinement
from .control import HIGH, connect, end_input, lift, open_sink, silence
from .worlds import make_world

_UNCONFINED = 99  # exit code of a fork that could not be confined and ran nothing
_WARM_UPS = 4
# The modules that programs import most, loaded once for all forks. Not more of them: each shared
# library that is mapped here makes each fork slower.
_PRELOADED = "bisect collections copy functools heapq itertools math operator re string typing"


def main() -> None:
    """Serve the host over the socket named in the arguments until it closes."""
    settings = json.loads(sys.argv[1])
    for name in _PRELOADED.split():
        __import__(name)
    os.environ.clear()
    sys.argv[:] = [""]
    sys.path[:] = [folder for folder in sys.path if folder != settings["path"]]
    zygote = _Zygote(settings)
    _warm_up()
    gc.collect()
    gc.freeze()
    zygote.serve()


class _Zygote:
    """The loop: receive a job with its pipes, run it in a fork, send its exit status."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._open_files: int = settings["limits"]["open_files"]
        self._sink = open_sink()
        self._control = socket.socket(fileno=lift(connect(settings["control"]).detach()))
        self._confinement = Confinement(settings, checker=False)
        self._world = make_world(settings, self._confinement)
        self._words: list[bytes] = []

    def serve(self) -> None:
        """Report what cannot be enforced, then serve jobs until the host closes the socket."""
        self._confinement.begin()
        self._world.enter()
        self._world.leave()
        self._send({"missing": self._confinement.missing})
        silence(self._sink)  # errors up to here go to the host; those of programs go nowhere
        while True:
            data, pipes, _, _ = socket.recv_fds(self._control, 4096, 2)
            if not data:
                return
            self._words += data.split()
            jobs = [word for word in self._words if word.startswith(b"job")]
            if jobs:
                number, _, cpu_seconds = jobs[0].removeprefix(b"job").partition(b"/")
                self._run(number, int(cpu_seconds), pipes)
            self._words.clear()  # a kill request for a job that has ended is void

    def _run(self, number: bytes, cpu_seconds: int, pipes: list[int]) -> None:
        self._world.enter()
        child = os.fork()
        if child == 0:
            self._become(cpu_seconds, pipes)
        self._world.leave()
        for descriptor in pipes:
            os.close(descriptor)
        status, cpu_used = self._wait(child, b"kill" + number)
        code, spent = os.waitstatus_to_exitcode(status), self._world.is_spent()
        self._send({"status": code, "cpu": cpu_used, "spent": spent})

    def _become(self, cpu_seconds: int, pipes: list[int]) -> None:
        """Confine the fork, run the program in it, and never return."""
        try:
            os.setsid()  # a signal to its process group must not reach the zygote
            os.closerange(HIGH, self._open_files)
            end_input()
            self._confinement.lock(cpu_seconds)
            self._confinement.release()
        except BaseException:  # noqa: BLE001  nothing may run unconfined
            os._exit(_UNCONFINED)
        try:
            program.main(Pipe(*pipes))
        finally:
            os._exit(0)

    def _wait(self, child: int, kill: bytes) -> tuple[int, float]:
        """Return the fork's wait status and CPU seconds; kill it if the host asks or is gone."""
        watched = lift(os.pidfd_open(child)) if hasattr(os, "pidfd_open") else None
        control = self._control.fileno()
        while True:
            ended, status, usage = os.wait4(child, os.WNOHANG)
            if not ended and kill in self._words:
                os.kill(child, signal.SIGKILL)
                ended, status, usage = os.wait4(child, 0)
            if ended:
                break
            if control in _readable([control, watched] if watched else [control]):
                self._words += self._control.recv(4096).split() or [kill]
        if watched:
            os.close(watched)
        return status, usage.ru_utime + usage.ru_stime

    def _send(self, message: dict[str, object]) -> None:
        self._control.sendall(json.dumps(message).encode() + b"\n")


def _warm_up() -> None:
    """Serve a program of our own in this process, so that each fork finds everything loaded."""
    codec = Codec(repr, repr)
    for _ in range(_WARM_UPS):
        there, back = os.pipe(), os.pipe()
        checker = Pipe(back[0], there[1])
        checker.write(codec.dump({"source": "def f(*x): return x", "setup": "", "names": ["f"]}))
        for number in range(_WARM_UPS):
            arguments = [codec.encode(value) for value in (number, "a", (1.5, None), {"b": [1]})]
            request = {"n": number, "name": "f", "args": arguments, "kwargs": {"dict": []}}
            checker.write(codec.dump(request))
        os.close(there[1])
        program.main(Pipe(there[0], back[1]))
        for descriptor in (there[0], *back):
            os.close(descriptor)
    del sys.modules["solution"]


def _readable(descriptors: list[int]) -> Iterable[int]:
    """Wait for readable descriptors; without a pidfd of the child, return after 10 ms."""
    return select.select(descriptors, [], [], None if len(descriptors) > 1 else 0.01)[0]
