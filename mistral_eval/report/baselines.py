"""Published numbers with their source, protocol and N, read from JSON files and checked.

One file holds one published table: `results/baselines/<group>.json`. The format is described in
docs/reading-results.md; numbers keep the digits they were printed with.
"""

import difflib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import field
from decimal import Decimal
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass

from mistral_eval.errors import BaselineError, UsageError, as_found, complaint
from mistral_eval.suite.registry import BY_ID

PAPER: Final = "mistral-paper-table2"
ALIASES: Final = MappingProxyType(
    {
        "paper": (PAPER,),
        "card": ("mistral-card-early",),
        "mixtral": ("mixtral-paper-table2",),
        "figure4": ("mistral-paper-figure4",),
        "meta": ("llama1-paper", "llama2-paper", "code-llama-paper"),
        "later": (
            "gemma-paper",
            "llama3-card",
            "llama3-herd",
            "mistral-nemo-card",
            "ministral-card",
        ),
        "elsewhere": (
            "mistral-docs",
            "open-llm-leaderboard-v1",
            "opencompass",
            "dclm",
            "mamba-7b-card",
            "math-evaluation-harness",
            "abel",
        ),
    }
)
"""Short names of groups; `all` and `none` are understood too."""


def _number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError(f"expected a number, found {value!r}")  # noqa: TRY004 - pydantic's
    return value


def _as_printed(value: object) -> str:
    """Check a number in percent, and keep the digits it was printed with."""
    if not 0 <= float(str(_number(value))) <= 100:
        raise ValueError(f"expected a percentage from 0 to 100, found {value}")
    return str(value)


def _address(value: str) -> str:
    if not value.startswith("https://"):
        raise ValueError(f"expected an https:// address, found {value!r}")
    return value


Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(strict=True, ge=0)] | None
CHECKED = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=CHECKED)
class Source:
    """Where a number was printed: title, address, table, and what to know about it."""

    title: Text
    url: Annotated[Text, AfterValidator(_address)]
    table: Text
    note: str = ""


@dataclass(frozen=True, config=CHECKED)
class Protocol:
    """How a published number was measured; None and "" where the source does not say.

    `n` is the number of questions in the test set, `n_basis` how it is known, and `note` what else
    differs or is unknown.
    """

    shots: Count
    metric: Text
    n: Count
    n_basis: str = ""
    note: str = ""


@dataclass(frozen=True, config=CHECKED)
class PublishedCell:
    """One published number: `text` is as printed, in percent, with its trailing zeros.

    It is `comparable` if its stated protocol is that of our column. `remark` is true of this number
    alone, e.g. "copied from the Mixtral paper".
    """

    text: Annotated[str, BeforeValidator(_as_printed), Field(alias="value")]
    protocol: Protocol
    comparable: StrictBool
    remark: str = ""

    @property
    def value(self) -> float:
        """The number in percent."""
        return float(self.text)

    def fits_column(self, benchmark: str) -> bool:
        """Whether the number may stand in the benchmark's column, marked if not comparable.

        A number with another count of shots, or an unknown one, is shown apart instead.
        """
        known = BY_ID.get(benchmark)
        return known is not None and self.protocol.shots == known.shots


@dataclass(frozen=True, config=CHECKED)
class Entry:
    """A model's numbers, as a file has them, under the name that the source prints.

    Attributes:
        id: "<model>", e.g. "llama2-7b".
        modality: "Pretrained", "Finetuned" or "Instruct".
        parameters_b: Parameters in billions.
        cells: Benchmark id, or the name of what else was printed ("<id>:0-shot") -> number.
    """

    id: Text
    name: Text
    modality: Text
    parameters_b: Annotated[float, BeforeValidator(_number)]
    cells: dict[str, PublishedCell]


@dataclass(frozen=True, config=CHECKED)
class Baseline(Entry):
    """A model as one publication measured it.

    Attributes:
        id: "<group>/<model>", e.g. "mistral-paper-table2/llama2-7b".
        group: The publication's short name, the file's stem; `group_title` is its name in words.
        cells: Benchmark id -> number.
        other: Everything else printed there: unknown benchmarks, other counts of shots.
    """

    group: str
    group_title: str
    source: Source
    other: dict[str, PublishedCell]


@dataclass(frozen=True, config=CHECKED)
class Column(Protocol):
    """A column's protocol in a file, which a number's own fields override."""

    comparable: StrictBool = field(kw_only=True)


class Group(BaseModel):
    """A file of published numbers, named after its group."""

    group: Text


Form = TypeVar("Form", bound=Group)


