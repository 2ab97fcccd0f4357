"""Run programs in parallel slots. A slot is zygotes, a checker and the pipes between them.

A program that passes is run again by a zygote with another hash seed, until it has passed under all
of them.
"""

import json
import os
import selectors
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from mistral_eval.answers.completions import Program
from mistral_eval.sandbox.guest_process import GuestProcess, file_in_memory
from mistral_eval.sandbox.launch import HASH_SEEDS, Setup, cores
from mistral_eval.sandbox.outcomes import ProgramResult, Status

_TICK_SECONDS = 0.5  # how often deadlines are checked
_DIED: dict[str, object] = {}  # stands for the final message of a process that died without one
_CHECKER = "checker"
_PROCESSES = 2  # of a running program: its zygote and the checker
_REUSABLE = {Status.PASSED, Status.FAILED, Status.ERROR, "ended"}  # a checker's, after such results


@dataclass(slots=True)
class _Job:
    """The running program, and the final messages of its two processes so far, by name."""

    index: int
    program: Program
    cpu_seconds: int  # the limit
    seed: str = HASH_SEEDS[0]
    started: float = 0.0
    deadline: float = 0.0
    expired: float | None = None  # when the deadline had passed
    earlier: ProgramResult | None = None  # of the runs under other seeds
    messages: dict[str, dict[str, object]] = field(default_factory=dict)


