"""The table before any format: rows of cells and sections, all as text; `notes` has its notes.

Every format renders this structure, so the wording is decided here and not in a renderer.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from mistral_eval.errors import UsageError
from mistral_eval.record.run_record import Cell
from mistral_eval.record.run_scores import RunScores, run_labels
from mistral_eval.report.baselines import PAPER, Baseline, PublishedCell
from mistral_eval.stats import Interval
from mistral_eval.suite.benchmark import Benchmark
from mistral_eval.suite.registry import BY_ID, paper_benchmarks

MISSING: Final = "—"
OTHER_PROTOCOL: Final = "†"
NOT_A_MODEL: Final[Mapping[str, str]] = {
    "oracle": "the oracle answers with the gold: a check of the scorers, not a model",
    "oracle-wrong": "the oracle answers wrongly on purpose: a check of the scorers, not a model",
    "random": "the random engine guesses: a check of the scorers, not a model",
}


@dataclass(frozen=True, slots=True)
class TableOptions:
    """The table's columns, in order, and what it shows beside the scores.

    Attributes:
        delta_to: Name or baseline id of the row that every row's difference is taken to.
        reproduced: Name or id of the baseline that each run is read against, cell by cell.
        groups: Whether the groups of the paper's figure 4 are added; `sizes`: figure 5's sizes.
    """

    benchmarks: tuple[Benchmark, ...] = paper_benchmarks()
    delta_to: str | None = None
    reproduced: str | None = None
    groups: bool = False
    sizes: bool = False

    @property
    def asks_for_sections(self) -> bool:
        """Whether any smaller table is shown below the main one."""
        named = (self.delta_to, self.reproduced)
        return self.groups or self.sizes or any(name is not None for name in named)


@dataclass(frozen=True, slots=True)
class CellView:
    """One cell: its text, and the measured or published number behind it, if any.

    `mark` is "†" where the number was measured under another protocol than the column's.
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
    def interval(self) -> Interval | None:
        """The number with its interval's ends, which equal it if the number is published."""
        if self.measured is not None:
            return Interval(self.measured.value, self.measured.low, self.measured.high)
        return None if self.value is None else Interval(self.value, self.value, self.value)

    @property
    def evidence(self) -> tuple[str, ...]:
        """A measured cell's interval and number of questions as text: (low, high, n); else ()."""
        if self.measured is None:
            return ()
        return points(self.measured.low), points(self.measured.high), str(self.measured.n)


@dataclass(frozen=True, slots=True)
class RowView:
    """One row: a published model or a run; the other of the two is None."""

    id: str
    label: str
    cells: tuple[CellView, ...]
    published: Baseline | None = None
    run: RunScores | None = None

    @property
    def kind(self) -> Literal["published", "run"]:
        """Whether the row is published or measured here."""
        return "published" if self.run is None else "run"

    @property
    def modality(self) -> str:
        """The published model's kind of training, e.g. "Pretrained"; "" for a run."""
        return self.published.modality if self.published else ""

    @property
    def is_model(self) -> bool:
        """Whether a model answered, not the oracle or the random engine."""
        return self.run is None or self.run.is_model

    @property
    def limited(self) -> bool:
        """Whether fewer questions were asked than a test set has."""
        return self.run is not None and any(cell.limited for cell in self.run.cells.values())

    @property
    def remarks(self) -> tuple[str, ...]:
        """Words that are printed beside the label."""
        failed = self.run is not None and bool(self.run.error)
        found = {"not a model": not self.is_model, "limited": self.limited, "failed": failed}
        return tuple(words for words, holds in found.items() if holds)

    @property
    def remarked(self) -> str:
        """The label with its remarks, e.g. "tiny (limited)"."""
        return f"{self.label} ({', '.join(self.remarks)})" if self.remarks else self.label


@dataclass(frozen=True, slots=True)
class Section:
    """A smaller table below the main one; every cell is text.

    `words` are the indices of left-aligned columns; the others hold numbers. `turns` allows a
    narrow terminal to transpose the table. `data` has each row's numbers for programs, if the text
    of its cells is no number.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    words: tuple[int, ...] = (0,)
    turns: bool = False
    data: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class TableView:
    """The table, its notes, and the sections that the options ask for."""

    title: str
    columns: tuple[Benchmark, ...]
    rows: tuple[RowView, ...]
    notes: tuple[str, ...] = ()
    sections: tuple[Section, ...] = ()

    @property
    def is_figure(self) -> bool:
        """Whether the view is a figure's table alone, without a table of benchmarks."""
        return not self.columns

    @property
    def has_runs(self) -> bool:
        """Whether a row was measured here."""
        return any(row.kind == "run" for row in self.rows)

    @property
    def lead(self) -> tuple[str, ...]:
        """Headings of the columns before the scores; with runs there is no room for modality."""
        return ("Model",) if self.has_runs else ("Model", "Modality")


def build_rows(
    baselines: Sequence[Baseline], runs: Sequence[RunScores], options: TableOptions
) -> tuple[RowView, ...]:
    """Return the published rows, then the runs, with the best score of each column marked."""
    rows = [_published(baseline, options) for baseline in baselines]
    labels = run_labels(runs)
    rows += [_measured(run, label, options) for run, label in zip(runs, labels, strict=True)]
    return _mark_best(rows)


def find_row(name: str, rows: Sequence[RowView]) -> RowView:
    """Return the row with this label or id.

    Raises:
        UsageError: There is none; the sentence names the nearest labels.
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


def column_of(task: str) -> str:
    """Return a benchmark's column heading; a stock lm-eval task keeps its own name."""
    return BY_ID[task].column if task in BY_ID else task


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
    if cell is None or not cell.n:  # a judge of which nothing can be read leaves no question
        return CellView()
    return CellView(points(cell.value), OTHER_PROTOCOL if cell.ways else "", measured=cell)


def _mark_best(rows: Sequence[RowView]) -> tuple[RowView, ...]:
    """Set `best` on each column's highest printed score among comparable, full-size, real models.

    Scores that print the same are equally best; a column with one candidate has no best.
    """
    columns = []
    for cells in zip(*(row.cells for row in rows), strict=True):
        rivals = [_competes(row, cell) for row, cell in zip(rows, cells, strict=True)]
        scores = [float(cell.text) for cell, in_it in zip(cells, rivals, strict=True) if in_it]
        top = max(scores) if len(scores) > 1 else None
        columns.append(
            [
                replace(cell, best=in_it and float(cell.text) == top)
                for cell, in_it in zip(cells, rivals, strict=True)
            ]
        )
    marked = zip(*columns, strict=True) if columns else [row.cells for row in rows]
    return tuple(replace(row, cells=tuple(cells)) for row, cells in zip(rows, marked, strict=True))


def _competes(row: RowView, cell: CellView) -> bool:
    whole = cell.measured is None or not cell.measured.limited
    return cell.value is not None and not cell.mark and row.is_model and whole
