"""Judge a run's answers: without a model, and by the language model that the settings name."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from mistral_eval.console import Talk
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
    """Judge all benchmarks, also by the language model that the settings name, if they do."""
    context = JudgeContext(isolation=by.isolation, unsafe=settings.unsafe_code)
    if settings.judge_model is None:
        with by.clock.phase("judge"):
            return _judge(loaded, replies, context, by.talk)
    stopper = by.stopper
    stop, reuses = stopper.is_wanted if stopper else None, not is_another_attempt(folder)
    with judging(folder, settings, by.talk, stop=stop, reuses=reuses) as at_work:
        found = NO_REFUSALS
        if settings.refusal_judge == "llm":
            with by.clock.phase("refusals"), stopper.deferred() if stopper else nullcontext():
                found = judge_refusals(loaded, replies, at_work)
        with by.clock.phase("judge"):
            judged = _judge(loaded, replies, context, by.talk, found)
        with by.clock.phase("rate"), stopper.deferred() if stopper else nullcontext():
            return [_rated(folder, settings, one, at_work) for one in judged]


def _judge(
    loaded: Sequence[LoadedBenchmark],
    replies: Sequence[list[Any]],
    context: JudgeContext,
    talk: Talk,
    refusals: Mapping[str, JudgedRefusals] = NO_REFUSALS,
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


def _rated(folder: Path, settings: RunSettings, judged: Judged, at_work: Judging) -> Judged:
    """Have the answers of a conversation rated; see `rate_run`."""
    benchmark = judged.loaded.benchmark
    if not isinstance(benchmark, Conversation):
        return judged
    docs = [question.doc for question in judged.questions]
    texts = [[str(text) for (text,) in question.replies] for question in judged.questions]
    turns = rated_turns(benchmark, docs, texts)
    return replace(judged, ratings=rate_run(folder, settings, turns, at_work))
