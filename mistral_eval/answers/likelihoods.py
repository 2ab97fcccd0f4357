"""Answer multiple-choice questions with the most likely choice.

Source: lm-eval's `acc` (plain likelihood) and `acc_norm` (likelihood per character); Brown et al.
2020, section 2.4, for the likelihood over that of the same choice in a context that says nothing.
"""

import math
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

from mistral_eval.answers.verdict import Outcome, Verdict
from mistral_eval.errors import DataError, EngineError

Normalise: TypeAlias = Literal["none", "characters", "unconditional"]
_MEASURES: Final = {
    "characters": "per character",
    "unconditional": "relative to its likelihood without the question",
}


def pick_choice(
    logprobs: Sequence[float],
    choices: Sequence[str],
    gold: int,
    normalise: Normalise,
    unconditional: Sequence[float] = (),
) -> Verdict:
    """Pick the most likely choice and compare it with the gold choice.

    Args:
        logprobs: Natural log-likelihood of each choice; `-inf` is allowed.
        choices: The choices as shown to the model, without the space before them.
        gold: Index of the right choice.
        normalise: "none", "characters" to divide by the choice's length in characters, or
            "unconditional" to subtract `unconditional`.
        unconditional: Natural log-likelihood of each choice without the question; finite.

    Returns:
        The verdict. Its answer is the text of the chosen choice; the first maximum wins ties.

    Raises:
        EngineError: A log-likelihood is nan, or their number differs from that of the choices;
            one without the question is not finite.
        DataError: The gold index is out of range, or an empty choice cannot be normalised.
    """
    scores = _scores(logprobs, choices, normalise)
    if normalise == "unconditional":
        alone = _scores(unconditional, choices, normalise)
        if not all(map(math.isfinite, alone)):
            raise EngineError(
                f"Expected finite log-likelihoods without the question, found {alone}; check the "
                "checkpoint and its dtype."
            )
        scores = [score - without for score, without in zip(scores, alone, strict=True)]
    if not 0 <= gold < len(choices):
        raise DataError(
            f"Expected the gold answer to be one of {len(choices)} choices, found index {gold}; "
            "check the benchmark's rows."
        )
    chosen = scores.index(max(scores))
    outcome = Outcome.CORRECT if chosen == gold else Outcome.WRONG
    best = f"choice {chosen} is the most likely of {len(choices)}"
    if normalise != "none":  # these values are recorded nowhere else
        values = ", ".join(f"{score:.3f}" for score in scores)
        best += f" {_MEASURES[normalise]} ({values})"
    reason = f"{best}; the gold is choice {gold}"
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
    if normalise != "characters":
        return list(logprobs)
    if not all(choices):
        raise DataError(
            "Expected choices of at least one character, found an empty one; "
            "a likelihood per character needs its length: check the benchmark's rows."
        )
    return [value / len(choice) for value, choice in zip(logprobs, choices, strict=True)]
