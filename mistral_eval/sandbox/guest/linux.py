"""System calls that the sandbox needs and Python 3.11 does not offer, through ctypes.

Source: the man pages unshare(2), setns(2), mount(2), pivot_root(2), capset(2), prctl(2).
"""

import ctypes
import os
import signal

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_NOATIME = 0x400
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 0x2

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2
CAPABILITY_VERSION_3 = 0x20080522

# Numbers of the calls that glibc does not wrap.
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_CAPSET = {"x86_64": 126, "aarch64": 91}


class Linux:
    """The C library's functions. Each raises OSError when it fails."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.machine = os.uname().machine

    def unshare(self, flags: int) -> None:
        """Move this process (with CLONE_NEWPID: its next children) to new namespaces."""
        self._check(self._libc.unshare(flags), "unshare")

    def setns(self, descriptor: int, flags: int) -> None:
        """Join the namespaces of the process behind a pidfd (Linux 5.8)."""
        self._check(self._libc.setns(descriptor, flags), "setns")

    def mount(self, source: str, target: str, kind: str, flags: int, data: str = "") -> None:
        """Mount `source` at `target`."""
        arguments = [os.fsencode(text) if text else None for text in (source, target, kind)]
        done = self._libc.mount(*arguments, ctypes.c_ulong(flags), os.fsencode(data))
        self._check(done, f"mount {target}")

    def umount(self, target: str) -> None:
        """Detach the mount at `target`."""
        self._check(self._libc.umount2(os.fsencode(target), MNT_DETACH), f"umount {target}")

    def pivot_root(self, new: str, old: str) -> None:
        """Make `new` the root and move the former root to `old`."""
        number = _PIVOT_ROOT[self.machine]
        self.syscall("pivot_root", number, os.fsencode(new), os.fsencode(old))

    def no_new_privileges(self) -> None:
        """Prevent, irrevocably, that a later exec gains privileges."""
        self._check(self._libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")

    def die_with_parent(self) -> None:
        """Have the kernel kill this process when its parent's thread ends."""
        self._check(self._libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "pdeathsig")

    def hide(self) -> None:
        """Deny other processes of the same user access to this one's memory and files in /proc."""
        self._check(self._libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "dumpable")

    def drop_capabilities(self) -> None:
        """Clear this process's capability sets."""
        header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
        data = (ctypes.c_uint32 * 6)()
        self.syscall("capset", _CAPSET[self.machine], header, data)

    def seccomp(self, program: "FilterProgram") -> None:
        """Install a seccomp filter."""
        done = self._libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program.pointer, 0, 0)
        self._check(done, "seccomp")

    def syscall(self, name: str, number: int, *arguments: object) -> int:
        """Make a system call by its number; integers are passed as long."""
        plain = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
        return self._check(self._libc.syscall(ctypes.c_long(number), *plain), name)

    def _check(self, done: int, name: str) -> int:
        if done < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"{name}: {os.strerror(code)}")
        return done


class FilterProgram:
    """BPF instructions (8 bytes each) as the kernel's struct sock_fprog."""

    def __init__(self, code: bytes) -> None:
        self._code = ctypes.create_string_buffer(code, len(code))
        self._header = _SockFprog(len(code) // 8, ctypes.cast(self._code, ctypes.c_void_p))
        self.pointer = ctypes.byref(self._header)


class _SockFprog(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))
