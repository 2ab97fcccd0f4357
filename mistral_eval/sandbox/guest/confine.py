"""Confine a freshly forked process: limits, landlock, capabilities, seccomp.

`Confinement.lock` is called between the fork and the first untrusted instruction and cannot be
undone.
"""

import errno
import os
import resource
import stat
import struct
from collections.abc import Callable
from typing import Any

from .linux import FilterProgram, Linux
from .seccomp import filter_for

SCRATCH = "/tmp"  # noqa: S108  the sandbox's own, fresh for each program

# Landlock's system calls have the same numbers on all architectures. Rights by ABI version:
# include/uapi/linux/landlock.h.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_RULE_PATH_BENEATH = 1
_READ = 0b1100  # read files, list folders
_READ_FILE = 0b0100
_ALL_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_TCP = 0b11  # bind, connect: from ABI 4
_SCOPES = 0b11  # abstract Unix sockets, signals: from ABI 6
_ON_DEVICES = 1 << 15  # ioctl on devices: never granted
_MAKE_DEVICES = (1 << 6) | (1 << 11)  # character and block devices: never granted
_EXECUTE = 1


class Confinement:
    """The confinement of a program or a checker; `missing` names what this kernel cannot enforce.

    It has three steps: `begin` once, `prepare` before each fork, `lock` in the fork. Work done
    before the fork makes the start of each program cheaper.
    """

    def __init__(self, settings: dict[str, Any], *, checker: bool) -> None:
        """Prepare the filters.

        Args:
            settings: `limits` (memory_bytes, file_bytes, open_files); `world`, where
                this runs: 'namespaces', 'container', or 'host', where landlock is not used and
                capabilities are not dropped; `readable`, the files and folders that landlock
                allows to read; `without`, the layers that a test leaves out.
            checker: Whether this is a checker, which receives descriptors and may not write to the
                scratch folder.
        """
        self._limits: dict[str, int] = settings["limits"]
        self._isolated: bool = settings["world"] != "host"
        self._in_container: bool = settings["world"] == "container"
        self._readable: list[str] = settings["readable"]
        self._without: list[str] = settings["without"]
        self._checker = checker
        self._linux = Linux()
        self._on_linux = os.uname().sysname == "Linux"
        code = filter_for(self._linux.machine, checker=checker) if self._on_linux else None
        self._filter = None if code is None else FilterProgram(code)
        self._landlock_abi = self._find_landlock() if self._isolated else 0
        self._ruleset = -1
        self.missing = self._find_missing()

    def begin(self) -> None:
        """Set what this process and all its forks share: all limits except that of CPU time.

        Raises:
            OSError, ValueError: A required limit could not be set.
        """
        os.umask(0o077)
        wanted = {
            resource.RLIMIT_FSIZE: self._limits["file_bytes"],
            resource.RLIMIT_NOFILE: self._limits["open_files"],
            resource.RLIMIT_CORE: 0,
        }
        if self._on_linux:
            wanted[resource.RLIMIT_AS] = self._limits["memory_bytes"]
            wanted[resource.RLIMIT_DATA] = self._limits["memory_bytes"]
            self._linux.no_new_privileges()
        if self._in_container:  # its programs see /proc
            self._linux.hide()
        for kind, value in wanted.items():
            resource.setrlimit(kind, (value, value))

    def prepare(self) -> None:
        """Build the landlock rules of the next fork, after its scratch folder is mounted."""
        if self._landlock_abi:
            self._ruleset = self._make_ruleset()

    def release(self) -> None:
        """Close the rules made by `prepare`."""
        if self._ruleset >= 0:
            os.close(self._ruleset)
            self._ruleset = -1

    def lock(self, cpu_seconds: int | None = None) -> None:
        """Confine the calling process irrevocably.

        Args:
            cpu_seconds: Its CPU time. A checker passes none and sets a limit for each program.

        Raises:
            OSError: A layer that is not in `missing` could not be enforced.
        """
        if cpu_seconds is not None:
            resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
        if "seccomp" in self.missing and self._isolated:
            resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        if self._ruleset >= 0:
            self._linux.syscall("landlock", _RESTRICT_SELF, self._ruleset, 0)
        if self._isolated:
            self._linux.drop_capabilities()
        if self._filter is not None and "seccomp" not in self.missing:
            self._linux.seccomp(self._filter)

    def _find_landlock(self) -> int:
        """Return the ABI version of the kernel's landlock; 0 without landlock."""
        if "landlock" in self._without:
            return 0
        try:
            return self._linux.syscall("landlock", _CREATE_RULESET, None, 0, 1)
        except OSError as error:
            if error.errno in {errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}:
                return 0
            raise

    def _find_missing(self) -> list[str]:
        missing = []
        unusable = self._filter is None or "seccomp" in self._without
        if unusable or not _works_in_child(self._try_seccomp):
            missing.append("seccomp")
        if not self._landlock_abi:
            missing.append("landlock")
        return missing

    def _try_seccomp(self) -> None:
        assert self._filter is not None, "called only where the machine's system calls are known"
        self._linux.no_new_privileges()
        self._linux.seccomp(self._filter)

    def _make_ruleset(self) -> int:
        abi = self._landlock_abi
        rights = _ALL_RIGHTS[max(version for version in _ALL_RIGHTS if version <= abi)]
        attributes = struct.pack("=Q", rights)
        if abi >= 4:
            attributes += struct.pack("=Q", _TCP)
        if abi >= 6:
            attributes += struct.pack("=Q", _SCOPES)
        ruleset = self._linux.syscall("landlock", _CREATE_RULESET, attributes, len(attributes), 0)
        own = rights & ~(_ON_DEVICES | _MAKE_DEVICES | _EXECUTE)
        granted = dict.fromkeys(self._readable, _READ) | {SCRATCH: _READ if self._checker else own}
        for path, wanted in granted.items():
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            possible = wanted if stat.S_ISDIR(os.fstat(place).st_mode) else wanted & _READ_FILE
            rule = struct.pack("=Qi", possible, place)
            self._linux.syscall("landlock", _ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)
            os.close(place)
        return ruleset


def _works_in_child(action: Callable[[], None]) -> bool:
    """Return whether `action` succeeds in a child process, which then exits."""
    child = os.fork()
    if child == 0:
        try:
            action()
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0
