"""Load rows from the Hugging Face hub with `datasets`, which caches them."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mistral_eval.data.task_file import DataSpec, Row, column_paths
from mistral_eval.errors import HubError

COMMIT = re.compile(r"[0-9a-f]{40}")


def rows_from_hub(spec: DataSpec, config: str | None, split: str) -> tuple[list[Row], str | None]:
    """Return the rows of one split of one configuration, and the hub's commit if it is known.

    Raises:
        DataError: a column that the benchmark reads is missing.
        HubError: the hub lacks the rows, did not answer, or refused; or the rows are of another
            commit than `spec.revision`. Without the hub, `datasets` takes any copy in its cache.
    """
    if spec.published_at is not None:
        folder = spec.folders[0].format(config=config)
        raise HubError(
            f"The rows of {spec.benchmark} should be on the Hugging Face hub, but it lacks them in "
            f"the columns {', '.join(spec.stored_columns)}. Take them from {spec.published_at} and "
            f"give --data a folder with {folder}/{split}.jsonl, or leave {spec.benchmark} out of "
            "--tasks."
        )
    import datasets
    from datasets.exceptions import DatasetNotFoundError, DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    # huggingface_hub's HTTP error derives from that of its HTTP library, requests or httpx
    http_error: type[Exception] = HfHubHTTPError.__bases__[0]
    where = f"{spec.path}{f' ({config})' if config else ''}, split {split},"
    try:
        table = datasets.load_dataset(spec.path, config, split=split, revision=spec.revision)
    except DatasetNotFoundError as error:
        raise HubError(
            f"{where} should be on the Hugging Face hub, but it is missing or gated: "
            f"{error} Log in with `hf auth login`, or give --data sample or a folder."
        ) from error
    except (DatasetsError, http_error, OSError, ValueError) as error:
        raise HubError(
            f"{where} could not be loaded from the Hugging Face hub: {error}. "
            "Check the network, or give --data sample or a folder."
        ) from error
    commit = commit_of(table.cache_files)
    wanted = _commit_meant(spec)
    if commit and wanted and commit != wanted:
        raise HubError(
            f"{where} should be of {spec.revision} (commit {wanted}), but the hub did not answer "
            f"and the copy used last is of {commit}. Go online once, or take that one with "
            f"--data-revision {spec.benchmark}={commit}."
        )
    spec.require_columns(column_paths(table.features), where)
    rows = [spec.pick(row) for row in table.select_columns(spec.top_columns).to_list()]
    return rows, commit


def commit_of(cache_files: Sequence[Mapping[str, str]]) -> str | None:
    """Return the commit of a loaded data set: the name of its folder in the cache of `datasets`."""
    for file in cache_files:
        if COMMIT.fullmatch(folder := Path(file["filename"]).parent.name):
            return folder
    return None


def _commit_meant(spec: DataSpec) -> str | None:
    """Return the commit of `spec.revision` as last seen on the hub; None if unknown."""
    from huggingface_hub import constants

    if COMMIT.fullmatch(spec.revision):
        return spec.revision
    repository = Path(constants.HF_HUB_CACHE) / f"datasets--{spec.path.replace('/', '--')}"
    try:
        return (repository / "refs" / spec.revision).read_text(encoding="utf-8").strip()
    except OSError:
        return None
