"""The table before any format: rows of cells, notes and sections, all already in words.

Every format renders this one structure, so that none of them decides what is said.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from mistral_eval.errors import UsageError
from mistral_eval.report.baselines import PAPER, Baseline, PublishedCell
from mistral_eval.report.table.model import Cell, RunScores, TableOptions
from mistral_eval.suite.benchmark import Benchmark

MISSING: Final = "—"
OTHER_PROTOCOL: Final = "†"


@dataclass(frozen=True, slots=True)
class CellView:
    """One cell: what is printed, and the number behind it; neither for a cell without number.

    `mark` is "†" where a published number was measured under another protocol than the column's.
    """

    text: str = MISSING
    mark: str = ""
    best: bool = False
    measured: Cell | None = None
    published: PublishedCell | None = None

    @property
    def value(self) -> float | None:
        """The number in percent."""
        behind = self.measured or self.published
        return None if behind is None else behind.value

    @property
    def low(self) -> float | None:
        """Lower end of a measured cell's interval; published numbers have none."""
        return None if self.measured is None else self.measured.low

    @property
    def high(self) -> float | None:
        """Upper end of a measured cell's interval."""
        return None if self.measured is None else self.measured.high

    @property
    def n(self) -> int | None:
        """Questions asked in a measured cell."""
        return None if self.measured is None else self.measured.n


@dataclass(frozen=True, slots=True)
class RowView:
    """One row: a published model or a run, whichever is not None."""

    id: str
    label: str
    cells: tuple[CellView, ...]
    published: Baseline | None = None
    run: RunScores | None = None

    @property
    def kind(self) -> Literal["published", "run"]:
        """Whether the row was measured here."""
        return "published" if self.run is None else "run"

    @property
    def modality(self) -> str:
        """The published model's training, e.g. "Pretrained"."""
        return self.published.modality if self.published else ""

    @property
    def is_model(self) -> bool:
        """Whether a model answered."""
        return self.run is None or self.run.is_model

    @property
    def limited(self) -> bool:
        """Whether fewer questions were asked than a test set has."""
        return self.run is not None and any(cell.limited for cell in self.run.cells.values())

    @property
    def remarks(self) -> tuple[str, ...]:
        """What must stand beside the label."""
        found = {"not a model": not self.is_model, "limited": self.limited}
        return tuple(words for words, holds in found.items() if holds)


@dataclass(frozen=True, slots=True)
class Section:
    """A smaller table below the main one; every cell is text.

    `words` are the columns to be set from the left, as text; the others hold numbers. `turns` says
    that a narrow terminal may put the columns (benchmarks) down and the rows across.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    words: tuple[int, ...] = (0,)
    turns: bool = False


@dataclass(frozen=True, slots=True)
class TableView:
    """The whole page: the table, its notes, and the sections that were asked for."""

    title: str
    columns: tuple[Benchmark, ...]
    rows: tuple[RowView, ...]
    notes: tuple[str, ...] = ()
    sections: tuple[Section, ...] = ()

    @property
    def has_runs(self) -> bool:
        """Whether a row was measured here."""
        return any(row.kind == "run" for row in self.rows)


def build_rows(
    baselines: Sequence[Baseline], runs: Sequence[RunScores], options: TableOptions
) -> tuple[RowView, ...]:
    """Return the published rows, then the runs, with the best score of each column marked."""
    rows = [_published(baseline, options) for baseline in baselines]
    labels = run_labels(runs)
    rows += [_measured(run, label, options) for run, label in zip(runs, labels, strict=True)]
    return _mark_best(rows) if options.best else tuple(rows)


def run_labels(runs: Sequence[RunScores]) -> tuple[str, ...]:
    """Return one label per run: its name, and where names repeat its seed, folder or number."""
    labels = [one_line(run.name) for run in runs]
    labels = _told_apart(labels, [f"seed {run.seed}" for run in runs])
    labels = _told_apart(labels, _tails([run.path for run in runs]))
    earlier = [labels[:place].count(label) for place, label in enumerate(labels)]
    return tuple(
        f"{label} ({before + 1})" if before else label
        for label, before in zip(labels, earlier, strict=True)
    )


def _told_apart(labels: Sequence[str], marks: Sequence[str]) -> list[str]:
    """Add its mark to each label that others have too, if the marks differ."""
    found: dict[str, set[str]] = {}
    for label, mark in zip(labels, marks, strict=True):
        found.setdefault(label, set()).add(mark)
    return [
        f"{label}, {mark}" if len(found[label]) > 1 else label
        for label, mark in zip(labels, marks, strict=True)
    ]


def _tails(paths: Sequence[str]) -> list[str]:
    """The last parts of paths, as many as it takes to tell different paths apart."""
    parts = [[part for part in path.split("/") if part] for path in paths]
    for many in range(1, max(map(len, parts), default=1)):
        tails = ["/".join(part[-many:]) for part in parts]
        if len(set(tails)) == len(set(paths)):
            return tails
    return list(paths)


def one_line(name: str) -> str:
    """Return a name without the line breaks and control characters that would leave its cell."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in name)


