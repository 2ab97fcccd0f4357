"""Load a benchmark's rows from any source and check them before requests are built."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final, overload

from mistral_eval.data.fingerprints import Fingerprint, identify
from mistral_eval.data.sources import Source, read_split
from mistral_eval.data.task_file import DataSpec, Row, task_file
from mistral_eval.errors import DataError

_KINDS: Final[Mapping[str, tuple[str, Callable[[Any], bool]]]] = MappingProxyType(
    {
        "text": ("text", lambda value: isinstance(value, str)),
        "text or null": ("text or null", lambda value: value is None or isinstance(value, str)),
        "integer": (
            "an integer",
            lambda value: isinstance(value, int) and not isinstance(value, bool),
        ),
        "integer or null": (
            "an integer or null",
            lambda value: value is None or (isinstance(value, int) and not isinstance(value, bool)),
        ),
        "boolean": ("true or false", lambda value: isinstance(value, bool)),
        "texts": (
            "a list of texts",
            lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
        ),
    }
)


class Rows(Sequence[Row]):
    """An immutable list of rows with their columns and a reference to the other splits.

    lm-eval needs `len`, indexing, iteration and `features.keys()`. A `datasets.Dataset` decodes
    Arrow at every access, which is slower than building the prompt. Here a row is a dict.

    Args:
        rows: one dict per row, all with the same keys.
        columns: the columns' names and kinds (see `DataSpec`).
        commit: the hub's commit of the rows, if known.
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

    def kept(self, wanted: Callable[[Row], bool]) -> "Rows":
        """Return the rows that are wanted, with the same columns and splits."""
        rows = Rows([row for row in self._rows if wanted(row)], self.features, self.commit)
        rows.splits = self.splits
        return rows

    def __repr__(self) -> str:
        return f"Rows({len(self)} rows of {', '.join(self.column_names)})"


def with_siblings(splits: Mapping[str, Rows]) -> dict[str, Rows]:
    """Set `splits` of each split to all splits, in the order of `DataSpec.splits`."""
    together = dict(splits)
    for rows in together.values():
        rows.splits = together
    return together


def load_benchmark_data(spec: DataSpec, source: Source) -> dict[str, Rows]:
    """Load all splits that a benchmark needs, in the hub's row order.

    Returns:
        Rows by the split's name; each `Rows` refers to the others in `.splits`.

    Raises:
        DataError: files, columns, rows, values or shots are missing or wrong.
        HubError: the hub did not answer, or refused.
    """
    splits: dict[str, Rows] = {}
    for split in spec.splits:
        rows, commit = read_split(spec, source, split)
        check_rows(spec, split, rows)
        splits[split] = Rows(rows, spec.columns, commit)
    if spec.shots_by is not None:
        shots = spec.fewest_shots or task_file(spec.benchmark).num_fewshot
        check_shots(spec, splits, shots)
    return with_siblings(splits)


def dataset_from(
    source: Source,
    *,
    unpinned: bool = False,
    noticed: Callable[[str, Fingerprint], None] | None = None,
    check: Callable[[Mapping[str, Sequence[Row]]], None] | None = None,
) -> Callable[..., dict[str, Rows]]:
    """Return a function for a task's `custom_dataset` that reads from `source`.

    Args:
        source: Where rows come from.
        unpinned: Accept rows whose fingerprint is not pinned.
        noticed: Called with (benchmark, fingerprint) after rows are loaded.
        check: Called with the rows by split; raises if a row has no right answer.
    """

    def load(**kwargs: Any) -> dict[str, Rows]:
        spec = DataSpec.from_kwargs(kwargs)
        splits = load_benchmark_data(spec, source)
        if check:
            check(splits)
        is_hub = source.kind == "hub"
        identity = identify(spec, splits, unpinned=unpinned, is_from_hub=is_hub)
        if noticed:
            noticed(spec.benchmark, replace(identity, commit=splits[spec.splits[0]].commit))
        return splits

    return load


def check_rows(spec: DataSpec, split: str, rows: Sequence[Row]) -> None:
    """Check that there are rows, of the right types and with unique ids.

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
    """Check that each value of `shots_by` has enough solved examples.

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
