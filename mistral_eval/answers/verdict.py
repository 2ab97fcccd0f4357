"""The verdict on a reply: correct, wrong, no_answer or timeout, with what was read and why."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Outcome(StrEnum):
    """What a reply came to. Only `CORRECT` counts as right; the others are shown apart."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One reply's verdict: the outcome, the extracted answer as text, and the reason in words."""

    outcome: Outcome
    answer: str | None = None
    reason: str = ""

    @property
    def is_correct(self) -> bool:
        """Whether the reply counts as right."""
        return self.outcome is Outcome.CORRECT


@dataclass(frozen=True, slots=True)
class QuestionVerdict:
    """One question's verdict: the one that counts, those of its samples, and its metrics.

    `metrics` maps an lm-eval metric name to this question's value, e.g. {"maj@8": 1.0,
    "maj@1": 0.5}. `samples` is empty for multiple choice.
    """

    verdict: Verdict
    samples: tuple[Verdict, ...] = ()
    metrics: Mapping[str, object] = field(default_factory=dict)
