"""The table before any format: rows of cells, notes and sections, all as text.

Every format renders this structure, so the wording is decided here and not in a renderer.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from mistral_eval.errors import UsageError
from mistral_eval.record.run_record import Cell, RunScores, run_labels
from mistral_eval.report.baselines import PAPER, Baseline, PublishedCell
from mistral_eval.stats import Interval
from mistral_eval.suite.benchmark import Benchmark
from mistral_eval.suite.registry import BY_ID, CONTRADICTIONS, paper_benchmarks

MISSING: Final = "—"
OTHER_PROTOCOL: Final = "†"
NOT_A_MODEL: Final[Mapping[str, str]] = {
    "oracle": "the oracle answers with the gold: a check of the scorers, not a model",
    "oracle-wrong": "the oracle answers wrongly on purpose: a check of the scorers, not a model",
    "random": "the random engine guesses: a check of the scorers, not a model",
}
SCORING: Final[Mapping[str, str]] = {
    "acc": "likelihood",
    "acc_norm": "likelihood per character",
    "acc_relative": "likelihood over that without the question",
    "exact_match": "exact match",
    "f1": "F1 of words",
    "pass@1": "pass@1, one greedy sample",
    "maj@4": "majority of 4 samples",
    "maj@8": "majority of 8 samples",
}
METRIC_WORDS: Final[Mapping[str, str]] = {
    "maj@1": "mean of the single samples",
    "acc_macro": "mean over subjects",
    "exact_match_macro": "mean over tasks",
    "heq_q": "questions answered no worse than by a person",
    "human_f1": "F1 of people among themselves",
    "f1_unfiltered": "F1 over all questions",
    "f1_max": "F1 with any reference, over all questions",
    "acc": "plain likelihood",
    "acc_norm": "likelihood per character",
    "maj@8_flexible": "vote over the last numbers",
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
        found = {"not a model": not self.is_model, "limited": self.limited}
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
    return CellView() if cell is None else CellView(points(cell.value), measured=cell)


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


def build_notes(
    baselines: Sequence[Baseline], runs: Sequence[RunScores], options: TableOptions
) -> tuple[str, ...]:
    """Return the table's notes, the most general first."""
    notes = [_protocol(options.benchmarks)]
    if runs:
        notes.append(
            "Runs: score, 95 % interval (Wilson, over questions), number of questions. "
            "A vote is one question. Published numbers come without an interval."
        )
    notes += _contradictions(baselines, options.benchmarks)
    notes += _sources(baselines)
    notes += _other_protocols(baselines, options.benchmarks)
    notes += _apart(baselines, options.benchmarks)
    about = {
        label: _about_run(run, options.benchmarks)
        for run, label in zip(runs, run_labels(runs), strict=True)
    }
    return (*notes, *_by_run(about))


def _by_run(about: Mapping[str, Sequence[str]]) -> list[str]:
    """Return what is said about runs: what several share once, then each run's own in one note."""
    if len(about) == 1:
        return [f"{label}: {note}." for label, notes in about.items() for note in notes]
    owners: dict[str, list[str]] = {}
    for label, notes in about.items():
        for note in notes:
            owners.setdefault(note, []).append(label)
    shared = [
        f"{'All runs' if len(labels) == len(about) else '; '.join(labels)}: {note}."
        for note, labels in owners.items()
        if len(labels) > 1
    ]
    own = {
        label: [note for note in notes if owners[note] == [label]] for label, notes in about.items()
    }
    return shared + [f"{label}: {_sentences(notes)}." for label, notes in own.items() if notes]


def _sentences(notes: Sequence[str]) -> str:
    """Join notes as sentences; a first word that is a name, such as config.json, stays as it is."""
    first, *others = notes
    capital = [
        note[:1].upper() + note[1:] if note.split(maxsplit=1)[0].rstrip(":,").isalpha() else note
        for note in others
    ]
    return ". ".join((first, *capital))


def _protocol(columns: Sequence[Benchmark]) -> str:
    kinds: dict[str, list[str]] = {}
    for column in columns:
        kind = f"{column.shots_label}-shot, {SCORING[column.cell]}"
        kinds.setdefault(kind, []).append(column.column)
    listed = "; ".join(f"{', '.join(names)} {kind}" for kind, names in kinds.items())
    return f"Protocol: {listed}."


def _contradictions(baselines: Sequence[Baseline], columns: Sequence[Benchmark]) -> list[str]:
    shown = {baseline.id for baseline in baselines}
    return [
        f"{benchmark.column}: {sentence}"
        for benchmark, models, sentence in CONTRADICTIONS
        if benchmark in columns and {f"{PAPER}/{model}" for model in models} <= shown
    ]


def _sources(baselines: Sequence[Baseline]) -> list[str]:
    notes = []
    for b in {baseline.group: baseline for baseline in baselines}.values():
        title = "" if b.group_title.startswith(b.source.title) else f"{b.source.title}, "
        remark = f" ({b.source.note})" if b.source.note else ""
        notes.append(f"{b.group_title}: {title}{b.source.table}, {b.source.url}{remark}.")
    return notes


