"""Load a benchmark's rows from any source, and check them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mistral_eval.data.fingerprints import Fingerprint, identify
from mistral_eval.data.row_checks import check_rows, check_shots
from mistral_eval.data.rows import Row, Rows, with_siblings
from mistral_eval.data.sources import Source, read_split
from mistral_eval.data.task_file import DataSpec, task_file


def load_benchmark_data(spec: DataSpec, source: Source) -> dict[str, Rows]:
    """All splits that a benchmark needs, in the hub's row order.

    Returns:
        Split name to rows; each `Rows` finds the others in `.splits`.

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
        check_shots(spec, splits, task_file(spec.benchmark).num_fewshot)
    return with_siblings(splits)


def dataset_from(
    source: Source,
    *,
    unpinned: bool = False,
    noticed: Callable[[str, Fingerprint], None] | None = None,
    check: Callable[[str, Mapping[str, Sequence[Row]]], None] | None = None,
) -> Callable[..., dict[str, Rows]]:
    """Return a function for a task's `custom_dataset` that reads from `source`.

    Args:
        source: Where rows come from.
        unpinned: Accept rows whose fingerprint is not pinned.
        noticed: Called with (benchmark, fingerprint) once rows are loaded.
        check: Called with (benchmark, rows by split), to refuse rows without a right answer.
    """

    def load(**kwargs: Any) -> dict[str, Rows]:
        spec = DataSpec.from_kwargs(kwargs)
        splits = load_benchmark_data(spec, source)
        if check:
            check(spec.benchmark, splits)
        is_hub = source.kind == "hub"
        identity = identify(spec, splits, unpinned=unpinned, is_from_hub=is_hub)
        if noticed:
            noticed(spec.benchmark, replace(identity, commit=splits[spec.splits[0]].commit))
        return splits

    return load
