"""Workers on this machine: processes forked from one that has imported everything."""

import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Final

from mistral_eval.engines.cluster.local_worker import STOP, Ended, Fork, Forked, Start
from mistral_eval.engines.cluster.worker_messages import Died, Event, Job, Question, Refused, Said
from mistral_eval.settings import RunSettings

END_SECONDS: Final = 5.0
STALL_SECONDS: Final = 30  # after which a worker that stops inside a message counts as gone
_STATUS_SECONDS: Final = 1.0  # to wait for the status of a process whose socket has closed
_TAIL_BYTES: Final = 2000


class LocalPool:
    """Workers on this machine.

    Args:
        size: number of workers.
        threads: number of threads that each computes with.
        devices: the CUDA devices to deal out, by their names in CUDA_VISIBLE_DEVICES; none on a
            CPU, where all workers share the memory of the weights.
        shares: whether one process opens the engine for all.
    """

    # Not `-m`: the classes that it sends would be those of a module `__main__`.
    program = f"from {Start.__module__} import main; main()"

    def __init__(
        self, size: int, threads: int, *, devices: tuple[str, ...] = (), shares: bool
    ) -> None:
        self.size = size
        self._threads = threads
        self._devices = devices
        self._shares = shares
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._parent: Connection | None = None  # to the process that forks
        self._wires: dict[int, Connection] = {}
        self._pids: dict[int, int] = {}  # by seat
        self._statuses: dict[int, int] = {}  # by process id
        self._unread: list[tuple[int, Event]] = []
        self._first_seat = 0
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()

    def start(self, seat: int, settings: RunSettings) -> None:
        """Fork a worker."""
        if self._process is None or self._parent is None or self._process.poll() is not None:
            self._begin(seat, settings)
        assert self._parent is not None
        assert self._control is not None
        ours, theirs = socket.socketpair()
        for way in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            ours.setsockopt(socket.SOL_SOCKET, way, struct.pack("ll", STALL_SECONDS, 0))
        device = self._devices[seat % len(self._devices)] if self._devices else None
        self._pids.pop(seat, None)
        try:
            self._parent.send(Fork(seat, settings, device))
            socket.send_fds(self._control, [b"w"], [theirs.fileno()])
        except OSError:  # the process that forks has ended
            ours.close()
            self._unread.append((seat, Died(self._why(seat))))
        else:
            self._wires[seat] = Connection(ours.detach())
        finally:
            theirs.close()

    def give(self, seat: int, asked: Job | Question) -> None:
        """Send a worker its next job.

        If it has died, `poll` says so. If it hangs, it stays silent, as the driver notices.
        """
        with suppress(OSError):
            self._wires[seat].send(asked)

    def stop(self, seat: int) -> None:
        """Tell a worker to end its job after the forward pass in flight."""
        with suppress(OSError):
            self._wires[seat].send(STOP)

    def kill(self, seat: int) -> None:
        """End a worker at once."""
        wire = self._wires.pop(seat, None)
        if wire is not None:
            wire.close()
        if (pid := self._pids.pop(seat, None)) is not None and pid not in self._statuses:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def poll(self, seconds: float) -> list[tuple[int, Event]]:
        """Return what workers have said."""
        events, self._unread = self._unread, []
        sources = [*self._wires.values(), *([self._parent] if self._parent else [])]
        arrived = set(wait(sources, 0.0 if events else seconds))
        if self._parent in arrived:
            events += self._of_parent()
        for seat, wire in list(self._wires.items()):
            if wire in arrived:
                events += self._of_worker(seat, wire)
        return events

    def close(self) -> None:
        """End all workers and the process that forks them."""
        for seat in list(self._wires):
            self.kill(seat)
        self._end_parent(END_SECONDS)
        self._stderr.close()

    def _begin(self, seat: int, settings: RunSettings) -> None:
        """Start the process that forks workers; it opens the engine if that is shared."""
        self._end_parent()
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-c", self.program, str(theirs.fileno())]
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            command,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._stderr,
            stderr=self._stderr,
            start_new_session=True,  # Ctrl-C is the driver's
        )
        theirs.close()
        self._control, self._parent = ours, Connection(os.dup(ours.fileno()))
        self._first_seat = seat
        self._parent.send(Start(settings, self._threads, self.size, self._shares))

    def _end_parent(self, seconds: float = 0.0) -> None:
        """Close the sockets of the process that forks; end it, if it does not end by itself."""
        if self._parent is not None:
            self._parent.close()
            self._parent = None
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _of_parent(self) -> list[tuple[int, Event]]:
        """Read what the forking process says; where it ends, its workers end by themselves."""
        assert self._parent is not None
        try:
            message: Forked | Ended | Said | Refused = self._parent.recv()
        except (EOFError, OSError):
            self._parent.close()
            self._parent = None
            return []
        if isinstance(message, Forked):
            self._pids[message.seat] = message.pid
            return []
        if isinstance(message, Ended):
            self._statuses[message.pid] = message.status
            return []
        return [(self._first_seat, message)]

    def _of_worker(self, seat: int, wire: Connection) -> list[tuple[int, Event]]:
        event: Event | None = None
        try:
            event = wire.recv()
        except BlockingIOError:  # it hangs
            self.kill(seat)
            return [(seat, Died(f"after {STALL_SECONDS} seconds in the middle of a message"))]
        except (EOFError, OSError):
            pass
        if event is None or isinstance(event, Died | Refused):  # its last word
            del self._wires[seat]
            wire.close()
        return [(seat, event or Died(self._why(seat)))]

    def _why(self, seat: int) -> str:
        """Return how a worker ended: by which signal, or with which last line of its output."""
        while self._parent is not None and self._pids.get(seat) not in self._statuses:
            if not self._parent.poll(_STATUS_SECONDS):
                break
            self._unread += self._of_parent()
        status = self._statuses.pop(self._pids.pop(seat, 0), None)
        code = None if status is None else os.waitstatus_to_exitcode(status)
        if code is None and self._parent is None and self._process is not None:
            with suppress(subprocess.TimeoutExpired):  # it ended with the process that forks
                code = self._process.wait(_STATUS_SECONDS)
        if code is not None and code < 0:
            return f"by signal {-code} ({_name(-code)})"
        how = "without a status" if code is None else f"with status {code}"
        last = self._last_line()
        return f"{how} ({last})" if last else how

    def _last_line(self) -> str:
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _TAIL_BYTES))
        lines = self._stderr.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
