"""Judge a run's answers: without a model, and by the language model that the settings name."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from mistral_eval.console import Talk
from mistral_eval.record.run_record import RatingsRecord
from mistral_eval.run.clock import Clock
from mistral_eval.run.judges import Judging, judging
from mistral_eval.run.judging import Judged, judge_benchmark
from mistral_eval.run.judging_refusals import JudgedRefusals, judge_refusals
from mistral_eval.run.opening import is_another_attempt
from mistral_eval.run.questions import LoadedBenchmark
from mistral_eval.run.rating import rate_run, rated_turns
from mistral_eval.run.stopping import Stopper
from mistral_eval.run.watching import JudgeWatch
from mistral_eval.sandbox import Isolation
from mistral_eval.settings import RunSettings
from mistral_eval.suite.benchmark import JudgeContext
from mistral_eval.suite.conversations import Conversation

NO_REFUSALS: Final[Mapping[str, JudgedRefusals]] = {}


@dataclass(frozen=True, slots=True)
class Judges:
    """What judging needs besides the answers.

    Attributes:
        isolation: Isolation of generated programs; None if there are none.
        stopper: Ends what a language model is asked; None reads what it has judged.
        clock: Measures the phases.
        talk: Receives progress and messages.
    """

    isolation: Isolation | None
    stopper: Stopper | None
    clock: Clock
    talk: Talk


def judge_all(
    folder: Path,
    settings: RunSettings,
    loaded: Sequence[LoadedBenchmark],
    replies: Sequence[list[Any]],
    by: Judges,
) -> list[Judged]:
    """Judge all benchmarks, also by the language model that the settings name, if they do.

    That model is asked first and freed, because programs need the memory when they are judged.
    """
    refusals, ratings = NO_REFUSALS, dict[str, RatingsRecord]()
    if settings.judge_model is not None:
        stopper = by.stopper
        stop, reuses = stopper.is_wanted if stopper else None, not is_another_attempt(folder)
        with (
            by.clock.phase("rate"),
            judging(folder, settings, by.talk, stop=stop, reuses=reuses) as at_work,
            stopper.deferred() if stopper else nullcontext(),
        ):
            if settings.refusal_judge == "llm":
                refusals = judge_refusals(loaded, replies, at_work)
            ratings = _ratings(folder, settings, loaded, replies, at_work)
    context = JudgeContext(isolation=by.isolation, unsafe=settings.unsafe_code)
    with by.clock.phase("judge"):
        judged = _judge(loaded, replies, context, by.talk, refusals)
    return [replace(one, ratings=ratings.get(one.loaded.benchmark.id)) for one in judged]


def _judge(
    loaded: Sequence[LoadedBenchmark],
    replies: Sequence[list[Any]],
    context: JudgeContext,
    talk: Talk,
    refusals: Mapping[str, JudgedRefusals],
) -> list[Judged]:
    """Judge all benchmarks and display progress, unless quiet.

    `refusals` is what a language model said of the answers to guardrails, by benchmark.
    """
    by_model = {name: one.judge for name, one in refusals.items()}
    context = replace(context, refusals={name: one.found for name, one in refusals.items()})
    asked = zip(loaded, replies, strict=True)
    if talk.quiet:
        return [judge_benchmark(one, answers, context, by_model) for one, answers in asked]
    judged: list[Judged] = []
    watch = JudgeWatch(loaded)
    with talk.show(watch):
        for row, (benchmark, answers) in zip(watch.rows, asked, strict=True):
            noted = replace(context, on_done=row.advance)
            judged.append(judge_benchmark(benchmark, answers, noted, by_model))
            row.end(judged[-1].cell)
    return judged


def _ratings(
    folder: Path,
    settings: RunSettings,
    loaded: Sequence[LoadedBenchmark],
    replies: Sequence[list[Any]],
    at_work: Judging,
) -> dict[str, RatingsRecord]:
    """Have the answers of conversations rated, by benchmark; see `rate_run`."""
    found = {}
    for one, texts in zip(loaded, replies, strict=True):
        if isinstance(one.benchmark, Conversation):
            docs = [question.doc for question in one.questions]
            turns = rated_turns(one.benchmark, docs, texts)
            found[one.benchmark.id] = rate_run(folder, settings, turns, at_work)
    return found
