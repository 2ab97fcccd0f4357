"""Answer multiple-choice questions with the most likely choice.

Source: lm-eval's `acc` (plain likelihood) and `acc_norm` (likelihood per character).
"""

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

from mistral_eval.answers.verdict import Outcome, Verdict
from mistral_eval.errors import DataError, EngineError

Normalise: TypeAlias = Literal["none", "characters"]


def pick_choice(
    logprobs: Sequence[float], choices: Sequence[str], gold: int, normalise: Normalise
) -> Verdict:
    """Pick the most likely choice and compare it with the gold choice.

    Args:
        logprobs: Natural log-likelihood of each choice; `-inf` is allowed.
        choices: The choices as shown to the model, without the space before them.
        gold: Index of the right choice.
        normalise: "none", or "characters" to divide by the choice's length in characters.

    Returns:
        The verdict. Its answer is the text of the chosen choice; the first maximum wins ties.

    Raises:
        EngineError: A log-likelihood is nan, or their number differs from that of the choices.
        DataError: The gold index is out of range, or an empty choice cannot be normalised.
    """
    scores = _scores(logprobs, choices, normalise)
    if not 0 <= gold < len(choices):
        raise DataError(
            f"Expected the gold answer to be one of {len(choices)} choices, found index {gold}; "
            "check the benchmark's rows."
        )
    chosen = scores.index(max(scores))
    outcome = Outcome.CORRECT if chosen == gold else Outcome.WRONG
    reason = f"choice {chosen} is the most likely of {len(choices)}; the gold is choice {gold}"
    return Verdict(outcome, choices[chosen], reason)


def _scores(logprobs: Sequence[float], choices: Sequence[str], normalise: Normalise) -> list[float]:
    """Check the log-likelihoods and return one comparable score per choice."""
    if len(logprobs) != len(choices):
        raise EngineError(
            f"Expected one log-likelihood for each of {len(choices)} choices, "
            f"found {len(logprobs)}; the engine lost a request."
        )
    if any(math.isnan(value) for value in logprobs):
        raise EngineError(
            f"Expected log-likelihoods, found nan among {list(logprobs)}; "
            "check the checkpoint and its dtype."
        )
    if normalise == "none":
        return list(logprobs)
    if not all(choices):
        raise DataError(
            "Expected choices of at least one character, found an empty one; "
            "a likelihood per character needs its length: check the benchmark's rows."
        )
    return [value / len(choice) for value, choice in zip(logprobs, choices, strict=True)]
