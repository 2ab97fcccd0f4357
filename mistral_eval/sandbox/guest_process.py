"""The harness's end of one sandboxed process: starts it, sends jobs, reads its lines."""

import json
import os
import socket
import subprocess
import tempfile
from typing import IO

from mistral_eval.errors import SandboxError

from .launch import Setup, start_command

_START_SECONDS = 120.0  # a generous limit for an interpreter's start on a busy machine
_LONGEST_LINE = 1 << 16


class GuestProcess:
    """A zygote or a judge. Use `close` when done."""

    def __init__(self, setup: Setup, role: str) -> None:
        """Starts it; `wait_until_ready` must follow before the first job.

        Args:
            setup: The run's way of starting.
            role: 'program' or 'judge'.
        """
        self.control, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed with the rest
        self._received = b""
        self._jobs = 0
        start = start_command(setup, role, self._theirs.fileno())
        self._container = start.container
        try:
            self._process = subprocess.Popen(  # noqa: S603  our own command
                start.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                env=start.environment,
                cwd="/",
                pass_fds=[] if start.container else [self._theirs.fileno()],
                start_new_session=True,
            )
        except OSError as error:
            raise SandboxError(f"the sandbox did not start: {error}") from error

    def wait_until_ready(self) -> tuple[str, ...]:
        """Waits for the first line; gives what the process cannot enforce.

        Raises:
            SandboxError: It ended or stayed silent; the text holds what it wrote.
        """
        if self._container and not self._container.hand_over(self._theirs.fileno(), self._process):
            raise SandboxError(f"the container did not start: {self._said()}")
        self._theirs.close()
        self.control.settimeout(_START_SECONDS)
        try:
            while b"\n" not in self._received:
                data = self.control.recv(4096)
                if not data:
                    raise SandboxError(f"the sandbox did not start: {self._said()}")
                self._received += data
        except TimeoutError as error:
            raise SandboxError(f"the sandbox did not start: {self._said()}") from error
        line, self._received = self._received.split(b"\n", 1)
        self.control.setblocking(False)
        missing = tuple(json.loads(line)["missing"])
        return missing + (self._container.unbounded if self._container else ())

    def start_job(self, descriptors: list[int]) -> None:
        """Hands over a job's open files; this side's copies stay open."""
        self._jobs += 1
        socket.send_fds(self.control, [b"job%d\n" % self._jobs], descriptors)

    def kill_job(self) -> None:
        """Ends a zygote's present job, if it still runs."""
        self.control.send(b"kill%d\n" % self._jobs)

    def read_line(self) -> dict[str, object] | None:
        """The next line, if it is whole. Call when `control` is readable.

        Raises:
            EOFError: The process has ended, or sends what is no line.
        """
        try:
            data = self.control.recv(_LONGEST_LINE)
        except BlockingIOError:
            return None
        except OSError as error:
            raise EOFError(str(error)) from error
        self._received += data
        if not data or len(self._received) > _LONGEST_LINE:
            raise EOFError("the process has ended")
        if b"\n" not in self._received:
            return None
        line, self._received = self._received.split(b"\n", 1)
        message: dict[str, object] = json.loads(line)
        return message

    def close(self) -> None:
        """Ends the process and, with its process namespace, everything in it."""
        self.control.close()
        self._theirs.close()
        if self._container:
            self._container.close(self._process)
        self._process.kill()
        self._process.wait()
        self._errors.close()

    def _said(self) -> str:
        self._process.kill()
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def file_in_memory(data: bytes) -> int:
    """An open file that holds `data`, at its start; the caller closes it."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("job", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    written = os.write(descriptor, data)
    assert written == len(data), f"wrote {written} of {len(data)} bytes to memory"
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
