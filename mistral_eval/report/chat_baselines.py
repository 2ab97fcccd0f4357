"""Published numbers of chat models: MT-Bench, refusals and self-reflection, each with its source.

One file of `results/baselines/chat/` holds one published table. The form differs from that of the
benchmarks' baselines (`baselines.py`): ratings and Elo are no percentages, a row belongs to a
system prompt, a number may have a standard deviation or the count behind it.
"""

from collections import Counter
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Annotated, Final

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from mistral_eval.errors import BaselineError
from mistral_eval.report.baselines import (
    CHECKED,
    Count,
    Group,
    Source,
    Text,
    baselines_folder,
    read_publication,
)
from mistral_eval.stats import Interval, wilson

ARENA_ELO: Final = "arena_elo"
MT_BENCH: Final = "mt_bench"
TABLE_3: Final = "mistral-paper-table3"
TABLE_4: Final = "mistral-paper-table4"
GUARDRAILS: Final = "mistral-paper-guardrails"
LMSYS: Final = "lmsys-mt-bench"
XSTEST: Final = "xstest-human"


def _digits(value: object) -> str:
    """Check a number, and keep the digits it was printed with."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError(f"expected a number, found {value!r}")  # noqa: TRY004 - pydantic's
    return str(value)


Digits = Annotated[str, BeforeValidator(_digits)]


@dataclass(frozen=True, config=CHECKED)
class ChatNumber:
    """One published number, with the digits it was printed with.

    Attributes:
        text: The number.
        deviation: Standard deviation over runs, which is not an interval over questions.
        count: The count behind a percentage of the column's `n`.
    """

    text: Annotated[Digits, Field(alias="value")]
    deviation: Digits | None = None
    count: Count = None

    def __str__(self) -> str:
        """Return the number as it was printed, e.g. "6.84 ± 0.07"."""
        return self.text if self.deviation is None else f"{self.text} ± {self.deviation}"

    @property
    def value(self) -> float:
        """The number."""
        return float(self.text)


@dataclass(frozen=True, config=CHECKED)
class ChatColumn:
    """What a column's numbers are: the metric, the number of questions, and what else to know."""

    metric: Text
    n: Count
    n_basis: str = ""
    note: str = ""


@dataclass(frozen=True, config=CHECKED)
class ChatRow:
    """A model under a system prompt: "none", "mistral", "llama2" or "not stated"."""

    id: Text
    name: Text
    cells: dict[str, ChatNumber]
    system_prompt: str = "not stated"


class ChatPublication(Group):
    """A file: one published table of chat models."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: Text
    source: Source
    columns: dict[str, ChatColumn]
    rows: Annotated[tuple[ChatRow, ...], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _write_numbers_out(cls, file: object) -> object:
        """Let a number without a deviation or count stand for its cell."""
        rows = file.get("rows") if isinstance(file, dict) else None
        if not isinstance(file, dict) or not isinstance(rows, list):
            return file
        return file | {"rows": [_with_cells(row) for row in rows]}

    @model_validator(mode="after")
    def _check_columns_and_counts(self) -> "ChatPublication":
        for row in self.rows:
            for name, cell in row.cells.items():
                if name not in self.columns:
                    raise ValueError(f"columns.{name}: expected a value, found no such field")
                n = self.columns[name].n
                if cell.count is not None and not _counts(cell, n):
                    raise ValueError(
                        f"{row.id}: {name}: expected {cell.text} % to be a count of {n}, found "
                        f"{cell.count}"
                    )
        return self

    def row(self, name: str) -> ChatRow:
        """Return the row with this id.

        Raises:
            KeyError: There is none.
        """
        return {row.id: row for row in self.rows}[name]

    def interval(self, row: ChatRow, column: str) -> Interval | None:
        """Return a percentage with Wilson's interval, if the count behind it is known."""
        cell, n = row.cells.get(column), self.columns[column].n
        return None if cell is None or cell.count is None or not n else wilson(cell.count, n)


def _with_cells(row: object) -> object:
    if not isinstance(row, dict) or not isinstance(cells := row.get("cells"), dict):
        return row
    written = {k: cell if isinstance(cell, dict) else {"value": cell} for k, cell in cells.items()}
    return row | {"cells": written}


def _counts(cell: ChatNumber, n: int | None) -> bool:
    """Whether a percentage is its count's, as far as it was printed."""
    decimals = len(cell.text.partition(".")[2])
    return bool(n) and abs(100 * (cell.count or 0) / (n or 1) - cell.value) <= 0.5 * 10**-decimals


@cache
def load_chat_baselines(folder: Path | None = None) -> dict[str, ChatPublication]:
    """Read and check every published table of chat models, by group, once per process.

    Raises:
        BaselineError: A file cannot be read, or a field is wrong; the sentence names both.
    """
    folder = baselines_folder() / "chat" if folder is None else folder
    files = sorted(folder.glob("*.json"))
    if not files:
        raise BaselineError(
            f"No published numbers in {folder}: expected files named <group>.json. "
            "Reinstall mistral-eval, or give the folder that holds them."
        )
    return {file.stem: _load(file) for file in files}


def _load(file: Path) -> ChatPublication:
    table = read_publication(file, ChatPublication)
    for name, count in Counter((row.id, row.system_prompt) for row in table.rows).items():
        if count > 1:
            raise BaselineError(
                f"{file}: rows: expected each model once per system prompt, found {name[0]!r} "
                f"with {name[1]!r} twice."
            )
    return table
