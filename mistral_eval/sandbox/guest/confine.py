"""Locks a freshly forked process in: descriptors, limits, landlock, capabilities, seccomp.

`Confinement.apply` is called between the fork and the first untrusted instruction; after it
nothing can be given back.
"""

import errno
import fcntl
import os
import platform
import resource
import struct
from collections.abc import Callable

from .linux import Linux
from .seccomp import filter_for

SCRATCH = "/tmp"  # noqa: S108  the sandbox's own, a fresh tmpfs for each program

# Landlock's system calls have the same numbers on all architectures. Rights by ABI version:
# include/uapi/linux/landlock.h.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_RULE_PATH_BENEATH = 1
_READ = 0b1100  # read files, list folders
_ALL_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_TCP = 0b11  # bind, connect: from ABI 4
_SCOPES = 0b11  # abstract unix sockets, signals: from ABI 6
_ON_DEVICES = 1 << 15  # ioctl on devices: never granted
_MAKE_DEVICES = (1 << 6) | (1 << 11)  # character and block devices: never granted
_EXECUTE = 1


class Confinement:
    """What is enforced on each program; what this kernel lacks stands in `missing`."""

    def __init__(self, limits: dict[str, int], *, isolated: bool) -> None:
        """Prepares the filters.

        Args:
            limits: cpu_seconds, memory_bytes, file_bytes, open_files.
            isolated: Whether this runs inside namespaces; without them landlock and the
                capabilities are left alone.
        """
        self._limits = limits
        self._isolated = isolated
        self._on_linux = platform.system() == "Linux"
        self._linux = Linux()
        self._filter = filter_for(self._linux.machine) if self._on_linux else None
        self._landlock_abi = self._find_landlock() if isolated else 0
        self.missing = self._find_missing()

    def apply(self) -> None:
        """Confines the calling process for good.

        Raises:
            OSError, ValueError: A limit that was promised could not be set.
        """
        os.umask(0o077)
        self._set_limits()
        if not self._on_linux:
            return
        self._linux.no_new_privileges()
        if self._landlock_abi:
            self._restrict_files()
        if self._isolated:
            self._linux.drop_capabilities()
        if self._filter is not None and "seccomp" not in self.missing:
            self._linux.seccomp(self._filter)

    def _find_landlock(self) -> int:
        """The kernel's landlock version, 0 where there is none."""
        try:
            return self._linux.syscall("landlock", _CREATE_RULESET, None, 0, 1)
        except OSError as error:
            if error.errno in {errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}:
                return 0
            raise

    def _find_missing(self) -> list[str]:
        missing = []
        if self._filter is None or not _works_in_child(self._try_seccomp):
            missing.append("seccomp")
        if not self._landlock_abi:
            missing.append("landlock")
        return missing

    def _try_seccomp(self) -> None:
        assert self._filter is not None, "tried only where the machine is known"
        self._linux.no_new_privileges()
        self._linux.seccomp(self._filter)

    def _set_limits(self) -> None:
        wanted = {
            resource.RLIMIT_CPU: self._limits["cpu_seconds"],
            resource.RLIMIT_FSIZE: self._limits["file_bytes"],
            resource.RLIMIT_NOFILE: self._limits["open_files"],
            resource.RLIMIT_CORE: 0,
        }
        if self._on_linux:
            wanted[resource.RLIMIT_AS] = self._limits["memory_bytes"]
            wanted[resource.RLIMIT_DATA] = self._limits["memory_bytes"]
        if self._isolated:
            wanted[resource.RLIMIT_NPROC] = 1
        for kind, value in wanted.items():
            resource.setrlimit(kind, (value, value))

    def _restrict_files(self) -> None:
        abi = self._landlock_abi
        rights = _ALL_RIGHTS[max(version for version in _ALL_RIGHTS if version <= abi)]
        attributes = struct.pack("=Q", rights)
        if abi >= 4:
            attributes += struct.pack("=Q", _TCP)
        if abi >= 6:
            attributes += struct.pack("=Q", _SCOPES)
        ruleset = self._linux.syscall("landlock", _CREATE_RULESET, attributes, len(attributes), 0)
        own = rights & ~(_ON_DEVICES | _MAKE_DEVICES | _EXECUTE)
        for path, granted in (("/", _READ), (SCRATCH, own)):
            folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rule = struct.pack("=Qi", granted, folder)
            self._linux.syscall("landlock", _ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)
            os.close(folder)
        self._linux.syscall("landlock", _RESTRICT_SELF, ruleset, 0)
        os.close(ruleset)


def _works_in_child(action: Callable[[], None]) -> bool:
    """Whether `action` succeeds, tried in a child process that is thrown away."""
    child = os.fork()
    if child == 0:
        try:
            action()
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def keep_only(descriptors: list[int]) -> list[int]:
    """Closes every open file but `descriptors`, which become 3, 4, ...; 0 to 2 are /dev/null.

    Args:
        descriptors: Open files, each above 2; descriptor 0 must already be /dev/null.

    Returns:
        Their new numbers, in the same order.
    """
    end = 3 + len(descriptors)
    copies = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, end) for descriptor in descriptors]
    for target, copy in enumerate(copies, start=3):
        os.dup2(copy, target)
    os.dup2(0, 1)
    os.dup2(0, 2)
    os.closerange(end, os.sysconf("SC_OPEN_MAX"))
    return list(range(3, end))
