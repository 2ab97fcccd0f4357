"""Run the same benchmarks on the checkpoints of a training, in order of their steps."""

import math
from collections.abc import Sequence
from pathlib import Path

from mistral_eval.console import Talk, counted
from mistral_eval.model.load.training_step import checkpoints_in, step_of
from mistral_eval.run.several_models import Outcome, run_models
from mistral_eval.run.shared import Shared
from mistral_eval.settings import TINY, RunSettings


def checkpoints_of(given: Sequence[str]) -> list[tuple[str, str | None]]:
    """Return the models that a sweep's arguments name, each with its revision on the hub or None.

    A folder of checkpoints stands for these.
    """
    found: list[tuple[str, str | None]] = []
    for one in given:
        place = Path(one).expanduser()
        if one != TINY and place.exists():
            found += [(str(checkpoint), None) for checkpoint in checkpoints_in(place)]
        else:
            model, _, revision = one.partition("@")
            found.append((model, revision or None))
    return found


def run_sweep(each: Sequence[RunSettings], talk: Talk) -> list[Outcome]:
    """Run checkpoints in order of training step; those without one come last, as they were given.

    Args:
        each: the settings of each run; they differ in the model only.
        talk: receives progress and messages.

    Returns:
        What came of each run, in that order; at least one is finished.

    Raises:
        MistralEvalError: as of `run_models`.
    """
    shared = Shared()
    found = run_models(sorted(each, key=_order), talk, shared)
    if shared.encodings.reused:
        encoded = counted(shared.encodings.encoded, "request")
        reused = f"{shared.encodings.reused:,}"
        talk.say(f"{encoded} encoded, and {reused} taken as an earlier checkpoint had them.")
    return found


def _order(settings: RunSettings) -> float:
    step = step_of(settings.model, settings.revision)
    return math.inf if step is None else step.number
