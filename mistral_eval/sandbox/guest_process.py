"""The host's side of one guest process: start it, send it jobs, read its messages."""

import json
import os
import socket
import stat
import subprocess
import tempfile
from contextlib import suppress
from typing import IO

from mistral_eval.errors import SandboxError
from mistral_eval.sandbox.launch import Setup, start_command

_START_SECONDS = 120.0  # generous: an interpreter's start on a busy machine
_LONGEST_LINE = 1 << 16
SINKS = (os.devnull, "/dev/zero")


class GuestProcess:
    """A zygote or a checker. Use `close` when done."""

    def __init__(self, setup: Setup, role: str, hash_seed: str) -> None:
        """Start it; `wait_until_ready` must follow before the first job.

        Args:
            setup: How this run starts its processes.
            role: 'program' or 'checker'.
            hash_seed: The value of PYTHONHASHSEED inside.
        """
        output = _open_sink()
        ended, writer = os.pipe()
        os.close(writer)
        try:
            self.control, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed in `close`
            self._received = b""
            self._jobs = 0
            start = start_command(setup, role, self._theirs.fileno(), hash_seed)
            self._container = start.container
            self._process = subprocess.Popen(  # noqa: S603  our own command
                start.command,
                stdin=ended,
                stdout=output,
                stderr=self._errors,
                env=start.environment,
                cwd="/",
                pass_fds=[] if start.container else [self._theirs.fileno()],
                start_new_session=True,
            )
        except OSError as error:
            raise SandboxError(f"the sandbox did not start: {error}") from error
        finally:
            os.close(output)
            os.close(ended)

    def wait_until_ready(self) -> tuple[str, ...]:
        """Wait for the first line; return the layers that the process cannot enforce.

        Raises:
            SandboxError: It ended or sent nothing in time; the text holds its last error line.
        """
        if self._container and not self._container.hand_over(self._theirs.fileno(), self._process):
            raise SandboxError(f"the container did not start: {self._last_error()}")
        self._theirs.close()
        self.control.settimeout(_START_SECONDS)
        try:
            while b"\n" not in self._received:
                data = self.control.recv(4096)
                if not data:
                    raise SandboxError(f"the sandbox did not start: {self._last_error()}")
                self._received += data
        except TimeoutError as error:
            raise SandboxError(f"the sandbox did not start: {self._last_error()}") from error
        line, self._received = self._received.split(b"\n", 1)
        self.control.setblocking(False)
        missing = tuple(json.loads(line)["missing"])
        return missing + (self._container.unenforced if self._container else ())

    def start_job(self, descriptors: list[int], cpu_seconds: int) -> None:
        """Send a job's open files and CPU limit; the copies on this side stay open."""
        self._jobs += 1
        socket.send_fds(self.control, [b"job%d/%d\n" % (self._jobs, cpu_seconds)], descriptors)

    def kill_job(self) -> None:
        """Kill the zygote's current program, if it still runs."""
        self.control.send(b"kill%d\n" % self._jobs)

    def read_line(self) -> dict[str, object] | None:
        """Return the next complete line, or None. Call it when `control` is readable.

        Raises:
            EOFError: The process has ended, or its line is too long.
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
        """End the process and, with its process namespace, everything in it."""
        self.control.close()
        self._theirs.close()
        if self._container:
            self._container.close(self._process)
        self._process.kill()
        self._process.wait()
        self._errors.close()

    def _last_error(self) -> str:
        """End the process and return the last line of its standard error."""
        self._process.kill()
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no error output"


def file_in_memory(data: bytes) -> int:
    """Return a descriptor of a file that holds `data`, at offset 0; the caller closes it."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("job", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    written = os.write(descriptor, data)
    assert written == len(data), f"wrote {written} of {len(data)} bytes to memory"
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _open_sink() -> int:
    """Return a descriptor that discards what is written to it; the caller closes it.

    It is /dev/null, or /dev/zero where a program that ran as root has put a file in its place.

    Raises:
        SandboxError: Neither is a device.
    """
    for name in SINKS:
        with suppress(OSError):
            descriptor = os.open(name, os.O_WRONLY)
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                return descriptor
            os.close(descriptor)
    raise SandboxError(
        "the sandbox needs a device that discards what programs print, and neither /dev/null nor "
        "/dev/zero is one here; as root: rm /dev/null && mknod -m 666 /dev/null c 1 3"
    )
