"""Run programs in parallel slots. A slot is a zygote, a checker and the pipes between them."""

import json
import os
import selectors
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from mistral_eval.answers.completions import Program
from mistral_eval.sandbox.guest_process import GuestProcess, file_in_memory
from mistral_eval.sandbox.launch import Setup, cores
from mistral_eval.sandbox.outcomes import ProgramResult, Status

_TICK_SECONDS = 0.5  # how often deadlines are checked
_DIED: dict[str, object] = {}  # stands for the final message of a process that died without one
_REUSABLE = {Status.PASSED, Status.FAILED, Status.ERROR, "ended"}  # a checker's, after such results


@dataclass(slots=True)
class _Job:
    """The running program, and the final messages of the two processes so far, by role."""

    index: int
    started: float
    deadline: float
    messages: dict[str, dict[str, object]]
    expired: bool = False


class Slot:
    """Runs programs one after another, and registers its processes with the pool's selector."""

    def __init__(self, setup: Setup, selector: selectors.BaseSelector) -> None:
        """Start both processes without waiting for them."""
        self._setup = setup
        self._selector = selector
        self._guests: dict[str, GuestProcess] = {}
        self._job: _Job | None = None
        for role in ("program", "checker"):
            self._add(role)

    def wait_until_ready(self) -> tuple[str, ...]:
        """Wait for both processes; return the layers that cannot be enforced on a program.

        Raises:
            SandboxError: A process did not start.
        """
        missing = {role: guest.wait_until_ready() for role, guest in self._guests.items()}
        return missing["program"]

    def start(self, index: int, program: Program) -> None:
        """Start `program`, the run's `index`-th, and its checks."""
        task = {
            "source": program.source,
            "setup": program.setup,
            "names": program.names,
            "context": program.context,
            "checks": program.checks,
        }
        requests, answers = os.pipe(), os.pipe()
        job = file_in_memory(json.dumps(task).encode())
        self._send("program", [requests[0], answers[1]])
        self._send("checker", [job, requests[1], answers[0]])
        for descriptor in (job, *requests, *answers):
            os.close(descriptor)
        now = time.monotonic()
        self._job = _Job(index, now, now + self._setup.limits.wall_seconds * _load(), {})

    def hear(self, role: str) -> tuple[int, ProgramResult] | None:
        """Read from a role's process; return index and result once both are done."""
        try:
            message = self._guests[role].read_line()
        except EOFError:
            message = _DIED
            self._replace(role)
        if message is None or self._job is None:
            return None
        self._job.messages[role] = message
        if role == "checker" and "program" not in self._job.messages:
            # The checks are done, so nothing that the program still does can matter. If it has
            # exited by itself, the signal comes too late to change its exit status.
            self._kill()
        return self._finish() if len(self._job.messages) == len(self._guests) else None

    def check_time(self, now: float) -> tuple[int, ProgramResult] | None:
        """Kill a program past its deadline; replace processes that do not react in time."""
        if self._job is None or now < self._job.deadline:
            return None
        if not self._job.expired:
            self._job.expired = True
            self._job.deadline = now + self._setup.limits.grace_seconds * _load()
            self._kill()
            return None
        for role in self._guests.keys() - self._job.messages.keys():
            self._job.messages[role] = _DIED
            self._replace(role)
        return self._finish()

    def close(self) -> None:
        """End both processes and everything they run."""
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

    def _send(self, role: str, descriptors: list[int]) -> None:
        """Send a job to a process, or to its replacement if it has died in the meantime."""
        try:
            self._guests[role].start_job(descriptors)
        except OSError:
            self._replace(role)
            self._guests[role].start_job(descriptors)

    def _kill(self) -> None:
        try:
            self._guests["program"].kill_job()
        except OSError:  # the zygote died; `hear` reads its end of file
            return

    def _finish(self) -> tuple[int, ProgramResult]:
        job, self._job = self._job, None
        assert job is not None, "only a running job can finish"
        checked = job.messages["checker"]
        if checked and checked["status"] not in _REUSABLE:
            self._replace("checker")
        if job.messages["program"].get("spent"):
            self._replace("program")
        seconds = time.monotonic() - job.started
        status, detail = self._interpret(job, seconds)
        return job.index, ProgramResult(status, detail, seconds)

    def _interpret(self, job: _Job, seconds: float) -> tuple[Status, str]:
        """Return status and detail from the final messages of the checker and the zygote."""
        checked = job.messages["checker"]
        if not checked:
            reason = f"its checks were not done after {seconds:.0f} seconds"
            return Status.TIMEOUT if job.expired else Status.KILLED, reason
        detail = str(checked["detail"])
        if checked["status"] == "ended":
            return self._interpret_end(job, detail)
        if checked["check"]:
            detail += f"; first failing check: {checked['check']}"
        return Status(str(checked["status"])), detail

    def _interpret_end(self, job: _Job, detail: str) -> tuple[Status, str]:
        """Return status and detail of a program that ended before its checks were done."""
        end, limits = job.messages["program"], self._setup.limits
        if not end:
            return Status.KILLED, "its sandbox died"
        code, cpu = end["status"], end["cpu"]
        assert isinstance(code, int), f"an exit code is an int, not {code!r}"
        assert isinstance(cpu, float), f"CPU seconds are a float, not {cpu!r}"
        # For its limit the kernel counts CPU time in ticks, more coarsely than it shows it.
        if code == -signal.SIGKILL and cpu >= limits.cpu_seconds / 2:
            return Status.TIMEOUT, f"{limits.cpu_seconds} seconds of CPU time were used up"
        if job.expired:
            return Status.TIMEOUT, f"not done after {job.deadline - job.started:.0f} seconds"
        if code < 0 and code != -signal.SIGKILL:
            return Status.KILLED, f"killed by {signal.Signals(-code).name}"
        how = f"with exit code {code}" if code >= 0 else detail
        return Status.ERROR, f"the program ended before its checks were done ({how})"


