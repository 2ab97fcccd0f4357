"""The columns of a benchmark: are they all there, and the row with those that count."""

from collections.abc import Mapping

from mistral_eval.data.rows import Row
from mistral_eval.data.task_file import DataSpec
from mistral_eval.errors import DataError


def column_paths(row: Mapping[str, object]) -> dict[str, object]:
    """Columns by name, and the fields below them as `column.field`."""
    found: dict[str, object] = dict(row)
    for name, value in row.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{below}": item for below, item in value.items()}
    return found


def require_columns(spec: DataSpec, present: Mapping[str, object], where: str) -> None:
    """Refuse a table that lacks one of the benchmark's columns.

    Raises:
        DataError: a column is missing; the sentence begins with `where`.
    """
    missing = [column for column in spec.columns if column not in present]
    if missing:
        raise DataError(
            f"{where} should have the columns {', '.join(spec.columns)} of {spec.path}, but "
            f"{', '.join(missing)} is missing; found {', '.join(present)}. "
            "Convert the file to the hub's column schema."
        )


def pick(spec: DataSpec, row: Mapping[str, object]) -> Row:
    """The row with the columns and fields that count, and no others."""
    picked: Row = {}
    for column in spec.columns:
        name, _, below = column.partition(".")
        value = row[name]
        if below:
            picked.setdefault(name, {})[below] = (
                value[below] if isinstance(value, Mapping) else None
            )
        else:
            picked[name] = value
    return picked