class Publication(Group):
    """A file: one published table."""

    model_config = ConfigDict(extra="forbid")

    title: Text
    source: Source
    protocol: dict[str, Column]
    baselines: Annotated[list[Entry], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _give_cells_their_protocol(cls, file: Any) -> Any:
        """Merge each number's own fields over those of its column."""
        columns, entries = file.get("protocol"), file.get("baselines")
        if not isinstance(columns, dict) or not isinstance(entries, list):
            return file
        merged = []
        for entry in entries:
            if isinstance(entry, dict) and isinstance(cells := entry.get("cells"), dict):
                cells = {name: _merge(name, cell, columns) for name, cell in cells.items()}
                merged.append(entry | {"cells": cells})
            else:
                merged.append(entry)
        return file | {"baselines": merged}


def _merge(name: str, cell: object, columns: Mapping[str, Any]) -> dict[str, Any]:
    if name not in columns:
        raise ValueError(f"protocol.{name}: expected a value, found no such field")
    own = cell if isinstance(cell, dict) else {"value": cell}
    fields = columns[name] | own if isinstance(columns[name], dict) else own
    outside = {key: fields[key] for key in ("value", "comparable", "remark") if key in fields}
    return outside | {"protocol": {k: v for k, v in fields.items() if k not in outside}}


def baselines_folder() -> Path:
    """Return the folder of published numbers: the wheel's, else the checkout's."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "_baselines"
    return packaged if packaged.is_dir() else package.parent / "results" / "baselines"


@cache
def load_baselines(folder: Path | None = None) -> tuple[Baseline, ...]:
    """Read and check every `*.json` of a folder, once per process; the paper's table comes first.

    Raises:
        BaselineError: A file cannot be read, or a field is wrong; the sentence names both.
    """
    folder = baselines_folder() if folder is None else folder
    files = sorted(folder.glob("*.json"), key=lambda file: (file.stem != PAPER, file.stem))
    if not files:
        raise BaselineError(
            f"No published numbers in {folder}: expected files named <group>.json. "
            "Reinstall mistral-eval, or give the folder that holds them."
        )
    return tuple(baseline for file in files for baseline in _load_file(file))


def select(names: Sequence[str], baselines: Sequence[Baseline]) -> tuple[Baseline, ...]:
    """Return the baselines that the names mean, in the names' order, each once.

    A name is a full id, a group, a short name of groups (`paper`, `mixtral`, `meta`, …), `all`,
    `none`, or the part of an id after the slash, or the printed name, where only one group has it
    (the paper's own table wins).

    Raises:
        UsageError: A name means nothing, or several things; the sentence lists the nearest names.
    """
    chosen = {found.id: found for name in names for found in _named(name, baselines)}
    return tuple(chosen.values())


def _named(name: str, baselines: Sequence[Baseline]) -> tuple[Baseline, ...]:
    if name == "all":
        return tuple(baselines)
    if name == "none":
        return ()
    groups = ALIASES.get(name, (name,))
    found = tuple(b for group in groups for b in baselines if group in {b.id, b.group})
    if found:
        return found
    short = [b for b in baselines if name in {b.id.partition("/")[2], b.name}]
    own = [b for b in short if b.group == PAPER]
    if len(short) > 1 and not own:
        raise UsageError(
            f"The baseline {name!r} is in several publications; name one of: "
            f"{', '.join(b.id for b in short)}."
        )
    if not short:
        raise UsageError(_unknown(name, baselines))
    return tuple(own or short)


def _unknown(name: str, baselines: Sequence[Baseline]) -> str:
    groups = list(dict.fromkeys(b.group for b in baselines))
    known = [*ALIASES, "all", "none", *groups, *(b.id for b in baselines)]
    shorts = {b.id.partition("/")[2]: b.id for b in reversed(baselines)}
    near = difflib.get_close_matches(name, [*known, *shorts], n=3, cutoff=0.5)
    nearest = list(dict.fromkeys(shorts.get(match, match) for match in near))
    hint = f"Nearest: {', '.join(nearest)}." if nearest else f"Groups: {', '.join(groups)}."
    return f"No baseline or group is called {name!r}. {hint}"


def read_publication(file: Path, form: type[Form]) -> Form:
    """Read a file of published numbers.

    Raises:
        BaselineError: it cannot be read, a field is wrong, or its group is not the file's name.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"), parse_float=Decimal)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BaselineError(f"{file} is not readable as JSON: {error}.") from error
    if not isinstance(data, dict):
        raise BaselineError(f"{file}: expected an object, found {as_found(data)}.")
    try:
        table = form.model_validate(data)
    except ValidationError as error:
        raise BaselineError(": ".join(filter(None, (str(file), *complaint(error))))) from error
    if table.group != file.stem:
        raise BaselineError(
            f"{file}: group: expected the file's name, {file.stem!r}, found {table.group!r}."
        )
    return table


def _load_file(file: Path) -> tuple[Baseline, ...]:
    table = read_publication(file, Publication)
    ids = Counter(entry.id for entry in table.baselines)
    for name, count in ids.items():
        if count > 1:
            raise BaselineError(f"{file}: baselines: expected each id once, found {name!r} twice.")
    return tuple(_baseline(file, table, entry) for entry in table.baselines)


def _baseline(file: Path, table: Publication, entry: Entry) -> Baseline:
    for name, cell in entry.cells.items():
        if cell.comparable and not cell.fits_column(name):
            raise BaselineError(
                f"{file}: {entry.id}: {name}: comparable: expected false, as the shots are not "
                f"the column's, found true and {cell.protocol.shots} shots."
            )
    return Baseline(
        f"{table.group}/{entry.id}",
        entry.name,
        entry.modality,
        entry.parameters_b,
        cells={name: cell for name, cell in entry.cells.items() if name in BY_ID},
        group=table.group,
        group_title=table.title,
        source=table.source,
        other={name: cell for name, cell in entry.cells.items() if name not in BY_ID},
    )