def find_row(name: str, rows: Sequence[RowView]) -> RowView:
    """Return the row of that label or id.

    Raises:
        UsageError: There is none; the sentence names the nearest.
    """
    for row in rows:
        if name in {row.id, row.label}:
            return row
    near = difflib.get_close_matches(name, [row.label for row in rows], n=3, cutoff=0.3)
    hint = f"Nearest: {', '.join(near)}." if near else "It has no rows of a similar name."
    raise UsageError(f"The table has no row called {name!r}. {hint}")


def points(value: float) -> str:
    """Return a percentage with one decimal."""
    return f"{value:.1f}"


def signed(difference: float) -> str:
    """Return a difference in points with its sign, e.g. "+1.2", "-0.4" or "0.0"."""
    text = f"{difference:+.1f}"
    return "0.0" if text in {"+0.0", "-0.0"} else text


def _published(baseline: Baseline, options: TableOptions) -> RowView:
    own = baseline.group == PAPER
    label = baseline.name if own else f"{baseline.name} ({baseline.group_title})"
    cells = tuple(_published_cell(b.id, baseline.cells.get(b.id)) for b in options.benchmarks)
    return RowView(baseline.id, label, cells, published=baseline)


def _published_cell(benchmark: str, cell: PublishedCell | None) -> CellView:
    if cell is None or not cell.fits_column(benchmark):
        return CellView()
    return CellView(cell.text, "" if cell.comparable else OTHER_PROTOCOL, published=cell)


def _measured(run: RunScores, label: str, options: TableOptions) -> RowView:
    cells = tuple(_measured_cell(run.cells.get(b.id)) for b in options.benchmarks)
    return RowView(run.path, label, cells, run=run)


def _measured_cell(cell: Cell | None) -> CellView:
    return CellView() if cell is None else CellView(points(cell.value), measured=cell)


def _mark_best(rows: Sequence[RowView]) -> tuple[RowView, ...]:
    """Set `best` on each column's highest printed score among comparable, full-size, real models.

    Scores that print the same are equally best; a column with one candidate has no best.
    """
    marked = list(rows)
    for column in range(len(rows[0].cells) if rows else 0):
        candidates = [row for row in rows if _competes(row, row.cells[column])]
        if len(candidates) < 2:
            continue
        top = max(float(row.cells[column].text) for row in candidates)
        for i, row in enumerate(marked):
            cell = row.cells[column]
            if _competes(row, cell) and float(cell.text) == top:
                cells = (*row.cells[:column], replace(cell, best=True), *row.cells[column + 1 :])
                marked[i] = replace(row, cells=cells)
    return tuple(marked)


def _competes(row: RowView, cell: CellView) -> bool:
    whole = cell.measured is None or not cell.measured.limited
    return cell.value is not None and not cell.mark and row.is_model and whole
