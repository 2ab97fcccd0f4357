"""A prepared interpreter that forks one fresh, confined process for each program or judge.

It never reads a program or a test itself: those come as open files that only the fork reads, so
nothing of one program is left for the next. It runs in the sandbox, as its first process.
"""

import gc
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
from types import FrameType

from . import judge, program
from .confine import SCRATCH, Confinement, keep_only
from .linux import (
    CLONE_NEWIPC,
    CLONE_NEWPID,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    Linux,
)

_UNCONFINED = 99  # exit code of a fork that could not be confined and ran nothing
# What programs import most, imported once here so that each fork has it at hand.
_PRELOADED = (
    "bisect cmath collections copy datetime decimal fractions functools hashlib heapq itertools "
    "json math numbers operator queue random re statistics string struct sys time typing "
    "dataclasses enum abc bisect ast"
)


def main() -> None:
    """Serves one harness over the socket named in the arguments, until it closes."""
    settings = json.loads(sys.argv[1])
    for name in _PRELOADED.split():
        __import__(name)
    os.environ.clear()
    sys.argv[:] = [""]
    sys.path[:] = [folder for folder in sys.path if folder != settings["path"]]
    control = socket.socket(fileno=settings["control"])
    zygote = _Zygote(settings, control)
    gc.collect()
    gc.freeze()
    zygote.serve()


class _Zygote:
    """The loop: a job with its open files comes, a fork runs it, its end is reported."""

    def __init__(self, settings: dict[str, object], control: socket.socket) -> None:
        self._role = settings["role"]
        self._isolated = bool(settings["isolated"])
        limits = settings["limits"]
        assert isinstance(limits, dict), "the harness sends limits by name"
        self._limits: dict[str, int] = limits
        self._control = control
        self._linux = Linux()
        self._confinement = Confinement(limits, isolated=self._isolated)
        self._own_pids = os.pidfd_open(os.getpid()) if self._isolated else -1
        self._wake, writer = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(writer, False)
        signal.signal(signal.SIGCHLD, _ignore)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._mounted = False
        self._words: list[bytes] = []

    def serve(self) -> None:
        """Says hello, with what cannot be enforced, and serves until the harness is gone."""
        self._fresh_world()
        self._old_world()
        self._send({"missing": self._confinement.missing})
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._control, 4096, 8)
            if not data:
                return
            self._words += data.split()
            jobs = [word for word in self._words if word.startswith(b"job")]
            if jobs:
                self._run(jobs[0].removeprefix(b"job"), descriptors)
            self._words.clear()  # a job that has already ended needs no killing

    def _run(self, number: bytes, descriptors: list[int]) -> None:
        scratch = self._fresh_world()
        child = os.fork()
        if child == 0:
            self._become(descriptors, scratch)
        self._old_world()
        for descriptor in descriptors:
            os.close(descriptor)
        status, cpu = self._wait(child, b"kill" + number)
        if not self._isolated:
            shutil.rmtree(scratch, ignore_errors=True)
        self._send({"status": os.waitstatus_to_exitcode(status), "cpu": cpu})

    def _fresh_world(self) -> str:
        """An empty scratch folder, and new process and IPC namespaces for the next fork."""
        if not self._isolated:
            return tempfile.mkdtemp()
        if self._mounted:
            self._linux.umount(SCRATCH)
        options = f"size={self._limits['scratch_bytes']},nr_inodes=1024,mode=0700"
        flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
        self._linux.mount("tmpfs", SCRATCH, "tmpfs", flags, options)
        self._mounted = True
        self._linux.unshare(CLONE_NEWPID | CLONE_NEWIPC)
        return SCRATCH

    def _old_world(self) -> None:
        """Back to this process's own process namespace, so that the next fork gets a new one."""
        if self._isolated:
            self._linux.setns(self._own_pids, CLONE_NEWPID)

    def _become(self, descriptors: list[int], scratch: str) -> None:
        """In the fork: confines itself, runs the program or the judge, and never returns."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            job, *channel = keep_only(descriptors)
            with os.fdopen(job, "rb") as file:
                text = file.read()
            os.chdir(scratch)
            self._confinement.apply()
        except BaseException:  # noqa: BLE001  nothing may run unconfined
            os._exit(_UNCONFINED)
        try:
            (judge if self._role == "judge" else program).main(text, *channel)
        finally:
            os._exit(0)

    def _wait(self, child: int, kill: bytes) -> tuple[int, float]:
        """The fork's status and CPU seconds; the harness's word, or its silence, kills it."""
        control = self._control.fileno()
        while True:
            ended, status, usage = os.wait4(child, os.WNOHANG)
            if not ended and kill in self._words:
                os.kill(child, signal.SIGKILL)
                ended, status, usage = os.wait4(child, 0)
            if ended:
                return status, usage.ru_utime + usage.ru_stime
            ready, _, _ = select.select([self._wake, control], [], [])
            if self._wake in ready:
                os.read(self._wake, 512)
            if control in ready:
                self._words += self._control.recv(4096).split() or [kill]

    def _send(self, message: dict[str, object]) -> None:
        self._control.sendall(json.dumps(message).encode() + b"\n")


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """A handler, so that the signal arrives at the wake-up descriptor."""