class Pool:
    """A number of slots, all started and ready. Use `close` when done.

    `missing` names the layers that cannot be enforced on a program here.
    """

    def __init__(self, setup: Setup, count: int) -> None:
        """Start the slots in parallel and wait for them.

        Raises:
            SandboxError: A process did not start.
        """
        self._selector = selectors.DefaultSelector()
        self._slots: list[Slot] = []
        try:
            self._slots.extend(Slot(setup, self._selector) for _ in range(count))
            for slot in self._slots:
                self.missing = slot.wait_until_ready()
        except BaseException:
            self.close()
            raise

    def run(self, programs: Sequence[Program]) -> Iterator[tuple[int, ProgramResult]]:
        """Run `programs`; yield each one's index and result as it ends."""
        idle = list(self._slots)
        waiting = iter(enumerate(programs))
        left = len(programs)
        while left:
            while idle and (job := next(waiting, None)) is not None:
                idle.pop().start(*job)
            for slot, index, result in self._wait():
                idle.append(slot)
                left -= 1
                yield index, result

    def close(self) -> None:
        """End all processes."""
        for slot in self._slots:
            slot.close()
        self._selector.close()

    def _wait(self) -> list[tuple[Slot, int, ProgramResult]]:
        """Wait for events, one tick at most; return the programs that have ended."""
        ended = []
        for key, _ in self._selector.select(_TICK_SECONDS):
            slot, role = key.data
            done = slot.hear(role)
            if done is not None:
                ended.append((slot, *done))
        if not ended:
            now = time.monotonic()
            for slot in self._slots:
                done = slot.check_time(now)
                if done is not None:
                    ended.append((slot, *done))
        return ended


def run_all(
    programs: Sequence[Program], setup: Setup, count: int
) -> Iterator[tuple[int, ProgramResult]]:
    """Run `programs`, `count` at a time; yield each one's index and result as it ends."""
    with closing(Pool(setup, count)) as pool:
        yield from pool.run(programs)


def _load() -> float:
    """Return how much longer a process takes under the current load: 1.0 with free cores."""
    return max(1.0, os.getloadavg()[0] / cores())
