"""Load a benchmark's rows from any source, checked; and the functions that lm-eval calls."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mistral_eval.data.dataset_spec import DataSpec
from mistral_eval.data.fingerprints import Fingerprint, identify
from mistral_eval.data.row_checks import check_rows, check_shots
from mistral_eval.data.rows import Rows, with_siblings
from mistral_eval.data.sources import Source, read_split

SHOTS_PER_GROUP = 5  # MMLU's; the only benchmark whose shots come from its data


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
    check_shots(spec, splits, SHOTS_PER_GROUP)
    return with_siblings(splits)


def dataset_from(
    source: Source,
    *,
    unpinned: bool = False,
    noticed: Callable[[str, Fingerprint], None] | None = None,
) -> Callable[..., dict[str, Rows]]:
    """A function for a task's `custom_dataset` that reads from `source` instead of the hub.

    Args:
        source: where rows come from.
        unpinned: go on with rows whose fingerprint is not pinned.
        noticed: told (benchmark, fingerprint) of what was loaded.
    """

    def load(**kwargs: Any) -> dict[str, Rows]:
        spec = DataSpec.from_kwargs(kwargs)
        splits = load_benchmark_data(spec, source)
        is_hub = source.kind == "hub"
        identity = identify(spec, splits, unpinned=unpinned, is_from_hub=is_hub)
        if noticed:
            noticed(spec.benchmark, replace(identity, commit=splits[spec.splits[0]].commit))
        return splits

    return load


def from_hub(**kwargs: Any) -> dict[str, Rows]:
    """What the YAML files name: the hub's rows, for whoever runs them with stock lm-eval.

    lm-eval passes the task's `metadata` and `dataset_kwargs` together. Rows that are not pinned
    are used, with a warning: stock lm-eval has no flag to allow them.
    """

    def notice(_: str, identity: Fingerprint) -> None:
        log = logging.getLogger(__name__)
        log.log(logging.INFO if identity.is_hub else logging.WARNING, "%s", identity.footnote)

    return dataset_from(Source("hub"), unpinned=True, noticed=notice)(**kwargs)
