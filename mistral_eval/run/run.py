"""One run, from settings to a folder: ask, answer, judge, remember."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mistral_eval.console import Talk
from mistral_eval.data import Source, make_source
from mistral_eval.engines.lm_eval_model import MistralLM
from mistral_eval.engines.stock_tasks import load_stock, run_stock, stock_lines
from mistral_eval.errors import SandboxError
from mistral_eval.record.journal import Journal
from mistral_eval.record.other_runs import OtherRuns
from mistral_eval.record.run_folder import JOURNAL_FILE, make_folder, read_run
from mistral_eval.run.judging import Judged, judge_benchmark
from mistral_eval.run.opening import Opened, check_device, open_backend
from mistral_eval.run.questions import Asking, LoadedBenchmark, load_benchmarks
from mistral_eval.run.rates import speed_of
from mistral_eval.run.results import Finished, write_run
from mistral_eval.run.run_id import is_another_attempt, is_finished, run_folder
from mistral_eval.run.stopping import stoppable
from mistral_eval.run.verifying import is_verified, native_engine, verify
from mistral_eval.run.watching import AnswerWatch, JudgeWatch
from mistral_eval.sandbox import Isolation, probe
from mistral_eval.settings import RunSettings
from mistral_eval.suite.benchmark import JudgeContext
from mistral_eval.suite.registry import BY_ID

Opener = Callable[[RunSettings, Sequence[LoadedBenchmark], Talk], Opened]


def run_suite(settings: RunSettings, talk: Talk) -> Path:
    """Run the benchmarks of `settings`, or find them done.

    Returns:
        The run's folder, with its scores in run.json.

    Raises:
        MistralEvalError: anything the user can fix; nothing that was answered before is lost.
    """
    source = make_source(settings.data)
    folder = run_folder(settings, source)
    earlier = read_run(folder) if is_finished(folder) else None
    if earlier and is_verified(earlier, settings.verify):
        talk.say(f"This run is finished; its record is in {folder}. --fresh runs it again.")
        return folder
    isolation = isolation_for(settings)
    check_device(settings)
    make_folder(folder)
    complete(folder, settings, talk, isolation, earlier=earlier)
    return folder


def complete(
    folder: Path,
    settings: RunSettings,
    talk: Talk,
    isolation: Isolation | None,
    opener: Opener = open_backend,
    earlier: Mapping[str, Any] | None = None,
) -> None:
    """Do what a run still lacks, in its folder, with the engine that `opener` gives.

    `earlier` is the run.json of a finished run whose replies are judged or verified again.

    Raises:
        MistralEvalError: anything the user can fix; nothing that was answered before is lost.
    """
    source = make_source(settings.data)
    clock = Clock()
    others = None if earlier or is_another_attempt(folder) else OtherRuns(folder, talk.say)
    with stoppable(folder, talk.say) as stopper, Journal(folder / JOURNAL_FILE) as journal:
        if journal.recovered:
            talk.say(journal.recovered)
        if known := journal.count():
            talk.say(f"Going on with {known} replies of {folder}.")
        with clock.phase("build"):
            loaded = _load(settings, source, talk)
            stock_tasks = load_stock(settings) if settings.stock_tasks else None
        with clock.phase("load"):
            opened = opener(settings, loaded, talk)
        if settings.verify:
            native_engine(opened.backend)
        lm = MistralLM(opened.backend, journal, others=others, stopper=stopper)
        with clock.phase("answer"):
            replies = _answer(lm, loaded, talk)
        with clock.phase("stock"):
            stock = run_stock(stock_tasks, lm, settings) if stock_tasks else None
        speed = speed_of(opened.backend)
        verified = _verify(lm, settings, clock, talk)
        context = JudgeContext(isolation=isolation, unsafe=settings.unsafe_code)
        with clock.phase("judge"):
            judged = _judge(loaded, replies, context, talk)
        journal.fold()  # whoever finds run.json finds one whole file beside it
        found = (judged, stock, clock.seconds, earlier, verified, speed)
        write_run(folder, Finished(settings, opened, lm, *found))
    for line in stock_lines(stock):
        talk.say(line)
    talk.say(f"The run's record is in {folder}.")


class Clock:
    """Seconds spent in each phase of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the block under this name."""
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 3)


def _load(settings: RunSettings, source: Source, talk: Talk) -> list[LoadedBenchmark]:
    asking = Asking.of(settings, source)
    loaded = []
    for benchmark in load_benchmarks(settings.own_tasks, asking):
        count = len(benchmark.questions)
        talk.say(f"{benchmark.benchmark.column}: {count} question{'s' if count != 1 else ''}")
        loaded.append(benchmark)
    return loaded


def isolation_for(settings: RunSettings) -> Isolation | None:
    """How generated programs will be isolated; None if none are to run.

    Raises:
        SandboxError: They cannot be, which is said before anything is loaded.
    """
    wanted = [name for name in settings.own_tasks if BY_ID[name].runs_programs]
    if not wanted:
        return None
    isolation = probe(settings.sandbox)
    if not isolation.available and not settings.unsafe_code:
        others = ",".join(name for name in settings.tasks if name not in wanted)
        rest = f"--tasks {others} still runs; " if others else ""
        raise SandboxError(
            f"{' and '.join(wanted)} run programs that the model wrote, and this machine cannot "
            f"isolate them: {isolation.detail} {rest}--unsafe-code runs them unguarded."
        )
    return isolation


def _answer(lm: MistralLM, loaded: Sequence[LoadedBenchmark], talk: Talk) -> list[list[Any]]:
    """Replies of all benchmarks, one call per kind of request, so that they share what they can."""
    replies: dict[int, list[Any]] = {}
    for kind, method in (("score", lm.loglikelihood), ("generate", lm.generate_until)):
        asked = [b for b in loaded if b.benchmark.kind == kind]
        instances = [instance for benchmark in asked for instance in benchmark.instances]
        if not instances:
            continue
        with _watched(lm, asked, talk):
            answers = iter(method(instances))
        for benchmark in asked:
            replies[id(benchmark)] = [
                [
                    next(answers)
                    for instance in question.instances
                    for _ in range(instance.repeats or 1)
                ]
                for question in benchmark.questions
            ]
    return [replies[id(benchmark)] for benchmark in loaded]


@contextmanager
def _watched(lm: MistralLM, asked: Sequence[LoadedBenchmark], talk: Talk) -> Iterator[None]:
    """A display of how the block answers these benchmarks; none, and no cost, when quiet."""
    if talk.quiet:
        yield
        return
    lm.watch = watch = AnswerWatch(asked[0].benchmark.kind, asked, lm.backend)
    with talk.show(watch.phase.snapshot):
        yield
    lm.watch = None


def _verify(
    lm: MistralLM, settings: RunSettings, clock: Clock, talk: Talk
) -> Mapping[str, Any] | None:
    if not settings.verify:
        return None
    with clock.phase("verify"):
        verified = verify(lm, settings.verify, settings.seed)
    count = sum(verified["requests"].values())
    talk.say(
        f"Verified {count} requests on the plain path: log-probabilities differ by "
        f"{verified['largest_difference']:.1e} at most."
    )
    return verified


def _judge(
    loaded: Sequence[LoadedBenchmark],
    replies: Sequence[list[Any]],
    context: JudgeContext,
    talk: Talk,
) -> list[Judged]:
    """Verdicts of all benchmarks; the display moves in a benchmark by what it reports."""
    judged: list[Judged] = []
    watch = JudgeWatch(loaded)
    context = replace(context, on_done=watch.done, on_verdict=watch.verdict)
    with talk.show(watch.phase.snapshot):
        for benchmark, answers in zip(loaded, replies, strict=True):
            watch.next()
            judged.append(judge_benchmark(benchmark, answers, context))
            watch.end(judged[-1].cell.correct)
    return judged
