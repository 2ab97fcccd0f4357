"""One program at a time: a pair of zygotes, the pipes between their forks, and the verdict."""

import json
import os
import selectors
import time
from collections.abc import Sequence

from mistral_eval.answers.programs import Program
from mistral_eval.errors import SandboxError

from .backends import cores
from .results import ProgramResult, Status
from .zygote import End, Setup, ZygoteProcess, sealed_file

_GRACE_SECONDS = 20.0  # how long a zygote may take to obey before it is replaced
_LONGEST_VERDICT = 1 << 16
_UNCONFINED = 99  # guest/zygote.py: the fork could not be confined and ran nothing


class Slot:
    """Runs programs one after another; `events` tells the harness's loop what to listen to."""

    def __init__(self, setup: Setup, selector: selectors.BaseSelector) -> None:
        """Starts both zygotes without waiting for them."""
        self._setup = setup
        self._selector = selector
        self._zygotes = {role: ZygoteProcess(setup, role) for role in ("program", "judge")}
        self._ends: dict[str, End] = {}
        self._verdict = b""
        self._verdict_pipe = -1
        self._expired = False
        self._started = self._deadline = 0.0
        self.index = -1  # of the program that runs; -1 when idle

    def wait_until_ready(self) -> tuple[str, ...]:
        """Waits for both zygotes; gives what they cannot enforce.

        Raises:
            SandboxError: One did not start.
        """
        for role, zygote in self._zygotes.items():
            self._greet(role, zygote)
        return self._zygotes["program"].missing

    def start(self, index: int, program: Program) -> None:
        """Starts judging `program`, the run's `index`-th."""
        self.index, self._ends, self._verdict, self._expired = index, {}, b"", False
        asked, answered = os.pipe(), os.pipe()
        self._verdict_pipe, verdict = os.pipe()
        untrusted = {"source": program.source, "setup": program.setup, "names": program.names}
        trusted = {"context": program.context, "checks": program.checks, "names": program.names}
        jobs = [sealed_file(json.dumps(task).encode()) for task in (untrusted, trusted)]
        self._zygotes["program"].start_job([jobs[0], asked[0], answered[1]])
        self._zygotes["judge"].start_job([jobs[1], asked[1], answered[0], verdict])
        for descriptor in (*jobs, *asked, *answered, verdict):
            os.close(descriptor)
        self._started = time.monotonic()
        self._deadline = self._started + self._setup.limits.wall_seconds * _load()
        self._selector.register(self._verdict_pipe, selectors.EVENT_READ, (self, "verdict"))

    def hear(self, source: str) -> ProgramResult | None:
        """Takes what came from 'verdict', 'program' or 'judge'; the result, once all have ended."""
        if source == "verdict":
            self._hear_verdict()
        else:
            end = self._zygotes[source].read_end()
            if end is not None:
                self._hear_end(source, end)
        if self.index < 0 or self._verdict_pipe >= 0 or len(self._ends) < 2:
            return None
        return self._result()

    def check_time(self, now: float) -> ProgramResult | None:
        """Ends what has run for too long; replaces a zygote that does not obey."""
        if self.index < 0 or now < self._deadline:
            return None
        if not self._expired:
            self._expired = True
            self._deadline = now + _GRACE_SECONDS * _load()
            self._kill()
            return None
        for role in set(self._zygotes) - set(self._ends):
            self._hear_end(role, End(None))
        self._close_verdict()
        return self._result()

    def close(self) -> None:
        """Ends the zygotes and whatever they run."""
        self._close_verdict()
        for zygote in self._zygotes.values():
            self._selector.unregister(zygote.control)
            zygote.close()

    def _greet(self, role: str, zygote: ZygoteProcess) -> None:
        # Registered first, so that `close` finds it whatever happens.
        self._selector.register(zygote.control, selectors.EVENT_READ, (self, role))
        zygote.wait_until_ready()

    def _hear_verdict(self) -> None:
        data = os.read(self._verdict_pipe, _LONGEST_VERDICT)
        self._verdict += data
        if not data or len(self._verdict) > _LONGEST_VERDICT:
            self._close_verdict()
            # The judge has spoken: nothing that the program still does can matter. Where it
            # has ended by itself, the signal comes too late to change how.
            self._kill()

    def _hear_end(self, role: str, end: End) -> None:
        if end.exit_code is None:
            self._replace(role)
        self._ends[role] = end

    def _replace(self, role: str) -> None:
        """A new zygote for one that died or does not obey."""
        old = self._zygotes[role]
        self._selector.unregister(old.control)
        old.close()
        self._zygotes[role] = ZygoteProcess(self._setup, role)
        self._greet(role, self._zygotes[role])

    def _kill(self) -> None:
        for role, zygote in self._zygotes.items():
            if role not in self._ends:
                try:
                    zygote.kill_job()
                except OSError:  # it died: its end is read in its turn
                    continue

    def _close_verdict(self) -> None:
        if self._verdict_pipe >= 0:
            self._selector.unregister(self._verdict_pipe)
            os.close(self._verdict_pipe)
            self._verdict_pipe = -1

    def _result(self) -> ProgramResult:
        self.index = -1
        seconds = time.monotonic() - self._started
        status, detail = _read_verdict(self._verdict)
        if status in {"ended", ""}:
            blamed = self._ends["program" if status else "judge"]
            status, detail = self._read_end(blamed, detail)
        return ProgramResult(Status(status), detail, seconds)

    def _read_end(self, end: End, detail: str) -> tuple[str, str]:
        """Status and detail of a program (or judge) that stopped before the checks were done."""
        if end.exit_code == _UNCONFINED:
            raise SandboxError(
                "a program's process could not be confined, so nothing ran in it; "
                "see `mistral-eval doctor`"
            )
        limits = self._setup.limits
        if end.cpu_seconds >= limits.cpu_seconds - 0.5:
            return Status.TIMEOUT, f"{limits.cpu_seconds} seconds of CPU time were used up"
        if self._expired:
            return Status.TIMEOUT, f"not done after {time.monotonic() - self._started:.0f} seconds"
        if end.exit_code is None:
            return Status.KILLED, "its sandbox died"
        if end.exit_code < 0 and not (end.exit_code == -9 and detail):
            return Status.KILLED, f"killed by signal {-end.exit_code}"
        return Status.ERROR, f"the program ended before the checks were done: {detail}"


def _read_verdict(data: bytes) -> tuple[str, str]:
    """The judge's status and detail; an empty status where it wrote no whole verdict."""
    if not data.endswith(b"\n"):
        return "", "the judge ended before its verdict"
    verdict = json.loads(data)
    detail = verdict["detail"]
    if verdict["check"]:
        detail += f"; first failing check: {verdict['check']}"
    return verdict["status"], detail


def _load() -> float:
    """How much slower than alone a process runs here now: 1.0 on a machine with free cores."""
    return max(1.0, os.getloadavg()[0] / cores())


def slots(setup: Setup, selector: selectors.BaseSelector, count: int) -> Sequence[Slot]:
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
