"""Everything a user can get wrong, as exceptions whose text is the whole message.

A message says what was expected, what was found and what to do. `cli.app.main` catches
`MistralEvalError` only; anything else is a bug and keeps its traceback.

`complaint` turns pydantic's errors into the same form: what was expected, what was found.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pydantic import ValidationError


class MistralEvalError(Exception):
    """Base of all errors a user can fix; `exit_code` is the process's exit code."""

    exit_code = 1


class UsageError(MistralEvalError):
    """The command line asks for something that does not exist."""

    exit_code = 2


class DataError(MistralEvalError):
    """A test set is missing, malformed, or not the one whose fingerprint is pinned."""


class TaskError(MistralEvalError):
    """A benchmark's YAML file cannot be used."""


class CheckpointError(MistralEvalError):
    """A model folder misses a file, a field or a tensor, or holds one that does not fit."""


class UnsupportedError(CheckpointError):
    """A checkpoint that is sound, but that only lm-eval's own models can run."""


class TokenizerError(MistralEvalError):
    """A tokenizer file is missing or its ids do not fit the model."""


class HubError(MistralEvalError):
    """The Hugging Face hub could not be reached, or refused."""


class ResourceError(MistralEvalError):
    """Disk or memory cannot hold what was asked for."""


class EngineError(MistralEvalError):
    """An engine is unavailable, or its numbers cannot be used."""


class RequestError(EngineError):
    """One request cannot be answered: `index` is its place among those the engine was given.

    The caller, which knows the request's benchmark and question, names them before `what`.
    """

    def __init__(self, kind: str, index: int, what: str) -> None:
        super().__init__(f"{kind} request {index}: {what}")
        self.index = index
        self.what = what


class UnansweredError(EngineError):
    """Some requests cannot be answered, while all others were: `failures` has (index, reason).

    The caller, which knows the requests' benchmarks and questions, names them.
    """

    def __init__(self, failures: Sequence[tuple[int, str]]) -> None:
        super().__init__(f"{len(failures)} requests failed: {failures[0][1]}")
        self.failures = tuple(failures)


class EndedEarlyError(EngineError):
    """An engine ended before it had answered every request, as it does when told to stop.

    The caller that stopped it reports why.
    """


class SandboxError(MistralEvalError):
    """Generated programs cannot be isolated on this machine."""


class RepliesError(MistralEvalError):
    """A replies log is in use by another process, cannot be written, or lacks replies."""


class LockedError(RepliesError):
    """Another process works on the run."""


class StoppedError(MistralEvalError):
    """A signal ended the run; what was answered is kept. `exit_code` is 128 and the signal."""

    def __init__(self, sentence: str, number: int) -> None:
        super().__init__(sentence)
        self.exit_code = 128 + number


class BaselineError(MistralEvalError):
    """A published number lacks its source, protocol or table."""


class OutputError(MistralEvalError):
    """Results could not be written."""


class UnfinishedError(OutputError):
    """A run's folder holds a run that has not finished."""


class StoreError(OutputError):
    """A store of run folders, such as a bucket, could not be read or written."""


EXPECTED = {
    "dataclass_type": "a mapping",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "list_type": "a list",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "path_type": "text",
    "string_too_short": "text",
    "string_type": "text",
    "tuple_type": "a list",
}
"""What a value should have been, by pydantic's name of the error."""


_FEW_NAMES: Final = 100  # which a sentence may list


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a sentence that offers the known names nearest to `name`, or else all if few."""
    names = list(known)
    close = [known_name for known_name in names if known_name.lower() == name.lower()]
    close = close or difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    if len(names) > _FEW_NAMES:
        close = difflib.get_close_matches(name, names, n=3, cutoff=0.0)
        return f"The nearest of {len(names):,}: {', '.join(close)}."
    return f"Known: {', '.join(names)}."


def complaint(error: "ValidationError") -> tuple[str, str]:
    """Return the field of a model's first error, and what was expected and found there.

    A validator of ours raises ValueError with the whole phrase ("expected …, found …").

    Returns:
        The field's path ("baselines[0].name"; "" for the whole), and a phrase that ends in a stop.
    """
    first = error.errors(include_url=False)[0]
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"])
    kind, found, context = first["type"], first["input"], first.get("ctx", {})
    if kind == "value_error":
        phrase = f"{context['error']}."
    elif kind == "missing":
        phrase = "expected a value, found no such field."
    elif kind in ("extra_forbidden", "unexpected_keyword_argument"):
        phrase = "unknown field. Leave it out, or correct its name."
    elif kind in ("literal_error", "enum"):
        choices = re.findall(r"'([^']*)'", context["expected"]) or [context["expected"]]
        phrase = f"unknown value {found!r}. {nearest(str(found), choices)}"
    elif kind == "greater_than_equal":
        phrase = f"expected {context['ge']} or more, found {found!r}."
    elif kind == "too_short":
        what = "mapping" if isinstance(found, dict) else "list"
        phrase = f"expected a {what} that is not empty, found an empty one."
    else:
        phrase = f"expected {EXPECTED.get(kind, first['msg'])}, found {as_found(found)}."
    return "".join(steps).removeprefix("."), phrase


def as_found(value: Any) -> str:
    """Return how a sentence names a value that should not be there."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return repr(value)
