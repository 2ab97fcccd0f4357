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


def open_sink() -> int:
    """Return a descriptor of a device that discards what is written to it.

    That is /dev/null; where it is missing, or is a file in which a program would find what another
    has printed, it is standard output, for which the host chose such a device.
    """
    with suppress(OSError):
        found = os.open(os.devnull, os.O_WRONLY)
        if stat.S_ISCHR(os.fstat(found).st_mode):
            return found
        os.close(found)
    return os.dup(1)


def silence(sink: int) -> None:
    """Redirect standard output and error, which lead to the host, to what discards them."""
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    os.close(sink)


def end_input() -> None:
    """Make standard input a new pipe that nobody writes to.

    Each program needs one of its own: what one writes into its pipe, the next would read.
    """
    reader, writer = os.pipe()
    os.close(writer)
    os.dup2(reader, 0)
    os.close(reader)


def lift(descriptor: int) -> int:
    """Move a descriptor to `HIGH` or above and return it."""
    import fcntl

    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, HIGH)
    os.close(descriptor)
    return moved
