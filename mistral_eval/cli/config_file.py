"""Options from a file: `--config FILE`, YAML or the run.json of a run to repeat."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mistral_eval.errors import UsageError, as_found, complaint, nearest

# A run.json does not start its run again from the start, and does not decide for another user
# that generated programs may run without isolation. What an engine chose belongs to that run, and
# so does how its parts were merged.
NOT_REPEATED = ("fresh", "unsafe_code", "choices", "part", "no_compute")
# Options that are no settings and no flags, with the kinds of their values.
OTHERS: Mapping[str, type] = {
    "batch_size": str,
    "judge_only": str,
    "judge_pairwise": str,
    "iterations": int,
}


def read_config(
    path: Path, spellings: Mapping[str, str], repeated: Collection[str] = ()
) -> dict[str, Any]:
    """Read a file's options, as the command line would give them.

    Args:
        path: YAML, or JSON if its name ends in .json.
        spellings: An option's long names, with underscores, to its parameter's name.
        repeated: Parameters that may be given several times, in a file as a list.

    Returns:
        Parameter names to values; an option that is null in the file is left out.

    Raises:
        UsageError: no such file, not a mapping, an unknown option, or a value of the wrong type.
    """
    found: dict[str, Any] = {}
    for key, value in _content(path).items():
        name = str(key).replace("-", "_").removeprefix("__")
        if name not in spellings:
            raise UsageError(f"{path}: unknown option {key!r}. {nearest(name, spellings)}")
        option = spellings[name]
        if option in found:
            raise UsageError(f"{path}: {key!r} is there twice. Leave one of them out.")
        if value is None:
            continue
        where = f"{path}: {key}"
        if option in repeated:
            values = value if isinstance(value, list) else [value]
            found[option] = [_checked(where, option, one) for one in values]
        else:
            found[option] = _checked(where, option, value)
    return found


def _content(path: Path) -> Mapping[str, Any]:
    """Return the file's mapping; of a run.json, its settings."""
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"--config {path} cannot be read ({why}).") from error
    content = _parsed(path, text)
    if isinstance(content, dict) and {"settings", "format"} <= content.keys():
        content = content["settings"]
        if isinstance(content, dict):
            content = _as_asked(content)
            content = {key: value for key, value in content.items() if key not in NOT_REPEATED}
    if not isinstance(content, dict):
        raise UsageError(
            f"{path}: expected a mapping of option names to values, like 'tasks: paper', found "
            f"{as_found(content)}."
        )
    return content


def _as_asked(settings: dict[str, Any]) -> dict[str, Any]:
    """Name a suite in place of its members, if a run left some of them out; count its runs."""
    from mistral_eval.suite.registry import asked_as

    if iteration := settings.pop("iteration", 0):
        settings = {**settings, "iterations": iteration + 1}
    left_out = settings.pop("left_out", ())
    return {**settings, "tasks": asked_as(settings["tasks"], left_out)} if left_out else settings


def _parsed(path: Path, text: str) -> Any:
    import yaml

    try:
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise UsageError(f"{path} is not {kind}: {' '.join(str(error).split())}.") from error


def _checked(where: str, option: str, value: Any) -> Any:
    """Check a value by the type of the setting, and write it as the command line would."""
    from pydantic import StrictBool, TypeAdapter, ValidationError

    from mistral_eval.settings import RunSettings

    if option == "tasks" and isinstance(value, str):
        return value
    field = RunSettings.model_fields.get(option)
    other = OTHERS.get(option, StrictBool)
    try:
        adapter = TypeAdapter[Any](
            other if field is None else field.rebuild_annotation(),
            config={"coerce_numbers_to_str": True},
        )
        checked = adapter.validate_python(value)
    except ValidationError as error:
        raise UsageError(f"{where}: {complaint(error)[1]}") from error
    if isinstance(checked, tuple):
        return ",".join(checked)
    if isinstance(checked, Mapping):
        return ",".join(f"{name}={part}" for name, part in checked.items())
    return checked if isinstance(checked, bool | int) else str(checked)
