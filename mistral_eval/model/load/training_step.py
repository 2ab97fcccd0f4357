"""Checkpoints of one training: their steps, and those that a folder holds."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mistral_eval.model.load.gguf_file import SUFFIX, gguf_models
from mistral_eval.model.tokenizers.special import CONFIG

TRAINER_STATE: Final = "trainer_state.json"  # transformers' Trainer writes it into each checkpoint
_MODEL_FILES: Final = (CONFIG, "params.json", "adapter_config.json")
_STEP: Final = re.compile(
    r"(?<![a-z])(?:checkpoint|ckpt|(?:global[-_]?)?steps?|iter(?:ation)?)[-_=]?(\d{1,12})(?![a-z0-9])",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """The training step of a checkpoint, and where it was read, as the end of a sentence."""

    number: int
    source: str


def step_of(model: str, revision: str | None = None) -> TrainingStep | None:
    """Return the training step of a checkpoint: by its name, or else by its `trainer_state.json`.

    Names like `checkpoint-500`, `step_1000`, `global_step2000` and `model-step500.gguf` have one.

    Args:
        model: a folder, a file or a hub name.
        revision: the hub's branch or tag, whose name may have the step too.
    """
    named = _named(Path(model).name.removesuffix(SUFFIX))
    stated = _stated(Path(model))
    if named is not None:
        source = "its name"
        if stated not in (None, named):
            source += f", and {TRAINER_STATE} says {stated}"
        return TrainingStep(named, source)
    if stated is not None:
        return TrainingStep(stated, TRAINER_STATE)
    at = _named(revision or "")
    return None if at is None else TrainingStep(at, "its revision")


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints that a folder holds, in order of training step, then of name.

    These are its folders with a model, or with a step in their names (which may turn out to be
    broken), and its GGUF files if there are several. A model in the folder itself comes last:
    transformers' Trainer leaves the final one there. A folder that only is a checkpoint, or a file,
    is its own only one.
    """
    inside = folder.iterdir() if folder.is_dir() else ()
    found = [one for one in inside if one.is_dir() and _is_checkpoint(one)]
    files = gguf_models(folder)
    several = files if found or len(files) > 1 else []
    found = sorted((*found, *several), key=_order)
    if not found or (_has_model(folder) and not several):
        found.append(folder)
    return found


def _order(place: Path) -> tuple[float, str]:
    step = step_of(str(place))
    return (float("inf") if step is None else step.number, place.name)


def _is_checkpoint(folder: Path) -> bool:
    return _has_model(folder) or _named(folder.name) is not None


def _has_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _MODEL_FILES)


def _named(name: str) -> int | None:
    found = _STEP.findall(name)
    return int(found[-1]) if found else None


def _stated(folder: Path) -> int | None:
    """Return the step in the trainer's state; None where there is none, or the file is broken."""
    try:
        state = json.loads((folder / TRAINER_STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # the step changes no score: the checkpoint stands without one
        return None
    step = state.get("global_step") if isinstance(state, dict) else None
    return step if isinstance(step, int) else None
