"""Kills runs of the real command line, many times, and writes down what each attempt did.

    python tests/harness/kill_driver.py FOLDER SEED TASKS

A process that has imported everything once forks a child for each attempt, since starting Python
and torch costs more than the run. The child runs `mistral_eval.cli.app.main`. It notes the phase it
is in and counts events in it (a question built, a forward pass, a batch written, a file put in its
place), and it writes the key of each reply to a file as it is computed, before the replies log sees
it. It kills itself at a random event, or its parent kills it after a random time. The outcome goes
to FOLDER/report.json; test_fifty_kills.py judges it.
"""

import json
import mmap
import os
import random
import select
import signal
import sys
import time
import traceback
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# Everything a run imports, once.
import mistral_eval.engines.native as opening
import mistral_eval.run.run as running
from mistral_eval.cli import app as cli
from mistral_eval.cli import table as cli_results
from mistral_eval.engines.keys import reply_key
from mistral_eval.engines.native import NativeEngine
from mistral_eval.model.transformer import Transformer
from mistral_eval.record import replies
from mistral_eval.record.replies import RepliesLog
from mistral_eval.report import table
from mistral_eval.report.table import rich_table
from mistral_eval.run import judge_run
from mistral_eval.run.answering import Answering

KILLS = 50
BATCH = 16
OPTIONS = ("-m", "tiny", "--data", "sample", "-L", "4", "--batch-tokens", "128", "--quiet")
PHASES = ("building", "loading", "scoring", "generating", "judging", "saving")
PLAN = ("building", "loading", *(phase for phase in PHASES[2:] for _ in range(2)))  # of one run
KINDS = {"score": "scoring", "generate": "generating"}
CLOCK = {"build": "building", "load": "loading", "judge": "judging"}
WARM = (table, cli_results, rich_table)


@dataclass(slots=True)
class Kill:
    """When to kill: at the `event`-th event of a phase, or `after` seconds of it."""

    phase: str
    event: int | None = None
    after: float | None = None


@dataclass(slots=True)
class Attempt:
    """One child: what was meant, where it was when it ended, and what it had computed.

    Attributes:
        run: which run it worked on.
        planned: the phase it was to be killed in; None if it was left alone.
        by: "event", "time" or None.
        phase: the phase it was in at the end.
        code: its exit status; -9 if it was killed.
        before: keys that were durable when it began.
        computed: keys in the order in which it computed their replies.
        after: keys that are durable now.
    """

    run: int
    planned: str | None
    by: str | None
    phase: str = ""
    code: int = 0
    before: list[str] = field(default_factory=list)
    computed: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)


class Phases:
    """What the child tells its parent while it lives: the phase (shared memory), and its end."""

    def __init__(self) -> None:
        self._now = mmap.mmap(-1, 1)
        self._read, self._write = os.pipe()
        self.counts: Counter[str] = Counter()
        self.began: dict[str, float] = {}
        self.kill: Kill | None = None

    @property
    def now(self) -> str:
        return PHASES[self._now[0]]

    def enter(self, phase: str) -> None:
        """The child has come to a phase."""
        self._now[0] = PHASES.index(phase)
        self.began[phase] = time.monotonic()
        if self.kill and self.kill.phase == phase and self.kill.after is not None:
            os.write(self._write, b"!")
        if self.kill and PHASES.index(phase) > PHASES.index(self.kill.phase):
            os.kill(os.getpid(), signal.SIGKILL)  # its moment never came: less was left to do
        self.event()

    def event(self) -> None:
        """Something has happened in it; the lot may have fallen on this."""
        self.counts[self.now] += 1
        kill = self.kill
        if kill and kill.phase == self.now and kill.event == self.counts[self.now]:
            os.kill(os.getpid(), signal.SIGKILL)

    def wait_for(self, child: int, seconds: float) -> None:
        """In the parent: kill the child so many seconds after it has come to its phase."""
        while not select.select([self._read], [], [], 0.05)[0]:
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return
        os.read(self._read, 1)
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)  # it is not waited for yet, so its number is its own

    def seconds(self, end: float) -> dict[str, float]:
        """How long each phase took."""
        times = [*(self.began[phase] for phase in PHASES), end]
        return {phase: times[n + 1] - times[n] for n, phase in enumerate(PHASES)}

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


