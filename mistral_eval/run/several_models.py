"""Run the same benchmarks on several models, one after the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mistral_eval.console import Talk
from mistral_eval.data import make_source
from mistral_eval.errors import (
    CheckpointError,
    EngineError,
    HubError,
    LockedError,
    MistralEvalError,
    RepliesError,
    ResourceError,
    TokenizerError,
)
from mistral_eval.run.opening import check_engine, check_iterations, is_finished, run_folder
from mistral_eval.run.run import run_suite
from mistral_eval.run.shared import Shared
from mistral_eval.settings import RunSettings

# What can be wrong with one model while others run.
MODEL_ERRORS = (
    CheckpointError,
    TokenizerError,
    HubError,
    ResourceError,
    EngineError,
    LockedError,
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one of several runs: the folder of a finished one, or else its error."""

    settings: RunSettings
    folder: Path | None = None
    error: MistralEvalError | None = None


def run_models(
    each: Sequence[RunSettings], talk: Talk, shared: Shared | None = None
) -> list[Outcome]:
    """Run the same benchmarks on several models, or several times, one after the other.

    The questions are built once, and encoded once for models with equal tokenizers. If one model
    cannot be run, the others are.

    Args:
        each: the settings of each run; they differ in model, name and iteration only.
        talk: receives progress and messages.
        shared: what the runs share; filled.

    Returns:
        What came of each run, in their order; at least one is finished.

    Raises:
        MistralEvalError: no model could be run, or the run cannot start or was stopped.
    """
    check_iterations(each)
    if len(each) == 1:
        return [Outcome(each[0], run_suite(each[0], talk))]
    errors = (*MODEL_ERRORS, *((RepliesError,) if each[0].no_compute else ()))
    shared = shared or Shared()
    found: list[Outcome] = []
    _say_refused(each, talk)
    for settings in each:
        try:
            found.append(Outcome(settings, run_suite(settings, talk, shared)))
        except errors as error:
            found.append(Outcome(settings, error=error))
    failures = [one.error for one in found if one.error is not None]
    if len(failures) == len(found):
        raise failures[0]
    return found


def _say_refused(each: Sequence[RunSettings], talk: Talk) -> None:
    """Say which models cannot be run before hours go into the others."""
    first_runs = [settings for settings in each if not settings.iteration]
    found = [(settings.model, _refusal(settings)) for settings in first_runs]
    if all(error for _, error in found):
        return  # the first one's error ends the command
    for model, error in found:
        if error is not None:
            talk.say(f"{model} will have no scores: {error}")


def _refusal(settings: RunSettings) -> MistralEvalError | None:
    """Return what keeps a run from beginning; None for nothing, and for a finished run."""
    try:
        if not settings.no_compute and not is_finished(
            run_folder(settings, make_source(settings.data))
        ):
            check_engine(settings)
    except MODEL_ERRORS as error:
        return error
    return None
