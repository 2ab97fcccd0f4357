"""A sandboxed process's own files: the socket to the harness, and silence on the standard ones."""

import os
import signal
import socket
from contextlib import suppress
from types import FrameType

HIGH = 40  # a zygote's own files lie from here on, so that a fork closes them at one stroke


def connect(where: object) -> socket.socket:
    """The socket to the harness.

    Args:
        where: The number of an inherited one; or, in a container, the path of a socket at which
            the harness waits to hand it over.
    """
    if isinstance(where, int):
        return socket.socket(fileno=where)
    assert isinstance(where, str), f"a number or a path, not {where!r}"
    with socket.socket(socket.AF_UNIX) as door:
        door.connect(where)
        _, (descriptor,), _, _ = socket.recv_fds(door, 1, 1)
    return socket.socket(fileno=descriptor)


def end_with(control: socket.socket) -> None:
    """Ends this process once the harness has closed its side, whatever runs at that moment.

    Elsewhere the kernel does that; a container outlives the command that started it.
    """
    import fcntl

    def look(_number: int, _frame: FrameType | None) -> None:
        with suppress(BlockingIOError):
            if not control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                os._exit(1)

    signal.signal(signal.SIGIO, look)
    fcntl.fcntl(control, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(control, fcntl.F_GETFL)
    fcntl.fcntl(control, fcntl.F_SETFL, flags | os.O_ASYNC)


def open_null() -> int:
    """An open /dev/null; where the sandbox has none, standard input is one."""
    try:
        return os.open(os.devnull, os.O_RDWR)
    except OSError:
        return os.dup(0)


def silence(null: int) -> None:
    """Ends what the standard files still told the harness."""
    for descriptor in range(3):
        os.dup2(null, descriptor)
    os.close(null)


def lift(descriptor: int) -> int:
    """Moves an open file above `HIGH`."""
    import fcntl

    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, HIGH)
    os.close(descriptor)
    return moved
