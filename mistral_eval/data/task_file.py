"""Find, read and check the benchmarks' YAML files, without lm-eval."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from mistral_eval.errors import DataError, TaskError

PACKAGE = Path(__file__).resolve().parents[1]

Row = dict[str, Any]
Kind = Literal["text", "text or null", "integer", "integer or null", "boolean", "texts"]


class _Checked(BaseModel):
    """A frozen model that ignores keys that only lm-eval reads."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=False)


class DataSpec(_Checked):
    """A YAML file's `dataset_kwargs` and `metadata`, which lm-eval merges for a loader.

    Attributes:
        benchmark: The task's name.
        path: The hub's data set id.
        configs: The hub's configurations, read one after the other; None is the default one.
        revision: The hub's branch, tag or commit.
        folders: Folders below `--data DIR`; the first one with the split's file is read. `{config}`
            is replaced by each configuration.
        splits: The splits to read: the questions', then the shots' if shots are taken from data.
        columns: The columns that prompt, judge and record read, with their kinds.
            "answer.aliases" is a field of a column.
        questions: Number of questions in the full test set.
        stratum: The column within which a bootstrap resamples, or None.
        id_column: The column that identifies a question, or None for the row number.
        shots_by: The column in which a question and its shots have the same value, or None.
        chat: Whether each question is a message to a chat model.
        temperatures: Sampling temperature by `stratum`, where not that of the generation settings.
        unconditional: The context after which each choice is scored without its question, or None.
        fewest_shots: Shots of the value of `shots_by` that has fewest; None if each has
            `num_fewshot`.
        published_at: Where the rows are published, if the hub lacks them in these columns.
        config_column: A column that the files lack: the name of the row's configuration.
        rows: Splits whose rows are written in the YAML file, such as the shots.
    """

    benchmark: str
    path: str
    configs: tuple[str | None, ...]
    revision: str
    folders: tuple[str, ...]
    splits: Annotated[tuple[str, ...], Field(min_length=1)]
    columns: Mapping[str, Kind]
    questions: PositiveInt
    stratum: str | None
    id_column: str | None = None
    shots_by: str | None = None
    unconditional: str | None = None
    chat: bool = False
    temperatures: Mapping[str, float] = {}
    fewest_shots: PositiveInt | None = None
    published_at: str | None = None
    config_column: str | None = None
    rows: Mapping[str, tuple[Row, ...]] = {}

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any]) -> "DataSpec":
        """Validate the arguments that lm-eval passes to a loader.

        Raises:
            TaskError: A key is missing or has a wrong value.
        """
        try:
            return cls.model_validate(kwargs)
        except ValidationError as error:
            raise _task_error(f"tasks/{kwargs.get('benchmark', '?')}.yaml", error) from None

    @property
    def stored_columns(self) -> list[str]:
        """The columns that the files hold."""
        return [column for column in self.columns if column != self.config_column]

    @property
    def top_columns(self) -> list[str]:
        """The stored columns without the fields below them."""
        return list(dict.fromkeys(column.partition(".")[0] for column in self.stored_columns))

    def require_columns(self, present: Mapping[str, object], where: str) -> None:
        """Check that a table has all of the columns.

        Raises:
            DataError: A column is missing; the message begins with `where`.
        """
        missing = [column for column in self.stored_columns if column not in present]
        if missing:
            raise DataError(
                f"{where} should have the columns {', '.join(self.stored_columns)} of {self.path}, "
                f"but {', '.join(missing)} is missing; found {', '.join(present)}. "
                "Convert the file to the hub's column schema."
            )

    def pick(self, row: Mapping[str, Any]) -> Row:
        """Return the row with the stored columns and fields, and no others."""
        picked: Row = {}
        for column in self.stored_columns:
            name, _, below = column.partition(".")
            value = row[name]
            if below:
                field = value[below] if isinstance(value, Mapping) else None
                picked.setdefault(name, {})[below] = field
            else:
                picked[name] = value
        return picked


