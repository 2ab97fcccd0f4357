"""One program at a time: a zygote and a judge, the pipes between them, and the result."""

import json
import os
import selectors
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass

from mistral_eval.answers.completions import Program
from mistral_eval.errors import SandboxError

from .guest_process import GuestProcess, file_in_memory
from .launch import Setup, cores
from .outcomes import ProgramResult, Status

_DIED: dict[str, object] = {}  # stands for the last line of a process that ended without one
_REUSABLE = {Status.PASSED, Status.FAILED, Status.ERROR, "ended"}  # a judge's, after such a verdict


@dataclass(slots=True)
class _Job:
    """The program that runs now, and the last line of each of the two processes."""

    index: int
    started: float
    deadline: float
    lines: dict[str, dict[str, object]]
    expired: bool = False


class Slot:
    """Runs programs one after another; registers itself with the harness's selector."""

    def __init__(self, setup: Setup, selector: selectors.BaseSelector) -> None:
        """Starts both processes without waiting for them."""
        self._setup = setup
        self._selector = selector
        self._guests: dict[str, GuestProcess] = {}
        self._job: _Job | None = None
        for role in ("program", "judge"):
            self._add(role)

    def wait_until_ready(self) -> tuple[str, ...]:
        """Waits for both processes; gives what they cannot enforce.

        Raises:
            SandboxError: One did not start.
        """
        missing = {role: guest.wait_until_ready() for role, guest in self._guests.items()}
        return missing["program"]

    def start(self, index: int, program: Program) -> None:
        """Starts judging `program`, the run's `index`-th."""
        task = {
            "source": program.source,
            "setup": program.setup,
            "names": program.names,
            "context": program.context,
            "checks": program.checks,
        }
        asked, answered = os.pipe(), os.pipe()
        job = file_in_memory(json.dumps(task).encode())
        self._hand("program", [asked[0], answered[1]])
        self._hand("judge", [job, asked[1], answered[0]])
        for descriptor in (job, *asked, *answered):
            os.close(descriptor)
        now = time.monotonic()
        self._job = _Job(index, now, now + self._setup.limits.wall_seconds * _load(), {})

    def hear(self, role: str) -> tuple[int, ProgramResult] | None:
        """Takes what came from a role's process; index and result, once both are done."""
        try:
            line = self._guests[role].read_line()
        except EOFError:
            line = _DIED
            self._replace(role)
        if line is None or self._job is None:
            return None
        self._job.lines[role] = line
        if role == "judge" and "program" not in self._job.lines:
            # The judge has spoken: nothing that the program still does can matter. Where it has
            # ended by itself, the signal comes too late to change how.
            self._kill()
        return self._finish() if len(self._job.lines) == len(self._guests) else None

    def check_time(self, now: float) -> tuple[int, ProgramResult] | None:
        """Ends what has run for too long; replaces a process that does not obey."""
        if self._job is None or now < self._job.deadline:
            return None
        if not self._job.expired:
            self._job.expired = True
            self._job.deadline = now + self._setup.limits.grace_seconds * _load()
            self._kill()
            return None
        for role in self._guests.keys() - self._job.lines.keys():
            self._job.lines[role] = _DIED
            self._replace(role)
        return self._finish()

    def close(self) -> None:
        """Ends both processes and whatever they run."""
        for role in tuple(self._guests):
            self._remove(role)

    def _add(self, role: str) -> None:
        guest = self._guests[role] = GuestProcess(self._setup, role)
        self._selector.register(guest.control, selectors.EVENT_READ, (self, role))

    def _remove(self, role: str) -> None:
        guest = self._guests.pop(role)
        self._selector.unregister(guest.control)
        guest.close()

    def _replace(self, role: str) -> None:
        self._remove(role)
        self._add(role)
        self._guests[role].wait_until_ready()

    def _hand(self, role: str, descriptors: list[int]) -> None:
        """Gives a job to a process; to a new one, if it has ended since it was last heard."""
        try:
            self._guests[role].start_job(descriptors)
        except OSError:
            self._replace(role)
            self._guests[role].start_job(descriptors)

    def _kill(self) -> None:
        try:
            self._guests["program"].kill_job()
        except OSError:  # the zygote died: its end is read in its turn
            return

    def _finish(self) -> tuple[int, ProgramResult]:
        job, self._job = self._job, None
        assert job is not None, "only a running job can finish"
        verdict = job.lines["judge"]
        if verdict and verdict["status"] not in _REUSABLE:
            self._replace("judge")
        if job.lines["program"].get("spent"):
            self._replace("program")
        seconds = time.monotonic() - job.started
        status, detail = self._read(job, seconds)
        return job.index, ProgramResult(status, detail, seconds)

    def _read(self, job: _Job, seconds: float) -> tuple[Status, str]:
        """Status and detail, from what the judge and the zygote said."""
        verdict = job.lines["judge"]
        if not verdict:
            reason = f"its checks were not done after {seconds:.0f} seconds"
            return Status.TIMEOUT if job.expired else Status.KILLED, reason
        detail = str(verdict["detail"])
        if verdict["status"] == "ended":
            return self._read_end(job, detail)
        if verdict["check"]:
            detail += f"; first failing check: {verdict['check']}"
        return Status(str(verdict["status"])), detail

    def _read_end(self, job: _Job, detail: str) -> tuple[Status, str]:
        """Of a program that stopped before its checks were done."""
        end, limits = job.lines["program"], self._setup.limits
        if not end:
            return Status.KILLED, "its sandbox died"
        code, cpu = end["status"], end["cpu"]
        assert isinstance(code, int), f"an exit code is an int, not {code!r}"
        assert isinstance(cpu, float), f"CPU seconds are a float, not {cpu!r}"
        # The kernel counts CPU time for its limit in ticks, more coarsely than it reports it.
        if code == -signal.SIGKILL and cpu >= limits.cpu_seconds / 2:
            return Status.TIMEOUT, f"{limits.cpu_seconds} seconds of CPU time were used up"
        if job.expired:
            return Status.TIMEOUT, f"not done after {job.deadline - job.started:.0f} seconds"
        if code < 0 and code != -signal.SIGKILL:
            return Status.KILLED, f"killed by {signal.Signals(-code).name}"
        how = f"with exit code {code}" if code >= 0 else detail
        return Status.ERROR, f"the program ended before its checks were done ({how})"


def _load() -> float:
    """How much slower than alone a process runs here now: 1.0 on a machine with free cores."""
    return max(1.0, os.getloadavg()[0] / cores())


def start_slots(setup: Setup, selector: selectors.BaseSelector, count: int) -> Sequence[Slot]:
    """`count` slots, all started and ready.

    Raises:
        SandboxError: One did not start.
    """
    started: list[Slot] = []
    try:
        started.extend(Slot(setup, selector) for _ in range(count))
        for slot in started:
            slot.wait_until_ready()
    except SandboxError:
        for slot in started:
            slot.close()
        raise
    return started
