"""Rows from the Hugging Face hub, through `datasets`, which keeps a copy in its cache."""

from mistral_eval.data.columns import column_paths, pick, require_columns
from mistral_eval.data.rows import Row
from mistral_eval.data.spec import DataSpec
from mistral_eval.errors import HubError


def rows_from_hub(spec: DataSpec, config: str | None, split: str) -> list[Row]:
    """One split of one configuration.

    Raises:
        DataError: the hub's columns are not those the benchmark reads.
        HubError: the hub did not answer, or refused.
    """
    import datasets
    from datasets.exceptions import DatasetNotFoundError, DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    # requests or httpx, whichever huggingface_hub speaks through: the base of its own HTTP error
    http_error: type[Exception] = HfHubHTTPError.__bases__[0]
    where = f"{spec.path}{f' ({config})' if config else ''}, split {split},"
    try:
        table = datasets.load_dataset(spec.path, config, split=split, revision=spec.revision)
    except DatasetNotFoundError as error:
        raise HubError(
            f"{where} was expected on the Hugging Face hub, which says it is missing or gated: "
            f"{error} Log in with `hf auth login`, or give --data sample or a folder."
        ) from error
    except (DatasetsError, http_error, OSError, ValueError) as error:
        raise HubError(
            f"{where} could not be loaded from the Hugging Face hub: {error}. "
            "Check the network, or give --data sample or a folder."
        ) from error
    require_columns(spec, column_paths(table.features), where)
    return [pick(spec, row) for row in table.select_columns(spec.top_columns).to_list()]
