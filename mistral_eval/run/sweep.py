"""Run the same benchmarks on the checkpoints of a training, in order of their steps."""

from collections.abc import Sequence
from pathlib import Path

from mistral_eval.console import Talk, counted
from mistral_eval.model.load.training_step import checkpoints_in, step_of
from mistral_eval.run.run import Outcome, run_models
from mistral_eval.run.shared import Shared
from mistral_eval.settings import TINY, RunSettings


def checkpoints_of(given: Sequence[str]) -> list[str]:
    """Return the models that a sweep's arguments name: a folder of checkpoints stands for these."""
    found: list[str] = []
    for one in given:
        place = Path(one).expanduser()
        is_local = one != TINY and place.exists()
        found += map(str, checkpoints_in(place)) if is_local else [one]
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
    steps = {one.model: step_of(one.model, one.revision) for one in each}
    unknown = max((step.number for step in steps.values() if step), default=0) + 1

    def order(settings: RunSettings) -> int:
        step = steps[settings.model]
        return unknown if step is None else step.number

    shared = Shared()
    found = run_models(sorted(each, key=order), talk, shared)
    if shared.encodings.reused:
        encoded = counted(shared.encodings.encoded, "request")
        reused = f"{shared.encodings.reused:,}"
        talk.say(f"{encoded} encoded, and {reused} taken as an earlier checkpoint had them.")
    return found
