"""Options of `run` from a file: `--config FILE`, YAML or the run.json of a run to repeat."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistral_eval.errors import UsageError
from mistral_eval.settings import nearest

# What a run.json says of how it was asked, and not of what was asked. That programs ran without
# isolation is for each user to decide again, whoever wrote the file.
NOT_REPEATED = ("fresh", "unsafe_code")


@dataclass(frozen=True, slots=True)
class Option:
    """An option as the command line declares it: its parameter's name, and what it takes."""

    name: str
    takes: str  # "flag", "number" or "text"


def read_config(path: Path, options: Mapping[str, Option]) -> dict[str, Any]:
    """A file's options under their parameters' names, as the command line would give them.

    Args:
        path: YAML, or JSON when its name ends so.
        options: long names, with underscores, to options.

    Raises:
        UsageError: no such file, not a mapping, an unknown key, or a value of another kind.
    """
    found: dict[str, Any] = {}
    for key, value in _content(path).items():
        name = str(key).replace("-", "_").removeprefix("__")
        if name not in options:
            raise UsageError(f"{path}: unknown option {key!r}. {nearest(name, options)}")
        option = options[name]
        if option.name in found:
            raise UsageError(f"{path}: {key!r} is there twice. Leave one of them out.")
        if value is not None:
            found[option.name] = _value(path, str(key), value, option)
    return found


def _content(path: Path) -> Mapping[str, Any]:
    """The file's mapping; of a run.json, its settings."""
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"--config {path} cannot be read ({why}).") from error
    content = _parsed(path, text)
    if isinstance(content, dict) and "settings" in content and "format" in content:
        settings = content["settings"]
        content = (
            {key: value for key, value in settings.items() if key not in NOT_REPEATED}
            if isinstance(settings, dict)
            else settings
        )
    if not isinstance(content, dict):
        raise UsageError(
            f"{path} should map option names to values, like 'seed: 1', but holds {_kind(content)}."
        )
    return content


def _parsed(path: Path, text: str) -> Any:
    import yaml

    try:
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        first = " ".join(str(error).split())
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise UsageError(f"{path} should be {kind}, but is not: {first}.") from error


def _value(path: Path, key: str, value: Any, option: Option) -> Any:
    if option.takes == "flag" and isinstance(value, bool):
        return value
    if option.takes == "number" and isinstance(value, int) and not isinstance(value, bool):
        return value
    if option.takes == "text":
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return str(value)
        if option.name == "tasks" and isinstance(value, list):
            return ",".join(map(str, value))
        if option.name in ("model_args", "data_revision") and isinstance(value, dict):
            return ",".join(f"{name}={part}" for name, part in value.items())
    wanted = {"flag": "true or false", "number": "a whole number", "text": "text"}[option.takes]
    raise UsageError(f"{path}: {key} should be {wanted}, but is {_kind(value)}.")


def _kind(value: object) -> str:
    """A value as a sentence names it."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return repr(value)
