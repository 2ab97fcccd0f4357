"""What a benchmark's YAML file says about its data: its `dataset_kwargs`, checked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mistral_eval.errors import TaskError

KINDS: Final = ("text", "integer", "texts")
_REQUIRED: Final = ("benchmark", "path", "configs", "revision", "folders", "splits", "columns")
_OPTIONAL: Final = ("id_column", "shots_by")


@dataclass(frozen=True, slots=True)
class DataSpec:
    """Where a benchmark's rows are, and which of their columns count.

    Attributes:
        benchmark: The task's name.
        path: The hub's data set id.
        configs: The hub's configurations, read one after the other; None is the only one there is.
        revision: The hub's branch, tag or commit.
        folders: Folders below `--data DIR` to look in, the first that exists; `{config}` is
            replaced by each configuration.
        splits: The splits to read, the one with the questions first.
        columns: What prompt, scorer and record read: name ("answer.aliases" is a field of a
            column) to kind, one of `KINDS`.
        id_column: The column that names a question, or None: then its place names it.
        shots_by: The column whose value a question shares with its shots, or None.
    """

    benchmark: str
    path: str
    configs: tuple[str | None, ...]
    revision: str
    folders: tuple[str, ...]
    splits: tuple[str, ...]
    columns: Mapping[str, str] = field(hash=False)
    id_column: str | None = None
    shots_by: str | None = None

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any]) -> "DataSpec":
        """Read a YAML file's `dataset_kwargs`; keys that are lm-eval's metadata are let be.

        Raises:
            TaskError: a key is missing, or a column's kind is unknown.
        """
        name = kwargs.get("benchmark", "?")
        missing = [key for key in _REQUIRED if key not in kwargs]
        if missing:
            raise TaskError(
                f"The task {name} should say {', '.join(_REQUIRED)} in its dataset_kwargs, but "
                f"{', '.join(missing)} is missing. Add it to tasks/{name}.yaml."
            )
        for column, kind in kwargs["columns"].items():
            if kind not in KINDS:
                raise TaskError(
                    f"The task {name} calls its column {column} {kind!r}; it should be one of "
                    f"{', '.join(KINDS)}. Correct dataset_kwargs in tasks/{name}.yaml."
                )
        known = {key: kwargs[key] for key in (*_REQUIRED, *_OPTIONAL) if key in kwargs}
        for key in ("configs", "folders", "splits"):
            known[key] = tuple(known[key])
        return cls(**known)

    @property
    def top_columns(self) -> list[str]:
        """The columns without the fields below them."""
        return list(dict.fromkeys(column.partition(".")[0] for column in self.columns))