class Slot:
    """Runs programs one after another, and registers its processes with the pool's selector."""

    def __init__(self, setup: Setup, selector: selectors.BaseSelector) -> None:
        """Start the checker and the first zygote without waiting for them."""
        self._setup = setup
        self._selector = selector
        self._guests: dict[str, GuestProcess] = {}  # zygotes by hash seed, and the checker
        self._job: _Job | None = None
        for name in (HASH_SEEDS[0], _CHECKER):
            self._add(name)

    def wait_until_ready(self) -> tuple[str, ...]:
        """Wait for both processes; return the layers that cannot be enforced on a program.

        Raises:
            SandboxError: A process did not start.
        """
        missing = {name: guest.wait_until_ready() for name, guest in self._guests.items()}
        return missing[HASH_SEEDS[0]]

    def start(self, index: int, program: Program) -> None:
        """Start `program`, the run's `index`-th, and its checks."""
        self._begin(_Job(index, program, program.cpu_seconds or self._setup.limits.cpu_seconds))

    def _begin(self, job: _Job) -> None:
        """Start the job's program under the job's hash seed."""
        program, limits = job.program, self._setup.limits
        if job.seed not in self._guests:
            self._add(job.seed)
            self._guests[job.seed].wait_until_ready()
        task = {
            "source": program.source,
            "setup": program.setup,
            "names": program.names,
            "context": program.context,
            "checks": program.checks,
            "cpu_seconds": job.cpu_seconds,
        }
        requests, answers = os.pipe(), os.pipe()
        file = file_in_memory(json.dumps(task).encode())
        self._send(job.seed, [requests[0], answers[1]], job.cpu_seconds)
        self._send(_CHECKER, [file, requests[1], answers[0]], job.cpu_seconds)
        for descriptor in (file, *requests, *answers):
            os.close(descriptor)
        wall = limits.wall_seconds * job.cpu_seconds / limits.cpu_seconds
        job.started = time.monotonic()
        job.deadline = job.started + wall * self._load()
        self._job = job

    def hear(self, name: str) -> tuple[int, ProgramResult] | None:
        """Read from a process; return index and result of the program once it is judged."""
        try:
            message = self._guests[name].read_line()
        except EOFError:
            message = _DIED
            self._replace(name)
        job = self._job
        if message is None or job is None or name not in {_CHECKER, job.seed}:
            return None
        job.messages[name] = message
        if name == _CHECKER and job.seed not in job.messages:
            # The checks are done, so nothing that the program still does can matter. If it has
            # exited by itself, the signal comes too late to change its exit status.
            self._kill()
        return self._finish() if len(job.messages) == _PROCESSES else None

    def check_time(self, now: float) -> tuple[int, ProgramResult] | None:
        """Kill a program past its deadline; replace processes that do not react in time."""
        job = self._job
        if job is None or now < job.deadline:
            return None
        if job.expired is None:
            job.expired = now
            job.deadline = now + self._setup.limits.grace_seconds * self._load()
            self._kill()
            return None
        for name in {_CHECKER, job.seed} - job.messages.keys():
            job.messages[name] = _DIED
            self._replace(name)
        return self._finish()

    def close(self) -> None:
        """End all processes and everything they run."""
        for name in tuple(self._guests):
            self._remove(name)

    def _load(self) -> float:
        """Return how much longer a process takes under the current load: 1.0 with free cores."""
        return min(max(1.0, os.getloadavg()[0] / cores()), self._setup.limits.most_load)

    def _add(self, name: str) -> None:
        role, seed = (_CHECKER, HASH_SEEDS[0]) if name == _CHECKER else ("program", name)
        guest = self._guests[name] = GuestProcess(self._setup, role, seed)
        self._selector.register(guest.control, selectors.EVENT_READ, (self, name))

    def _remove(self, name: str) -> None:
        guest = self._guests.pop(name)
        self._selector.unregister(guest.control)
        guest.close()

    def _replace(self, name: str) -> None:
        self._remove(name)
        self._add(name)
        self._guests[name].wait_until_ready()

    def _send(self, name: str, descriptors: list[int], cpu_seconds: int) -> None:
        """Send a job to a process, or to its replacement if it has died in the meantime."""
        try:
            self._guests[name].start_job(descriptors, cpu_seconds)
        except OSError:
            self._replace(name)
            self._guests[name].start_job(descriptors, cpu_seconds)

    def _kill(self) -> None:
        assert self._job is not None, "only a running job is killed"
        try:
            self._guests[self._job.seed].kill_job()
        except OSError:  # the zygote died; `hear` reads its end of file
            return

    def _finish(self) -> tuple[int, ProgramResult] | None:
        """Return index and result; None if the program passed and is run with the next seed."""
        job, self._job = self._job, None
        assert job is not None, "only a running job can finish"
        checked, ended = job.messages[_CHECKER], job.messages[job.seed]
        if checked and checked["status"] not in _REUSABLE:
            self._replace(_CHECKER)
        if ended.get("spent"):
            self._replace(job.seed)
        seconds = time.monotonic() - job.started
        status, detail = self._interpret(job, seconds)
        if status is not Status.PASSED and job.seed != HASH_SEEDS[0]:
            passed = HASH_SEEDS[: HASH_SEEDS.index(job.seed)]
            detail += f" (PYTHONHASHSEED={job.seed}; it passed with {', '.join(passed)})"
        cpu = ended.get("cpu", 0.0)
        assert isinstance(cpu, float), f"CPU seconds are a float, not {cpu!r}"
        if job.earlier:
            seconds, cpu = seconds + job.earlier.seconds, max(cpu, job.earlier.cpu_seconds)
        result = ProgramResult(status, detail, seconds, cpu)
        rest = HASH_SEEDS[HASH_SEEDS.index(job.seed) + 1 :]
        if status is Status.PASSED and rest and cpu <= self._setup.limits.rerun_cpu_seconds:
            again = _Job(job.index, job.program, job.cpu_seconds, seed=rest[0], earlier=result)
            self._begin(again)
            return None
        return job.index, result

    def _interpret(self, job: _Job, seconds: float) -> tuple[Status, str]:
        """Return status and detail from the final messages of the checker and the zygote."""
        checked = job.messages[_CHECKER]
        if not checked:
            reason = f"its checks were not done after {seconds:.0f} seconds"
            return Status.KILLED if job.expired is None else Status.TIMEOUT, reason
        detail = str(checked["detail"])
        if checked["status"] == "ended":
            return self._interpret_end(job, detail)
        if checked["check"]:
            detail += f"; first failing check: {checked['check']}"
        return Status(str(checked["status"])), detail

    def _interpret_end(self, job: _Job, detail: str) -> tuple[Status, str]:
        """Return status and detail of a program that ended before its checks were done."""
        end = job.messages[job.seed]
        if not end:
            return Status.KILLED, "its sandbox died"
        code, cpu = end["status"], end["cpu"]
        assert isinstance(code, int), f"an exit code is an int, not {code!r}"
        assert isinstance(cpu, float), f"CPU seconds are a float, not {cpu!r}"
        # For its limit the kernel counts CPU time in ticks, more coarsely than it shows it.
        if code == -signal.SIGKILL and cpu >= job.cpu_seconds / 2:
            return Status.TIMEOUT, f"{job.cpu_seconds} seconds of CPU time were used up"
        if job.expired is not None:
            return Status.TIMEOUT, f"not done after {job.expired - job.started:.0f} seconds"
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
