"""Published numbers with their source, protocol and N; read from JSON and validated when loaded.

One file holds one published table: `results/baselines/<group>.json`. The format is described in
docs/reading-results.md; numbers keep the digits they were printed with.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Final

from mistral_eval.errors import BaselineError, UsageError
from mistral_eval.report.json_fields import Fields
from mistral_eval.suite.registry import BY_ID
from mistral_eval.suite.suites import SUITES

PAPER: Final = "mistral-paper-table2"
ALIASES: Final = MappingProxyType(
    {
        "paper": (PAPER,),
        "card": ("mistral-card-early",),
        "mixtral": ("mixtral-paper-table2",),
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

_CELL_KEYS: Final = frozenset({"shots", "metric", "n", "n_basis", "comparable", "note", "remark"})


@dataclass(frozen=True, slots=True)
class Source:
    """Where a number was printed: title, address, table, and what to know about it."""

    title: str
    url: str
    table: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a published number was measured; None and "" where the source does not say.

    Attributes:
        shots: Solved examples before the question.
        metric: What was counted, e.g. "maj@8".
        n: Questions in the test set.
        n_basis: How n is known.
        note: What else differs or is unknown.
    """

    shots: int | None
    metric: str
    n: int | None
    n_basis: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class PublishedCell:
    """One published number.

    Attributes:
        text: The number as printed, in percent, with its trailing zeros.
        protocol: How it was measured.
        comparable: Whether the stated protocol is that of our column.
        remark: What is true of this number alone, e.g. "copied from the Mixtral paper".
    """

    text: str
    protocol: Protocol
    comparable: bool
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


@dataclass(frozen=True, slots=True)
class Baseline:
    """A model as one publication measured it.

    Attributes:
        id: "<group>/<model>", e.g. "mistral-paper-table2/llama2-7b".
        name: The model's name as the source prints it.
        group: The publication's short name; the file's stem.
        group_title: The publication's name in words.
        modality: "Pretrained", "Finetuned" or "Instruct".
        parameters_b: Parameters in billions.
        source: Where the numbers were printed.
        cells: Benchmark id of the paper's suite -> number.
        other: Everything else printed there: other benchmarks, other counts of shots.
    """

    id: str
    name: str
    group: str
    group_title: str
    modality: str
    parameters_b: float
    source: Source
    cells: Mapping[str, PublishedCell]
    other: Mapping[str, PublishedCell] = field(default_factory=dict)


def baselines_folder() -> Path:
    """Return the folder of published numbers: the wheel's, else the checkout's."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "_baselines"
    return packaged if packaged.is_dir() else package.parent / "results" / "baselines"


def load_baselines(folder: Path | None = None) -> tuple[Baseline, ...]:
    """Read and validate every `*.json` of a folder; the paper's own table comes first.

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


def _load_file(file: Path) -> tuple[Baseline, ...]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"), parse_float=Decimal)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BaselineError(f"{file} is not readable as JSON: {error}.") from error
    top = Fields(file, "", data)
    group, title = top.text("group"), top.text("title")
    if group != file.stem:
        top.fail("group", f"the file's name, {file.stem!r}", group)
    source = top.fields("source")
    where = Source(
        source.text("title"), source.text("url"), source.text("table"), source.text("note", "")
    )
    if not where.url.startswith("https://"):
        source.fail("url", "an https:// address", where.url)
    protocol = top.fields("protocol")
    entries = [Fields(file, f"baselines[{i}]", e) for i, e in enumerate(top.items("baselines"))]
    loaded = tuple(_baseline(entry, group, title, where, protocol) for entry in entries)
    ids = [baseline.id for baseline in loaded]
    for repeated in {name for name in ids if ids.count(name) > 1}:
        top.fail("baselines", "each id once", repeated)
    return loaded


def _baseline(entry: Fields, group: str, title: str, source: Source, protocol: Fields) -> Baseline:
    fields = entry.fields("cells")
    cells = {name: _cell(fields, name, protocol) for name in fields.names()}
    return Baseline(
        id=f"{group}/{entry.text('id')}",
        name=entry.text("name"),
        group=group,
        group_title=title,
        modality=entry.text("modality"),
        parameters_b=entry.number("parameters_b"),
        source=source,
        cells={name: cell for name, cell in cells.items() if name in SUITES["paper"]},
        other={name: cell for name, cell in cells.items() if name not in SUITES["paper"]},
    )


def _cell(cells: Fields, name: str, protocol: Fields) -> PublishedCell:
    """Read one number and the column's protocol, which the cell's own fields override."""
    raw = cells.get(name)
    own = dict(raw) if isinstance(raw, dict) else {"value": raw}
    value = Fields(cells.file, f"{cells.path}.{name}", own)
    percent = value.number("value")
    if not 0 <= percent <= 100:
        value.fail("value", "a percentage from 0 to 100", percent)
    override = {key: item for key, item in own.items() if key != "value"}
    merged = Fields(cells.file, f"protocol.{name}", protocol.fields(name).data | override)
    for unknown in merged.data.keys() - _CELL_KEYS:
        merged.fail(unknown, f"one of {', '.join(sorted(_CELL_KEYS))}", unknown)
    cell = PublishedCell(
        str(own["value"]),
        Protocol(
            merged.count("shots"),
            merged.text("metric"),
            merged.count("n"),
            merged.text("n_basis", ""),
            merged.text("note", ""),
        ),
        merged.flag("comparable"),
        merged.text("remark", ""),
    )
    if cell.comparable and not cell.fits_column(name):
        merged.fail("comparable", "false, as the shots are not the column's", cell.protocol.shots)
    return cell
