"""The rows of one split: plain dicts, decoded once, with the little that lm-eval wants."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

Row = dict[str, Any]


class Rows(Sequence[Row]):
    """An immutable list of rows that knows its columns and its sibling splits.

    lm-eval wants `len`, indexing, iteration and `features.keys()`. A `datasets.Dataset` decodes
    Arrow at every access, which costs more than building the prompt; here a row is a dict.

    Args:
        rows: one dict per row, all with the same keys.
        columns: the columns' names and kinds (see `DataSpec`).
        commit: the hub's commit that they are of, where that is known.
    """

    __slots__ = ("_rows", "commit", "features", "splits")

    def __init__(
        self, rows: Sequence[Row], columns: Mapping[str, str], commit: str | None = None
    ) -> None:
        self._rows = list(rows)
        self.commit = commit
        self.features: dict[str, str] = {}
        for column, kind in columns.items():
            self.features.setdefault(column.partition(".")[0], kind)
        self.splits: Mapping[str, Rows] = {}

    @property
    def column_names(self) -> list[str]:
        """The names of the columns, in the benchmark's order."""
        return list(self.features)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        return self._rows[index]

    def __repr__(self) -> str:
        return f"Rows({len(self)} rows of {', '.join(self.column_names)})"


def with_siblings(splits: Mapping[str, Rows]) -> dict[str, Rows]:
    """Let each split find the others, in the order of `DataSpec.splits`."""
    together = dict(splits)
    for rows in together.values():
        rows.splits = together
    return together
