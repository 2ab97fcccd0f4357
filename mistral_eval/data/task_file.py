"""A benchmark's YAML file as plain data, without lm-eval: functions stay names."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from mistral_eval.data.dataset_spec import DataSpec
from mistral_eval.errors import TaskError
from mistral_eval.locations import tasks_folder


class _Loader(yaml.SafeLoader):
    """Reads `!function pkg.name` as the text `pkg.name`."""


def _name_of(loader: _Loader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


_Loader.add_constructor("!function", _name_of)


@cache
def read_task(benchmark: str) -> Mapping[str, Any]:
    """All that `tasks/<benchmark>.yaml` says.

    Raises:
        TaskError: there is no such file, or it is not a YAML mapping.
    """
    return read_task_file(tasks_folder() / f"{benchmark}.yaml")


def read_task_file(file: Path) -> Mapping[str, Any]:
    """All that a benchmark's YAML file says.

    Raises:
        TaskError: there is no such file, or it is not a YAML mapping.
    """
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), _Loader)  # noqa: S506  a SafeLoader
    except FileNotFoundError:
        raise TaskError(
            f"The benchmark {file.stem} should be described in {file}, but there is no such file. "
            "`mistral-eval tasks` lists the benchmarks."
        ) from None
    except yaml.YAMLError as error:
        raise TaskError(f"{file} should be YAML, but is not: {error}. Correct it.") from error
    if not isinstance(content, dict):
        raise TaskError(f"{file} should hold a YAML mapping, but does not. Correct it.")
    return content


def data_spec(benchmark: str) -> DataSpec:
    """Where this benchmark's rows are, and which columns count.

    Raises:
        TaskError: there is no such benchmark, or its `dataset_kwargs` are incomplete.
    """
    return DataSpec.from_kwargs(read_task(benchmark).get("dataset_kwargs") or {})
