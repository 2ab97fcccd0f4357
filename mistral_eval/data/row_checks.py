"""Check rows before a question is asked: kinds of values, ids, and the shots' rows."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from mistral_eval.data.rows import Row
from mistral_eval.data.task_file import DataSpec
from mistral_eval.errors import DataError

_KINDS: Final[Mapping[str, tuple[str, Callable[[Any], bool]]]] = MappingProxyType(
    {
        "text": ("text", lambda value: isinstance(value, str)),
        "integer": (
            "an integer",
            lambda value: isinstance(value, int) and not isinstance(value, bool),
        ),
        "boolean": ("true or false", lambda value: isinstance(value, bool)),
        "texts": (
            "a list of texts",
            lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
        ),
    }
)


def check_rows(spec: DataSpec, split: str, rows: Sequence[Row]) -> None:
    """Refuse rows that could not be asked.

    Raises:
        DataError: There are no rows, a value is of the wrong kind, or an id is repeated.
    """
    if not rows:
        raise DataError(
            f"{spec.benchmark}, split {split}, should have rows, but it is empty. "
            "Copy or download the data again."
        )
    for place, row in enumerate(rows):
        _check_kinds(spec, split, place, row)
    if spec.id_column is not None:
        _check_ids(spec, split, rows)


def _check_kinds(spec: DataSpec, split: str, place: int, row: Row) -> None:
    for column, kind in spec.columns.items():
        name, _, below = column.partition(".")
        value = row[name][below] if below else row[name]
        expected, fits = _KINDS[kind]
        if not fits(value):
            raise DataError(
                f"{spec.benchmark}, split {split}, row {place}, should have {expected} in column "
                f"{column}, but holds {_short(value)}. Convert the data to the hub's schema."
            )


def _check_ids(spec: DataSpec, split: str, rows: Sequence[Row]) -> None:
    assert spec.id_column is not None, spec
    name, times = Counter(row[spec.id_column] for row in rows).most_common(1)[0]
    if times > 1:
        raise DataError(
            f"{spec.benchmark}, split {split}, should name each question once in column "
            f"{spec.id_column}, but {name!r} is there {times} times. Remove the repeated rows."
        )


def check_shots(spec: DataSpec, splits: Mapping[str, Sequence[Row]], shots: int) -> None:
    """Check that each value of `shots_by` has enough solved examples of its own.

    Raises:
        DataError: A value has fewer than `shots` rows in the second split.
    """
    assert spec.shots_by is not None, spec
    asked, solved = spec.splits[:2]
    have = Counter(row[spec.shots_by] for row in splits[solved])
    for group in dict.fromkeys(row[spec.shots_by] for row in splits[asked]):
        if have[group] < shots:
            raise DataError(
                f"{spec.benchmark} should have {shots} rows of {spec.shots_by} {group!r} in split "
                f"{solved}, but has {have[group]}. Copy or download the data again."
            )


def _short(value: object, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"
