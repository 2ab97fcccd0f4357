"""What is fresh for each program: its processes' names and its scratch folder.

A sandbox of our own making has new ones for each. A container has one of each for as long as
it lives, so it is given up after the first program that did anything there.
"""

import os
from typing import Any, Protocol

from .confine import SCRATCH, Confinement
from .control import lift
from .linux import CLONE_NEWIPC, CLONE_NEWPID, MS_NOATIME, MS_NODEV, MS_NOEXEC, MS_NOSUID, Linux


class World(Protocol):
    """Where the next fork lives."""

    def enter(self) -> None:
        """Before the fork: makes everything fresh."""

    def leave(self) -> None:
        """After it: back to where the zygote itself lives."""

    def is_spent(self) -> bool:
        """Whether the next program needs another sandbox."""


def make_world(settings: dict[str, Any], confinement: Confinement) -> World:
    """The world for `settings["world"]`: 'namespaces', 'container' or 'host'."""
    if settings["world"] == "namespaces":
        return _Namespaces(settings["limits"], confinement)
    return _Container(confinement) if settings["world"] == "container" else _Host()


class _Namespaces:
    """A new process namespace and a new small tmpfs for each program."""

    def __init__(self, limits: dict[str, int], confinement: Confinement) -> None:
        self._limits = limits
        self._confinement = confinement
        self._linux = Linux()
        self._own_pids = lift(os.pidfd_open(os.getpid()))
        self._untouched: tuple[int, ...] = ()  # the empty folder's state

    def enter(self) -> None:
        if not self._untouched or _state(SCRATCH) != self._untouched:
            self._new_scratch()
        kinds = CLONE_NEWPID
        if "seccomp" in self._confinement.missing:  # which alone refuses all such calls
            kinds |= CLONE_NEWIPC
        self._linux.unshare(kinds)

    def leave(self) -> None:
        self._linux.setns(self._own_pids, CLONE_NEWPID)

    def is_spent(self) -> bool:
        return False

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


class _Container:
    """The container's own; without seccomp it is spent at once: a program may leave processes."""

    def __init__(self, confinement: Confinement) -> None:
        self._confinement = confinement
        os.chdir(SCRATCH)
        self._untouched = _state(SCRATCH)
        confinement.prepare()

    def enter(self) -> None:
        """Nothing is to be made: a spent container is not used again."""

    def leave(self) -> None:
        """The zygote lives there too."""

    def is_spent(self) -> bool:
        return "seccomp" in self._confinement.missing or _state(SCRATCH) != self._untouched


class _Host:
    """Without isolation: a folder among the host's temporary ones."""

    def __init__(self) -> None:
        self._scratch = ""

    def enter(self) -> None:
        import shutil
        import tempfile

        os.chdir("/")
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch = tempfile.mkdtemp()
        os.chdir(self._scratch)

    def leave(self) -> None:
        """The zygote lives there too."""

    def is_spent(self) -> bool:
        return False


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
