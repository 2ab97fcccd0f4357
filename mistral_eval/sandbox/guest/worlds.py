"""Give each program a fresh process namespace and a fresh scratch folder.

With our own namespaces (and under bubblewrap) both are made for each program. A container has one
of each for its lifetime, so it is replaced after the first program that changed anything.
"""

import os
from typing import Any

from .confine import SCRATCH, Confinement
from .control import lift
from .linux import CLONE_NEWIPC, CLONE_NEWPID, MS_NOATIME, MS_NODEV, MS_NOEXEC, MS_NOSUID, Linux


class World:
    """The environment of the next fork. This base class is the zygote's own, unchanged."""

    def enter(self) -> None:
        """Make everything fresh, before the fork."""

    def leave(self) -> None:
        """Return to the zygote's own environment, after the fork."""

    def is_spent(self) -> bool:
        """Return whether the next program needs a new sandbox."""
        return False


def make_world(settings: dict[str, Any], confinement: Confinement) -> World:
    """Return the world for `settings["world"]`: 'namespaces', 'container' or 'host'."""
    if settings["world"] == "namespaces":
        return _Namespaces(settings["limits"], confinement)
    return _Container(confinement) if settings["world"] == "container" else _Host()


class _Namespaces(World):
    """A new process namespace and a new small tmpfs for each program."""

    def __init__(self, limits: dict[str, int], confinement: Confinement) -> None:
        self._limits = limits
        self._confinement = confinement
        self._linux = Linux()
        self._own_pids = lift(os.pidfd_open(os.getpid()))
        self._untouched: tuple[int, ...] = ()  # state of the empty folder

    def enter(self) -> None:
        if not self._untouched or _state(SCRATCH) != self._untouched:
            self._new_scratch()
        kinds = CLONE_NEWPID
        if "seccomp" in self._confinement.missing:  # only seccomp refuses all IPC calls
            kinds |= CLONE_NEWIPC
        self._linux.unshare(kinds)

    def leave(self) -> None:
        self._linux.setns(self._own_pids, CLONE_NEWPID)

    def _new_scratch(self) -> None:
        """Mount an empty scratch folder. `enter` keeps one in which nothing has ever happened."""
        if self._untouched:
            self._confinement.release()
            self._linux.umount(SCRATCH)
        options = f"size={self._limits['scratch_bytes']},nr_inodes=1024,mode=0700"
        flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME
        self._linux.mount("tmpfs", SCRATCH, "tmpfs", flags, options)
        os.chdir(SCRATCH)
        self._untouched = _state(SCRATCH)
        self._confinement.prepare()


class _Container(World):
    """The container's own namespace and folder.

    Without seccomp a program may leave processes behind, so the container is spent after one.
    """

    def __init__(self, confinement: Confinement) -> None:
        self._confinement = confinement
        os.chdir(SCRATCH)
        self._untouched = _state(SCRATCH)
        confinement.prepare()

    def is_spent(self) -> bool:
        return "seccomp" in self._confinement.missing or _state(SCRATCH) != self._untouched


class _Host(World):
    """Without isolation: a new temporary folder of the host for each program."""

    def __init__(self) -> None:
        self._scratch = ""

    def enter(self) -> None:
        import shutil
        import tempfile

        os.chdir("/")
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch = tempfile.mkdtemp()
        os.chdir(self._scratch)


def _state(folder: str) -> tuple[int, ...]:
    """Return what any change in a tmpfs alters: its usage, and its root's own metadata."""
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
