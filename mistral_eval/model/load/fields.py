"""Read and validate single fields of a configuration file; errors name the field and the file.

Sources: config.json of transformers' Mistral and Llama; params.json of mistral-inference and Meta.
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistral_eval.errors import CheckpointError, TokenizerError, UsageError
from mistral_eval.lfs import pointer_sentence
from mistral_eval.settings import parse_value

USE_HF = "run it with `--engine hf`"
_TEXTS = frozenset({"hidden_act"})  # fields whose value is text


def read_json(
    path: Path, kind: type[CheckpointError | TokenizerError] = CheckpointError
) -> dict[str, Any]:
    """Return the JSON object in `path`; raise `kind` if it holds anything else."""
    if sentence := pointer_sentence(path):
        raise kind(sentence)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise kind(f"{path} is not JSON ({error}): copy or download it again.") from error
    if not isinstance(value, dict):
        found = type(value).__name__
        raise kind(f"{path} should hold a JSON object and holds {found}: copy the file again.")
    return value


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of the file named `source`, with `--model-args` applied.

    `is_inner` marks an object inside the file, whose fields no option sets.
    """

    values: Mapping[str, Any]
    source: str
    is_inner: bool = False

    def missing(self, name: str, example: str) -> CheckpointError:
        """Return the error for a missing field that changes the result."""
        how = "add it to the file" if self.is_inner else _option(name, example, "supply it with")
        return CheckpointError(
            f"{self.source} has no field {name}, which changes the result: {how}."
        )

    def wrong(self, name: str, expected: str) -> CheckpointError:
        """Return the error for a field with an invalid value."""
        how = "" if self.is_inner else _option(name, "...", " or give")
        return CheckpointError(
            f"{self.source}: {name} should be {expected} and is {self.values.get(name)!r}; "
            f"correct the file{how}."
        )

    def integer(self, name: str, *, example: str = "...") -> int:
        """Return a required positive whole number."""
        if self.values.get(name) is None:
            raise self.missing(name, example)
        value = self.values[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.wrong(name, "a positive whole number")
        return value

    def number(self, name: str, *, example: str = "...") -> float:
        """Return a required positive number."""
        if self.values.get(name) is None:
            raise self.missing(name, example)
        value = self.values[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
            raise self.wrong(name, "a positive number")
        return float(value)

    def head_dim(self, dim: str, n_heads: str) -> int:
        """Return `head_dim`, or `dim / n_heads` where it is absent, as both formats define."""
        if self.values.get("head_dim") is not None:
            return self.integer("head_dim")
        width, heads = self.integer(dim), self.integer(n_heads)
        if width % heads:
            raise CheckpointError(
                f"{self.source} has no head_dim, and {dim} ({width}) is no multiple of {n_heads} "
                f"({heads}): supply it with `--model-args head_dim=...`."
            )
        return width // heads

    def flag(self, name: str) -> bool:
        """Return an optional boolean; absent means false, the default of both families."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return bool(value)

    def windows(self, name: str, n_layers: int) -> tuple[int | None, ...]:
        """Return one window per layer; the field is null, a number, or a list repeated in order."""
        value = self.values.get(name)
        windows = value if isinstance(value, list) else [value]
        is_good = all(
            window is None
            or (isinstance(window, int) and not isinstance(window, bool) and window > 0)
            for window in windows
        )
        if not windows or not is_good:
            raise self.wrong(name, "null, a positive whole number, or a list of these")
        return tuple(windows[layer % len(windows)] for layer in range(n_layers))


def _option(name: str, value: str, verb: str) -> str:
    return f"{verb} `--model-args {name}={value}`"


def parse_override(name: str, given: Any) -> Any:
    """Return the value of the model argument `name`: text is read by `parse_value`.

    Raises:
        UsageError: the text is no value, and the field's value is not text.
    """
    value = parse_value(given) if isinstance(given, str) else given
    if isinstance(value, str) and name not in _TEXTS:
        raise UsageError(f"--model-args {name}={given}: expected a number, true, false or none.")
    return value


def with_overrides(
    values: Mapping[str, Any], overrides: Mapping[str, Any], names: Mapping[str, str]
) -> dict[str, Any]:
    """Return a file's fields with `--model-args` applied, by the file's or params.json's name.

    `names` maps params.json's name to the file's, for every field that may be set.

    Raises:
        UsageError: an override names no field.
    """
    result = dict(values)
    known = {**names, **{name: name for name in names.values()}}
    for option, text in overrides.items():
        if option not in known:
            near = difflib.get_close_matches(option, known, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}."
            raise UsageError(f"--model-args knows no field {option}: {hint}")
        result[known[option]] = parse_override(option, text)
    return result
