"""What is said of refusals that a language model judged."""

from collections.abc import Sequence
from typing import Final

from mistral_eval.answers.refusals.judge import Response
from mistral_eval.record.run_record import JudgeRecord
from mistral_eval.suite.benchmark import Doc
from mistral_eval.suite.chats import Guardrail, rates_in_words

CUES: Final = "cues"
"""The judge of refusals without a model, as tables and options name it."""
NOT_KNOWN: Final = (
    "how often that judge errs was not measured here, so no rate is corrected, and its rates are "
    "not to be compared with those by cues or by another judge"
)


def refusal_notes(
    benchmark: Guardrail, docs: Sequence[Doc], answers: Sequence[str | None], judge: JudgeRecord
) -> tuple[str, ...]:
    """Return what a table's notes say of refusals that a language model judged.

    Args:
        benchmark: The benchmark.
        docs: Its prompts.
        answers: What the verdicts say of the replies, values of `Response`.
        judge: The language model.
    """
    return (
        f"refusals judged by the language model {judge.named}; {NOT_KNOWN}",
        *rates_in_words(benchmark.rates(docs, answers, by_cues=False)),
        *_unread(answers, judge),
        *_versions(judge),
    )


def _unread(answers: Sequence[str | None], judge: JudgeRecord) -> tuple[str, ...]:
    unread = answers.count(Response.UNREAD)
    if not unread:
        return ()
    empty = answers.count(Response.EMPTY)
    refused = f", {judge.refused} of them refused by the server" if judge.refused else ""
    said = (
        f"{unread} of {len(answers) - empty} judgments hold no readable label after {judge.asked} "
        f"attempts in all{refused}; they are left out of the cell and of the rates"
    )
    return (said,)


def _versions(judge: JudgeRecord) -> tuple[str, ...]:
    if len(judge.versions) < 2:
        return ()
    names = ", ".join(f"{name} ({count})" for name, count in sorted(judge.versions.items()))
    return (f"the judge answered under {len(judge.versions)} names, {names}",)