def watch(phases: Phases, log: int) -> None:
    """In the child: have the run's own functions say where they are."""
    clock = running.Clock.phase

    def phase(self: Any, name: str) -> Any:
        if name in CLOCK:
            phases.enter(CLOCK[name])
        return clock(self, name)

    running.Clock.phase = phase
    write_run = running.write_run

    def saving(*arguments: Any) -> None:
        phases.enter("saving")
        write_run(*arguments)

    running.write_run = saving
    compute = Answering._compute

    def computing(self: Any, unique: Any, known: Any) -> None:
        phases.enter(KINDS[next(iter(unique.values())).request.kind])
        compute(self, unique, known)

    Answering._compute = computing  # type: ignore[method-assign]
    answer = NativeEngine.answer

    def answering(self: Any, encoded: Any, *arguments: Any) -> Any:
        for index, reply in answer(self, encoded, *arguments):
            key = reply_key(self.identity, encoded[index])
            os.write(log, key.hex().encode() + b"\n")
            phases.event()
            yield index, reply

    NativeEngine.answer = answering
    for owner, name in (
        *((opening, name) for name in ("tiny_model", "load_tokenizer", "ModelRunner")),
        (running, "load_benchmarks"),
        (judge_run, "judge_benchmark"),
        (Transformer, "hidden"),
        *((RepliesLog, name) for name in ("_index", "_create", "_append")),
        *((os, name) for name in ("pwrite", "fsync", "replace")),
    ):
        setattr(owner, name, _with_events(getattr(owner, name), phases))
    replies.BATCH_REPLIES = BATCH


def _with_events(call: Any, phases: Phases) -> Any:
    """The same function, with an event before it and one after."""

    def counted(*arguments: Any, **named: Any) -> Any:
        phases.event()
        found = call(*arguments, **named)
        phases.event()
        return found

    return counted


def attempt(folder: Path, tasks: str, run: int, kill: Kill | None) -> Attempt:
    """Fork a child that works on a run, and have it killed."""
    by = None if kill is None else "event" if kill.after is None else "time"
    done = Attempt(run, None if kill is None else kill.phase, by)
    output = folder / str(run)
    done.before = durable(output)
    log = folder / "computed.log"
    phases = Phases()
    phases.kill = kill
    child = os.fork()
    if child == 0:
        _live(folder, phases, log, ["run", "-t", tasks, *OPTIONS, "-o", str(output)])
    if kill is not None and kill.after is not None:
        phases.wait_for(child, kill.after)
    done.code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    done.phase = phases.now
    phases.close()
    done.computed = log.read_text().split()
    done.after = durable(output)
    return done


def _live(folder: Path, phases: Phases, log: Path, arguments: list[str]) -> None:
    """The child's life: the command line, its output kept, never back into the parent's code."""
    code = 70
    try:
        said = os.open(folder / "said.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        sys.argv = ["mistral-eval", *arguments]
        phases.enter("building")
        watch(phases, os.open(log, flags))
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        else:
            code = 0
        if code == 0 and not (folder / "survey.json").exists():
            found = {"counts": phases.counts, "seconds": phases.seconds(time.monotonic())}
            (folder / "survey.json").write_text(json.dumps(found))
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def durable(output: Path) -> list[str]:
    """The keys in a run's replies log; a torn last line, which has no newline, has none."""
    logs = [file.read_bytes() for file in output.rglob("replies/*.jsonl")]
    return [json.loads(line)["key"] for log in logs for line in log.split(b"\n")[:-1]]


def draw(lot: random.Random, phase: str, by: str, survey: dict[str, Any]) -> Kill:
    """A moment of a phase, of one that gets shorter with each attempt not too late a one."""
    share = 0.7 if phase in ("scoring", "generating") else 1.0
    if by == "event":
        return Kill(phase, event=lot.randint(1, max(1, int(share * survey["counts"][phase]))))
    return Kill(phase, after=lot.random() * share * survey["seconds"][phase])


def main() -> None:
    """One run undisturbed; then run after run, each killed ten times and finished."""
    folder, seed, tasks = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    lot = random.Random(seed)
    attempts = [attempt(folder, tasks, 0, None)]
    survey = json.loads((folder / "survey.json").read_text())
    killed = 0
    for run in range(1, 2 * KILLS):
        for number, phase in enumerate(PLAN[: KILLS - killed]):
            kill = draw(lot, phase, ("event", "time")[(number + run) % 2], survey)
            attempts.append(attempt(folder, tasks, run, kill))
            killed += attempts[-1].code == -signal.SIGKILL
            if attempts[-1].code != -signal.SIGKILL:
                break  # it came to its end before its time: the next run
        else:
            attempts.append(attempt(folder, tasks, run, None))
        if killed == KILLS:
            break
    report = {"seed": seed, "survey": survey, "attempts": [asdict(one) for one in attempts]}
    (folder / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
