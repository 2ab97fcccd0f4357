"""The descriptors of a guest process: the socket to the host, and muted standard streams."""

import os
import signal
import socket
import stat
from contextlib import suppress
from types import FrameType

HIGH = 40  # a zygote's own descriptors start here, so that a fork closes them in one call


def connect(where: object) -> socket.socket:
    """Return the socket to the host.

    Args:
        where: Its inherited descriptor; or, in a container, the path of a socket on which the
            host hands it over.
    """
    if isinstance(where, int):
        return socket.socket(fileno=where)
    assert isinstance(where, str), f"a number or a path, not {where!r}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.connect(where)
        _, (descriptor,), _, _ = socket.recv_fds(listener, 1, 1)
    return socket.socket(fileno=descriptor)


def end_with(control: socket.socket) -> None:
    """Make this process exit once the host closes its side, whatever is running at that moment.

    Only containers need this: they outlive the command that started them. Elsewhere the kernel
    kills the process with its parent.
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


def open_streams() -> tuple[int, int]:
    """Return descriptors for a program's standard streams: one at its end, one that discards.

    The first is a pipe that nobody writes to, the second /dev/null, or, where the sandbox has no
    device of that name, standard output, which the host opened on one. A regular file at /dev/null
    would show a program what another has printed.
    """
    ended, writer = os.pipe()
    os.close(writer)
    with suppress(OSError):
        discarded = os.open(os.devnull, os.O_WRONLY)
        if stat.S_ISCHR(os.fstat(discarded).st_mode):
            return ended, discarded
        os.close(discarded)
    return ended, os.dup(1)


def silence(streams: tuple[int, int]) -> None:
    """Redirect the standard streams, which lead to the host, to those of `open_streams`."""
    ended, discarded = streams
    os.dup2(ended, 0)
    os.dup2(discarded, 1)
    os.dup2(discarded, 2)
    os.close(ended)
    os.close(discarded)


def lift(descriptor: int) -> int:
    """Move a descriptor to `HIGH` or above and return it."""
    import fcntl

    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, HIGH)
    os.close(descriptor)
    return moved