def _other_protocols(baselines: Sequence[Baseline], columns: Sequence[Benchmark]) -> list[str]:
    """Return a note per publication: why its marked cells differ from the column's protocol."""
    reasons: dict[str, dict[str, dict[str, None]]] = {}
    remarks: dict[str, dict[str, dict[str, None]]] = {}
    for baseline in baselines:
        for column in columns:
            cell = baseline.cells.get(column.id)
            if cell is None or cell.comparable or not cell.fits_column(column.id):
                continue
            title = baseline.group_title
            why = cell.protocol.note or "its own protocol"
            reasons.setdefault(title, {}).setdefault(why, {})[column.column] = None
            if cell.remark:
                said = remarks.setdefault(title, {}).setdefault(cell.remark, {})
                said[f"{baseline.name} {column.column}"] = None
    return [
        f"{OTHER_PROTOCOL} {title}, not the column's protocol: {_joined(found)}."
        + (f" {_joined(remarks[title])}." if title in remarks else "")
        for title, found in reasons.items()
    ]


def _joined(reasons: Mapping[str, Iterable[str]]) -> str:
    return "; ".join(f"{', '.join(where)}: {why}" for why, where in reasons.items())


def _apart(baselines: Sequence[Baseline], columns: Sequence[Benchmark]) -> list[str]:
    """Return notes with the numbers that fit no column: other or unknown number of shots."""
    found: dict[str, dict[str, list[str]]] = {}
    for baseline in baselines:
        for name, cell in (*baseline.cells.items(), *baseline.other.items()):
            benchmark = BY_ID.get(name.partition(":")[0])
            if benchmark not in columns or benchmark is None or cell.fits_column(name):
                continue
            shots = cell.protocol.shots
            how = [benchmark.column, "shots not stated" if shots is None else f"{shots}-shot"]
            how += [cell.protocol.metric] if cell.protocol.metric.startswith("maj") else []
            how += [cell.protocol.note] if name.endswith("split") else []
            kinds = found.setdefault(baseline.group_title, {})
            kinds.setdefault(", ".join(how), []).append(f"{baseline.name} {cell.text}")
    return [
        f"{title}, apart from the columns: "
        + "; ".join(f"{kind}: {', '.join(values)}" for kind, values in kinds.items())
        + "."
        for title, kinds in found.items()
    ]


def _about_run(run: RunScores, columns: Sequence[Benchmark]) -> list[str]:
    """Return what the reader of a run's row must know, without the run's label."""
    cells = {c.column: run.cells[c.id] for c in columns if c.id in run.cells}
    notes = [NOT_A_MODEL[run.engine]] if run.engine in NOT_A_MODEL else []
    notes += [_limited(cells)]
    unread = {name: cell.no_answer / cell.n for name, cell in cells.items()}
    late = {name: cell.timeout / cell.n for name, cell in cells.items()}
    notes += [_shares("no readable answer", unread), _shares("checker timed out", late)]
    notes += [_secondary(cells), _data(cells)]
    said = [note.rstrip(".") for cell in cells.values() for note in cell.notes]
    return [note for note in dict.fromkeys((*notes, *said)) if note]


def _limited(cells: Mapping[str, Cell]) -> str:
    limited = {name: cell for name, cell in cells.items() if cell.limited}
    asked = {cell.n for cell in limited.values()}
    if len(limited) > 2 and len(asked) == 1:
        whole = ", ".join(f"{name} {cell.n_total}" for name, cell in limited.items())
        return f"limited: {asked.pop()} questions of each benchmark; in full: {whole}"
    some = ", ".join(f"{c.n} of {c.n_total} questions ({name})" for name, c in limited.items())
    return f"limited: {some}" if some else ""


def _shares(what: str, shares: Mapping[str, float]) -> str:
    some = ", ".join(f"{name} {_percent(part)}" for name, part in shares.items() if part)
    return f"{what}, counted as wrong: {some}" if some else ""


def _percent(part: float) -> str:
    """Return a share in percent that does not round a positive share to zero."""
    return f"{100 * part:.1f} %" if part >= 0.0005 else "under 0.1 %"


def _data(cells: Mapping[str, Cell]) -> str:
    """Return the names of the test sets' fingerprints, the most frequent first."""
    found: dict[str, list[str]] = {}
    for name, cell in cells.items():
        found.setdefault(cell.data_fingerprint, []).append(name)
    found.pop("", None)
    if not found:
        return ""
    (main, _), *others = sorted(found.items(), key=lambda item: -len(item[1]))
    rest = "; ".join(f"{', '.join(names)}: {what}" for what, names in others)
    return f"data: {main}, except {rest}" if rest else f"data: {main}"


def _secondary(cells: Mapping[str, Cell]) -> str:
    found: dict[str, list[str]] = {}
    for name, cell in cells.items():
        for metric, value in cell.secondary.items():
            words = METRIC_WORDS.get(metric, metric)
            found.setdefault(words, []).append(f"{name} {points(value)}")
    return "; ".join(f"{words}: {', '.join(values)}" for words, values in found.items())
