"""A prepared interpreter that forks one fresh, confined process for each program.

It never reads a program itself: that comes on a pipe which only the fork reads, so nothing of
one program is left for the next. It is the only process in the sandbox besides the fork.
"""

import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Iterable

from . import program
from .codec import Codec
from .confine import SCRATCH, Confinement
from .linux import CLONE_NEWIPC, CLONE_NEWPID, MS_NOATIME, MS_NODEV, MS_NOEXEC, MS_NOSUID, Linux
from .pipe import Pipe

_UNCONFINED = 99  # exit code of a fork that could not be confined and ran nothing
_WARM_UPS = 4
_HIGH = 40  # this process's own files lie from here on, so that a fork closes them at one stroke
# What programs import most, imported once here so that each fork has it at hand. Not more: each
# shared library that is mapped here makes each fork slower.
_PRELOADED = "bisect collections copy functools heapq itertools math operator re string typing"


def main() -> None:
    """Serves one harness over the socket named in the arguments, until it closes."""
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
    """The loop: a job comes with its pipes, a fork runs it, its end is reported."""

    def __init__(self, settings: dict[str, object]) -> None:
        limits, control = settings["limits"], settings["control"]
        assert isinstance(limits, dict), "the harness sends limits by name"
        assert isinstance(control, int), "the harness sends the socket's number"
        self._limits: dict[str, int] = limits
        self._isolated = bool(settings["isolated"])
        self._linux = Linux()
        self._control = socket.socket(fileno=_lift(control))
        self._confinement = Confinement(settings, judge=False)
        self._own_pids = _lift(os.pidfd_open(os.getpid())) if self._isolated else -1
        self._scratch = ""  # without isolation: the present folder
        self._untouched: tuple[int, ...] = ()  # with it: the empty folder's state
        self._words: list[bytes] = []

    def serve(self) -> None:
        """Says hello, with what cannot be enforced, and serves until the harness is gone."""
        self._confinement.begin()
        self._new_world()
        self._old_world()
        self._send({"missing": self._confinement.missing})
        os.dup2(0, 2)  # until here errors went to the harness; programs' go to /dev/null
        while True:
            data, pipes, _, _ = socket.recv_fds(self._control, 4096, 2)
            if not data:
                return
            self._words += data.split()
            jobs = [word for word in self._words if word.startswith(b"job")]
            if jobs:
                self._run(jobs[0].removeprefix(b"job"), pipes)
            self._words.clear()  # a job that has already ended needs no killing

    def _run(self, number: bytes, pipes: list[int]) -> None:
        self._new_world()
        child = os.fork()
        if child == 0:
            self._become(pipes)
        self._old_world()
        for descriptor in pipes:
            os.close(descriptor)
        status, cpu_used = self._wait(child, b"kill" + number)
        self._send({"status": os.waitstatus_to_exitcode(status), "cpu": cpu_used})

    def _become(self, pipes: list[int]) -> None:
        """In the fork: confines itself, runs the program, and never returns."""
        try:
            os.closerange(_HIGH, self._limits["open_files"])
            self._confinement.lock()
            self._confinement.release()
        except BaseException:  # noqa: BLE001  nothing may run unconfined
            os._exit(_UNCONFINED)
        try:
            program.main(Pipe(*pipes))
        finally:
            os._exit(0)

    def _new_world(self) -> None:
        """A fresh scratch folder and process namespace for the next fork."""
        if not self._isolated:
            self._new_folder()
            return
        if not self._untouched or _state(SCRATCH) != self._untouched:
            self._new_scratch()
        kinds = CLONE_NEWPID
        if "seccomp" in self._confinement.missing:  # which alone refuses all such calls
            kinds |= CLONE_NEWIPC
        self._linux.unshare(kinds)

    def _new_scratch(self) -> None:
        """Mounts an empty scratch folder; one in which nothing ever happened is as good as new."""
        if self._untouched:
            self._confinement.release()
            self._linux.umount(SCRATCH)
        options = f"size={self._limits['scratch_bytes']},nr_inodes=1024,mode=0700"
        flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME
        self._linux.mount("tmpfs", SCRATCH, "tmpfs", flags, options)
        os.chdir(SCRATCH)
        self._untouched = _state(SCRATCH)
        self._confinement.prepare()

    def _new_folder(self) -> None:
        """Without isolation: a folder among the host's temporary ones."""
        import shutil
        import tempfile

        os.chdir("/")
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch = tempfile.mkdtemp()
        os.chdir(self._scratch)

    def _old_world(self) -> None:
        """Back to this process's own process namespace, so that the next fork gets a new one."""
        if self._isolated:
            self._linux.setns(self._own_pids, CLONE_NEWPID)

    def _wait(self, child: int, kill: bytes) -> tuple[int, float]:
        """The fork's status and CPU seconds; the harness's word, or its silence, kills it."""
        watched = _lift(os.pidfd_open(child)) if hasattr(os, "pidfd_open") else None
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


def _state(folder: str) -> tuple[int, ...]:
    """What changes with anything that is done in a tmpfs: its use, and its root's own data."""
    use, root = os.statvfs(folder), os.stat(folder)  # noqa: PTH116
    return (
        use.f_blocks - use.f_bfree,
        use.f_files - use.f_ffree,
        root.st_mode,
        root.st_uid,
        root.st_gid,
        root.st_nlink,
        root.st_mtime_ns,
        root.st_ctime_ns,
    )


def _warm_up() -> None:
    """Serves a program of our own in this process, so that each fork finds everything ready."""
    codec = Codec(repr, repr)
    for _ in range(_WARM_UPS):
        there, back = os.pipe(), os.pipe()
        judge = Pipe(back[0], there[1])
        judge.write(codec.dump({"source": "def f(*x): return x", "setup": "", "names": ["f"]}))
        for number in range(_WARM_UPS):
            arguments = [codec.encode(value) for value in (number, "a", (1.5, None), {"b": [1]})]
            request = {"n": number, "name": "f", "args": arguments, "kwargs": {"dict": []}}
            judge.write(codec.dump(request))
        os.close(there[1])
        program.main(Pipe(there[0], back[1]))
        for descriptor in (there[0], *back):
            os.close(descriptor)
    del sys.modules["solution"]


def _readable(descriptors: list[int]) -> Iterable[int]:
    """Those that are readable; where the child's end cannot be watched, looks every 10 ms."""
    return select.select(descriptors, [], [], None if len(descriptors) > 1 else 0.01)[0]


def _lift(descriptor: int) -> int:
    """Moves an open file above `_HIGH`."""
    import fcntl

    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _HIGH)
    os.close(descriptor)
    return moved
