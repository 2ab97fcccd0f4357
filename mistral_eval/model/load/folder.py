"""Check a model folder before any engine reads its weights, and note what is left unused.

Every engine that loads a checkpoint calls `check_folder`.
"""

import re
from pathlib import Path
from typing import Any

from mistral_eval.errors import CheckpointError
from mistral_eval.model.load.fields import read_json

# The classes of transformers that predict the next token; all are named in one of these ways.
_LANGUAGE_MODEL = re.compile(r"\w*(ForCausalLM|LMHead\w*|ForConditionalGeneration)")
_PROGRAMS = ("config.json", "tokenizer_config.json")  # files whose auto_map names Python files
_TEMPLATES = ("chat_template.jinja", "chat_template.json")
TRUST = "trust_remote_code"


def check_folder(path: Path, *, trusted: bool = False) -> None:
    """Check that a path is a model folder, of a language model that needs no program of its own.

    Args:
        path: the value of `--model`, or the folder of a hub name.
        trusted: whether the user has allowed the folder's own Python files to run.

    Raises:
        CheckpointError: the path is no folder, its config.json names another kind of model, or
            names a program that the user has not allowed.
    """
    if not path.is_dir():
        kind = "is a file" if path.exists() else "does not exist"
        raise CheckpointError(
            f"{path} should be a folder with a model's files and {kind}: give the folder, a GGUF "
            "file, a Hugging Face name such as mistralai/Mistral-7B-v0.1, or tiny."
        )
    _check_architectures(path)
    if trusted:
        return
    for name in _PROGRAMS:
        programs = _field(path / name, "auto_map")
        if programs:
            raise CheckpointError(
                f"{path / name}: auto_map names programs of the checkpoint's own "
                f"({_named(programs)}), which run only if you say so: read them, then give "
                f"`--engine hf --model-args {TRUST}=true`, or remove auto_map to use none."
            )


def has_chat_template(path: Path) -> bool:
    """Return whether a model folder holds a chat template."""
    named = _field(path / "tokenizer_config.json", "chat_template")
    return bool(named) or any((path / name).is_file() for name in _TEMPLATES)


def folder_notes(path: Path) -> tuple[str, ...]:
    """Return notes for the table about what a folder holds and no engine uses."""
    if has_chat_template(path):
        note = "the folder's chat template is not used, except where a note says so"
        return (f"{note}: prompts are the base protocol's",)
    return ()


def _check_architectures(path: Path) -> None:
    """Raise if config.json names only classes that predict no tokens."""
    named = _field(path / "config.json", "architectures")
    if not isinstance(named, list) or not named:
        return
    programs = _field(path / "config.json", "auto_map")
    own = isinstance(programs, dict) and "AutoModelForCausalLM" in programs
    if own or any(_LANGUAGE_MODEL.fullmatch(str(name)) for name in named):
        return
    raise CheckpointError(
        f"{path / 'config.json'}: architectures should name a causal language model, such as "
        f"MistralForCausalLM, and is {', '.join(map(str, named))}: a model without a language "
        "model's head, such as a reward or embedding model, cannot be evaluated; give the "
        "language model's folder."
    )


def _field(file: Path, name: str) -> Any:
    """Return a field of a JSON file; None where there is no such file or field."""
    return read_json(file).get(name) if file.is_file() else None


def _named(programs: Any) -> str:
    """Return the Python names of an auto_map."""
    if not isinstance(programs, dict):
        return str(programs)
    named = (value for value in programs.values() if value)
    return ", ".join(str(value[0] if isinstance(value, list) else value) for value in named)
