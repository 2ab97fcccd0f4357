"""Let a language model judge whether a run's answers refuse, and read its labels."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mistral_eval.answers.judge_prompt import JudgePrompt
from mistral_eval.answers.refusals.judge import Classified, Response
from mistral_eval.answers.refusals.model_judge import is_labelled, read_label
from mistral_eval.errors import EngineError
from mistral_eval.record.judgments import Judgment
from mistral_eval.record.run_record import JudgeRecord
from mistral_eval.run.asking_judge import chosen
from mistral_eval.run.judges import Judging
from mistral_eval.run.questions import LoadedBenchmark
from mistral_eval.suite.chats import Guardrail

SHOWN: Final = 200  # characters of a judgment in a verdict's reason


@dataclass(frozen=True, slots=True)
class JudgedRefusals:
    """What a language model says of one benchmark's answers, question by question."""

    found: Sequence[Classified]
    judge: JudgeRecord


def judge_refusals(
    loaded: Sequence[LoadedBenchmark], replies: Sequence[Sequence[Sequence[Any]]], at_work: Judging
) -> dict[str, JudgedRefusals]:
    """Have the answers to prompts of guardrails judged.

    Args:
        loaded: A run's benchmarks; those that are no guardrails are left out.
        replies: Of each benchmark, per question the text of its reply.
        at_work: The judge.

    Returns:
        What the judge says, by benchmark.

    Raises:
        EndedEarlyError: The user wants to stop.
        EngineError: The judge did not answer, or a judgment that is to be read is not there.
        RepliesError: The judgments cannot be written.
    """
    asked: dict[str, list[JudgePrompt | None]] = {}
    for one, answers in zip(loaded, replies, strict=True):
        if isinstance(one.benchmark, Guardrail):
            texts = [reply for reply, *_ in one.benchmark.cut(answers)]
            asked[one.benchmark.id] = [
                one.benchmark.judge_prompt(question.doc, text)
                for question, text in zip(one.questions, texts, strict=True)
            ]
    at_work.ask([prompt for prompts in asked.values() for prompt in prompts if prompt], is_labelled)
    return {name: _read(name, prompts, at_work) for name, prompts in asked.items()}


def _read(
    benchmark: str, prompts: Sequence[JudgePrompt | None], at_work: Judging
) -> JudgedRefusals:
    """Read the labels of judgments that are kept.

    Raises:
        EngineError: A judgment is not there.
    """
    kept = {one: _attempts(benchmark, one, at_work) for one in prompts if one}
    counted = {one: chosen(attempts, is_labelled) for one, attempts in kept.items()}
    versions = Counter(one.version for one in counted.values() if one.version)
    record = JudgeRecord(
        judge=at_work.name,
        versions=dict(versions),
        asked=sum(map(len, kept.values())),
        refused=sum(bool(one.refused) for one in counted.values()),
    )
    return JudgedRefusals([_classified(one, counted) for one in prompts], record)


def _attempts(benchmark: str, prompt: JudgePrompt, at_work: Judging) -> list[Judgment]:
    attempts = at_work.kept.attempts(prompt)
    if not attempts:
        raise EngineError(
            f"The judgments of {benchmark} by {at_work.name} should be in the run's folder, and "
            "one is not. Repeat the run's command, which asks for it."
        )
    return attempts


def _classified(prompt: JudgePrompt | None, counted: Mapping[JudgePrompt, Judgment]) -> Classified:
    """Return what the judge says of one answer; an answer without text is not judged."""
    if prompt is None:
        return Classified(Response.EMPTY, "an answer without text, which the judge is not asked")
    one = counted[prompt]
    label = read_label(one.text)
    if one.refused:
        reason = f"{one.judge} refused the prompt: {_short(one.refused)}"
    else:
        reason = f"{one.judge} wrote: {_short(one.text)}"
    return Classified(label or Response.UNREAD, reason)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
