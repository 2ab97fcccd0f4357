"""Compile the list of system calls that a program may make to a seccomp filter in classic BPF.

It is an allow list: what pure Python needs, and files in its own scratch folder. Everything else
(processes, threads, exec, sockets, mounts, ptrace, namespaces, keys, io_uring, memfd, ...)
fails with EPERM. Source of the numbers: the kernel's tables for x86_64 and aarch64.
"""

import struct

# name: (x86_64, aarch64); None where the architecture has no such call.
_ALLOWED: dict[str, tuple[int | None, int | None]] = {
    # reading, writing and waiting on open descriptors
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "lseek": (8, 62), "pread64": (17, 67),
    "pwrite64": (18, 68), "readv": (19, 65), "writev": (20, 66), "dup": (32, 23),
    "dup2": (33, None), "dup3": (292, 24), "fcntl": (72, 25), "close_range": (436, 436),
    "pipe": (22, None), "pipe2": (293, 59), "poll": (7, None), "ppoll": (271, 73),
    "select": (23, None), "pselect6": (270, 72), "epoll_create": (213, None),
    "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_wait": (232, None),
    "epoll_pwait": (281, 22), "recvfrom": (45, 207), "shutdown": (48, 210),
    # memory
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214),
    "mremap": (25, 216), "madvise": (28, 233),
    # files
    "open": (2, None), "openat": (257, 56), "creat": (85, None), "stat": (4, None),
    "fstat": (5, 80), "lstat": (6, None), "newfstatat": (262, 79), "statx": (332, 291),
    "statfs": (137, 43), "fstatfs": (138, 44), "access": (21, None), "faccessat": (269, 48),
    "faccessat2": (439, 439), "getdents": (78, None), "getdents64": (217, 61),
    "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50), "rename": (82, None),
    "renameat": (264, 38), "renameat2": (316, 276), "mkdir": (83, None), "mkdirat": (258, 34),
    "rmdir": (84, None), "unlink": (87, None), "unlinkat": (263, 35), "link": (86, None),
    "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36), "readlink": (89, None),
    "readlinkat": (267, 78), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53),
    "umask": (95, 166), "truncate": (76, 45), "ftruncate": (77, 46), "flock": (73, 32),
    "fsync": (74, 82), "fdatasync": (75, 83), "utimensat": (280, 88),
    # signals and timers of its own process
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136), "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133),
    "sigaltstack": (131, 132), "pause": (34, None), "alarm": (37, None),
    "getitimer": (36, 102), "setitimer": (38, 103), "kill": (62, 129), "tgkill": (234, 131),
    # time
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "gettimeofday": (96, 169),
    "time": (201, None), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "times": (100, 153),
    # what a process may ask about itself
    "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getpgrp": (111, None),
    "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177),
    "uname": (63, 160), "sysinfo": (99, 179), "getrusage": (98, 165), "getrlimit": (97, 163),
    "setrlimit": (160, 164), "sched_getaffinity": (204, 123),
    "sched_yield": (24, 124), "getrandom": (318, 278),
    # the C library's own needs
    "futex": (202, 98), "set_robust_list": (273, 99), "get_robust_list": (274, 100),
    "set_tid_address": (218, 96), "rseq": (334, 293), "arch_prctl": (158, None),
    "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip

# name: (numbers, argument's index, its allowed values). ioctl: TCGETS, TIOCGWINSZ, FIONREAD,
# FIONBIO, FIOCLEX; socketpair: AF_UNIX, for event loops; sendto: without an address; prlimit64: on
# the caller itself.
_BY_ARGUMENT: dict[str, tuple[tuple[int, int], int, tuple[int, ...]]] = {
    "ioctl": ((16, 29), 1, (0x5401, 0x5413, 0x541B, 0x5421, 0x5451)),
    "socketpair": ((53, 199), 0, (1,)),
    "sendto": ((44, 206), 4, (0,)),
    "prlimit64": ((302, 261), 0, (0,)),
}

_CHECKER_ONLY = {"recvmsg": (47, 212), "sendmsg": (46, 211)}

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_COLUMN = {"x86_64": 0, "aarch64": 1}
_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _KILL, _EPERM = 0x7FFF0000, 0x80000000, 0x00050001
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data


def filter_for(machine: str, *, checker: bool) -> bytes | None:
    """Return the filter's instructions, or None for a machine without a table of numbers here.

    Args:
        machine: The machine's name from uname.
        checker: Whether it is for a checker, which receives descriptors from the host.
    """
    if machine not in _COLUMN:
        return None
    column = _COLUMN[machine]
    code = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_JUMP_EQUAL, _AUDIT_ARCH[machine], 1, 0),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER),
    ]
    for by_machine, argument, values in _BY_ARGUMENT.values():
        code += _argument_rule(by_machine[column], argument, values)
    allowed = {numbers[column] for numbers in _ALLOWED.values()} - {None}
    if checker:
        allowed |= {numbers[column] for numbers in _CHECKER_ONLY.values()}
    return b"".join(code + _search(_borders(allowed)))


def _borders(allowed: set[int | None]) -> list[tuple[int, bool]]:
    """Return the numbers at which the answer changes, starting at 0, each with the new answer."""
    highest = max(number for number in allowed if number is not None)
    borders = [(0, 0 in allowed)]
    for number in range(1, highest + 2):
        if (number in allowed) is not borders[-1][1]:
            borders.append((number, number in allowed))
    return borders


def _search(borders: list[tuple[int, bool]]) -> list[bytes]:
    """Return a binary search over `borders`.

    When a filter is installed, once for each program, the kernel evaluates it for every number.
    Short paths make the start of a program cheaper.
    """
    if len(borders) == 1:
        return [_instruction(_RETURN, _ALLOW if borders[0][1] else _EPERM)]
    middle = len(borders) // 2
    below, above = _search(borders[:middle]), _search(borders[middle:])
    return [_instruction(_JUMP_GREATER_EQUAL, borders[middle][0], len(below), 0), *below, *above]


def _argument_rule(number: int, argument: int, values: tuple[int, ...]) -> list[bytes]:
    """Return the rule that allows `number` if the argument's 64 bits equal one of `values`."""
    low = _ARGUMENTS + 8 * argument
    body = [
        _instruction(_LOAD, low + 4),
        _instruction(_JUMP_EQUAL, 0, 1, 0),
        _instruction(_RETURN, _EPERM),
        _instruction(_LOAD, low),
    ]
    for value in values:
        body += [_instruction(_JUMP_EQUAL, value, 0, 1), _instruction(_RETURN, _ALLOW)]
    body.append(_instruction(_RETURN, _EPERM))
    return [_instruction(_JUMP_EQUAL, number, 0, len(body)), *body]


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
