"""What is judged of a reply, and the verdict: outcome, extracted answer and reason."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Outcome(StrEnum):
    """Outcome of judging a reply. Only `CORRECT` counts; the others are reported separately."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on one reply: the outcome, the extracted answer as text, and the reason."""

    outcome: Outcome
    answer: str | None = None
    reason: str = ""

    @property
    def is_correct(self) -> bool:
        """Whether the reply counts as correct."""
        return self.outcome is Outcome.CORRECT


@dataclass(frozen=True, slots=True)
class QuestionVerdict:
    """The verdict on one question.

    Attributes:
        verdict: The one that counts.
        samples: Verdicts on the single samples; empty for multiple choice.
        metrics: lm-eval metric name to this question's value, e.g. {"maj@8": 1.0, "maj@1": 0.5}.
    """

    verdict: Verdict
    samples: tuple[Verdict, ...] = ()
    metrics: Mapping[str, object] = field(default_factory=dict)


def cut(text: str, until: Iterable[str]) -> str:
    """Return the text before the first occurrence of any stop string."""
    ends = [place for stop in until if stop and (place := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text


def after_reasoning(text: str) -> str:
    """Return what follows the last `</think>`, where a model that reasons aloud answers."""
    return text.rpartition("</think>")[2]