class Generation(_Checked):
    """The generation settings that are read here: the stop strings."""

    until: tuple[str, ...] = ()


class Metric(_Checked):
    """One metric of a question; `aggregation` is "mean" or the name of a function."""

    metric: str
    aggregation: str


class TaskFile(_Checked):
    """The keys of a YAML file that this package reads, under lm-eval's names.

    `data` merges `dataset_kwargs` and `metadata`; `unsafe_code` is True if judging runs code that
    the model wrote.
    """

    task: str
    output_type: Literal["multiple_choice", "generate_until"]
    num_fewshot: NonNegativeInt
    repeats: PositiveInt
    metric_list: Annotated[tuple[Metric, ...], Field(min_length=1)]
    doc_to_text: str
    unsafe_code: bool = False
    generation_kwargs: Generation = Generation()
    data: DataSpec

    @model_validator(mode="before")
    @classmethod
    def _join(cls, content: dict[str, Any]) -> dict[str, Any]:
        parts = (content.get(key) or {} for key in ("metadata", "dataset_kwargs"))
        return {**content, "data": {key: value for part in parts for key, value in part.items()}}

    @property
    def metrics(self) -> list[str]:
        """The names of the metrics of a question."""
        return [listed.metric for listed in self.metric_list]


class _Loader(yaml.SafeLoader):
    """Reads `!function pkg.name` as the text `pkg.name`."""


def _name_of(loader: _Loader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


_Loader.add_constructor("!function", _name_of)


def tasks_folder() -> Path:
    """Return the folder of the YAML files, in the installed package or in a checkout.

    Raises:
        TaskError: Neither the wheel's `_tasks` nor the checkout's `tasks` exists.
    """
    folders = (PACKAGE / "_tasks", PACKAGE.parent / "tasks")
    for folder in folders:
        if folder.is_dir():
            return folder
    raise TaskError(
        f"The benchmarks' YAML files should lie in {folders[0]} or in {folders[1]}, but neither "
        "folder exists. Install mistral-eval again."
    )


@cache
def read_task(benchmark: str) -> Mapping[str, Any]:
    """Return the content of `tasks/<benchmark>.yaml`.

    Raises:
        TaskError: There is no such file, or it is not a YAML mapping.
    """
    return read_task_file(tasks_folder() / f"{benchmark}.yaml")


def read_task_file(file: Path) -> Mapping[str, Any]:
    """Return the content of a benchmark's YAML file.

    Raises:
        TaskError: There is no such file, or it is not a YAML mapping.
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


@cache
def task_file(benchmark: str) -> TaskFile:
    """Return the checked content of `tasks/<benchmark>.yaml`.

    Raises:
        TaskError: There is no such file, or a key is missing or has a wrong value.
    """
    try:
        return TaskFile.model_validate(read_task(benchmark))
    except ValidationError as error:
        raise _task_error(f"tasks/{benchmark}.yaml", error) from None


def data_spec(benchmark: str) -> DataSpec:
    """Return the description of a benchmark's data.

    Raises:
        TaskError: There is no such file, or a key is missing or has a wrong value.
    """
    return task_file(benchmark).data


def column_paths(row: Mapping[str, object]) -> dict[str, object]:
    """Return columns by name, and the fields below them as `column.field`."""
    found: dict[str, object] = dict(row)
    for name, value in row.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{below}": item for below, item in value.items()}
    return found


def _task_error(file: str, error: ValidationError) -> TaskError:
    """Return an error that lists what was expected and found for each wrong key."""
    parts = []
    for one in error.errors():
        key = ".".join(str(part) for part in one["loc"] if part != "data")
        if one["type"] == "missing":
            parts.append(f"{key} is missing")
        else:
            parts.append(f"{key} is {one['input']!r} ({one['msg'][0].lower()}{one['msg'][1:]})")
    return TaskError(f"{file} is not a complete task: {'; '.join(parts)}. Correct the file.")
