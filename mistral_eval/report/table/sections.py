"""The smaller tables: differences, "reproduced?", the paper's figures 4 and 5, the baselines."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from mistral_eval.errors import UsageError
from mistral_eval.record.run_record import RunScores, run_labels
from mistral_eval.report.baselines import ALIASES, Baseline, load_baselines
from mistral_eval.report.table.view import (
    MISSING,
    CellView,
    RowView,
    Section,
    TableOptions,
    find_row,
    points,
    signed,
)
from mistral_eval.stats import Interval, mean_of
from mistral_eval.suite.benchmark import Benchmark, Group
from mistral_eval.suite.registry import FIGURE_4, FIGURE_4_LACKS, FIGURE_5, columns_of

# Mistral 7B (arXiv 2310.06825v1), figure 5: the size of Llama 2 that would have a given score.
ANCHOR_IDS: Final = (
    "mistral-paper-table2/llama2-7b",
    "mistral-paper-table2/llama2-13b",
    "mixtral-paper-table2/llama2-70b",
)
SIZE_METHOD: Final = (
    (
        "Method: the group's mean score against the logarithm of the size, straight lines between "
        "Llama 2 7B and 13B (Mistral 7B paper) and 70B (Mixtral paper), all from Mistral's own "
        "pipeline; no extrapolation below or above."
    ),
    (
        "Knowledge ends at 13B: Mistral never printed 5-shot "
        f"{' and '.join(column.column for column in columns_of('knowledge'))} for Llama 2 70B."
    ),
    (
        f"The paper prints {FIGURE_4[FIGURE_5[0]]} 23B, Reasoning 38B (over eight benchmarks, "
        "here five) and Knowledge 13B for Mistral 7B and does not state its method; Meta's own "
        "68.9 for Llama 2 70B, in the place of 69.9, would give its 23B."
    ),
)


def build_sections(
    rows: Sequence[RowView],
    baselines: Sequence[Baseline],
    runs: Sequence[RunScores],
    options: TableOptions,
) -> tuple[Section, ...]:
    """Return the sections that the options ask for."""
    sections = []
    if options.delta_to is not None:
        sections.append(differences(rows, options.delta_to, options.benchmarks))
    if options.reproduced is not None:
        published = _find(options.reproduced, baselines)
        sections += [
            reproduced(run, label, published, options.benchmarks)
            for run, label in zip(runs, run_labels(runs), strict=True)
        ]
    if options.groups:
        sections.append(figure_4(rows, options.benchmarks))
    if options.sizes:
        known = [_find(name, baselines) for name in ANCHOR_IDS]
        sections.append(figure_5(rows, options.benchmarks, known))
    return tuple(sections)


def differences(rows: Sequence[RowView], reference: str, columns: Sequence[Benchmark]) -> Section:
    """Return every row's score minus the reference row's, in points.

    Raises:
        UsageError: No row has the reference's name.
    """
    base = find_row(reference, rows)
    body = [
        (row.label, *(_difference(a, b) for a, b in zip(row.cells, base.cells, strict=True)))
        for row in rows
        if row is not base
    ]
    return Section(
        f"Difference to {base.label}, in points",
        ("Model", *(column.column for column in columns)),
        tuple(body),
        ("Of two runs of your own, mistral-eval compare says which differences are real.",),
        turns=True,
    )


def _difference(cell: CellView, base: CellView) -> str:
    if cell.value is None or base.value is None or cell.mark or base.mark:
        return MISSING
    return signed(cell.value - base.value)


def reproduced(
    run: RunScores, label: str, published: Baseline, columns: Sequence[Benchmark]
) -> Section:
    """Return whether each of a run's intervals contains the published number."""
    measured = [column for column in columns if column.id in run.cells]
    return Section(
        f"Reproduced? {label} against {published.name} as published ({published.group_title})",
        ("Benchmark", "Published", "Here", "95 % interval", "Questions", "Reading"),
        tuple((column.column, *_reading(run, published, column)) for column in measured),
        (
            (
                "Inside: this run does not contradict the published number. It does not prove "
                "the two equal: a difference smaller than half the interval's width would not "
                "show."
            ),
            (
                "Outside: this run and the published number differ by more than a random choice "
                "of questions usually explains; prompt, scoring or weights may be the cause."
            ),
            "Of twenty true numbers, about one falls outside its 95 % interval by chance.",
        ),
        words=(0, 5),
    )


def _reading(run: RunScores, published: Baseline, column: Benchmark) -> tuple[str, ...]:
    cell, known = run.cells[column.id], published.cells.get(column.id)
    asked = f"{cell.n} of {cell.n_total}" if cell.limited else str(cell.n)
    here = (points(cell.value), f"[{points(cell.low)}, {points(cell.high)}]", asked)
    if known is None or not known.comparable:
        return (MISSING, *here, "not published under this protocol")
    if not run.is_model:
        return (known.text, *here, "not a model")
    if cell.low <= known.value <= cell.high:
        return (known.text, *here, "inside")
    side = "above" if cell.value > known.value else "below"
    return (known.text, *here, f"outside: {abs(cell.value - known.value):.1f} {side}")


def group_interval(row: RowView, columns: Sequence[Benchmark], group: Group) -> Interval | None:
    """Return a row's plain mean over a group's columns, or None if one is missing or marked.

    Published numbers have no interval: both ends equal the value.
    """
    by_id = {column.id: cell for column, cell in zip(columns, row.cells, strict=True)}
    cells = [by_id.get(known.id, CellView()) for known in columns_of(group)]
    parts = [cell.interval for cell in cells if cell.interval and not cell.mark]
    return mean_of(parts) if parts and len(parts) == len(cells) else None


def figure_4(rows: Sequence[RowView], columns: Sequence[Benchmark]) -> Section:
    """Return the group means of the paper's figure 4, for the benchmarks of this suite."""

    def words(interval: Interval) -> str:
        if interval.low == interval.high:
            return f"{interval.value:.2f}"
        return f"{points(interval.value)} [{points(interval.low)}, {points(interval.high)}]"

    means = [f"{FIGURE_4[group]} of {_joined(group)}" for group in ("knowledge", "code", "maths")]
    return Section(
        "Groups of the paper's figure 4",
        ("Model", *FIGURE_4.values()),
        _per_group(rows, columns, dict.fromkeys(FIGURE_4, words)),
        (
            f"Plain means of columns: {', '.join(means)}, as in the paper's bars.",
            (
                f"Reasoning is the mean of {_joined('reasoning')}; the paper's bar "
                f"also holds {FIGURE_4_LACKS}, so the two are not the same number."
            ),
        ),
    )


def _joined(group: Group) -> str:
    *most, last = (column.column for column in columns_of(group))
    return f"{', '.join(most)} and {last}"


def figure_5(
    rows: Sequence[RowView], columns: Sequence[Benchmark], known: Sequence[Baseline]
) -> Section:
    """Return, per row, the size of the Llama 2 model with the same score, as in figure 5."""
    sizes = {group: partial(size_words, scale=anchors(known, group)) for group in FIGURE_5}
    return Section(
        "Llama 2 size with the same score (the paper's figure 5)",
        ("Model", *(FIGURE_4[group] for group in FIGURE_5)),
        _per_group([row for row in rows if row.is_model], columns, sizes),
        SIZE_METHOD,
    )


@dataclass(frozen=True, slots=True)
class Anchors:
    """Known (score in percent, size in billions) points, by size."""

    scores: tuple[float, ...]
    sizes: tuple[float, ...]

    def size_of(self, score: float) -> float:
        """Return the size in billions with that score; 0 below the smallest, inf above all."""
        if score < self.scores[0]:
            return 0.0
        if score > self.scores[-1]:
            return math.inf
        pairs = tuple(zip(self.scores, self.sizes, strict=True))
        for (s0, b0), (s1, b1) in itertools.pairwise(pairs):
            if s0 <= score <= s1:
                share = (score - s0) / (s1 - s0)
                return math.exp(math.log(b0) + share * (math.log(b1) - math.log(b0)))
        return self.sizes[-1]


def anchors(known: Sequence[Baseline], group: Group) -> Anchors:
    """Return the mean score of each published size over a group's benchmarks.

    A publication that lacks one of them under this protocol is omitted.
    """
    wanted = [column.id for column in columns_of(group)]
    points = []
    for baseline in known:
        cells = [baseline.cells.get(name) for name in wanted]
        values = [cell.value for cell in cells if cell is not None and cell.comparable]
        if len(values) == len(wanted):
            points.append((math.fsum(values) / len(values), baseline.parameters_b))
    points.sort(key=lambda point: point[1])
    return Anchors(tuple(score for score, _ in points), tuple(size for _, size in points))


def size_words(score: Interval, scale: Anchors) -> str:
    """Return the size in words, e.g. "22B", "under 7B" or "22B [20B, 24B]"."""
    value = _one(scale.size_of(score.value), scale)
    if score.low == score.high:
        return value
    low, high = (_one(scale.size_of(end), scale) for end in (score.low, score.high))
    return value if low == value == high else f"{value} [{low}, {high}]"


def _one(size: float, scale: Anchors) -> str:
    if size == 0:
        return f"under {scale.sizes[0]:.0f}B"
    if math.isinf(size):
        return f"over {scale.sizes[-1]:.0f}B"
    return f"{size:.0f}B"


def _per_group(
    rows: Sequence[RowView],
    columns: Sequence[Benchmark],
    groups: Mapping[Group, Callable[[Interval], str]],
) -> tuple[tuple[str, ...], ...]:
    """Return a line per row: its label, then each group's interval as the group's text."""
    table = []
    for row in rows:
        found = [(words, group_interval(row, columns, group)) for group, words in groups.items()]
        table.append((row.label, *(words(one) if one else MISSING for words, one in found)))
    return tuple(table)


def baseline_listing(baselines: Sequence[Baseline]) -> tuple[Section, ...]:
    """Return what `--baselines` accepts: a section per publication, and the short names."""
    sections = []
    for group in dict.fromkeys(baseline.group for baseline in baselines):
        mine = [baseline for baseline in baselines if baseline.group == group]
        rows = tuple((b.id.partition("/")[2], b.name, _counted(b)) for b in mine)
        note = f"{mine[0].group_title}: {mine[0].source.table}, {mine[0].source.url}"
        sections.append(Section(group, ("Name", "Model", "Columns"), rows, (note,), words=(0, 1)))
    short = (
        ("all", "every row"),
        ("none", "no row"),
        *((name, ", ".join(groups)) for name, groups in ALIASES.items()),
    )
    notes = (
        (
            "--baselines takes a group (the titles above), a short name, group/name, or a name or "
            "model that only one group has; separate several with commas."
        ),
        (
            "Columns: benchmarks of the suite with a published number; in brackets how many of "
            "them were measured under another protocol (marked, or listed in a note)."
        ),
    )
    return (*sections, Section("Short names", ("Name", "Groups"), short, notes, words=(0, 1)))


def _counted(baseline: Baseline) -> str:
    other = sum(not cell.comparable for cell in baseline.cells.values())
    return f"{len(baseline.cells)} ({other})" if other else str(len(baseline.cells))


def _find(name: str, baselines: Sequence[Baseline]) -> Baseline:
    for baseline in (*baselines, *load_baselines()):
        if name in {baseline.id, baseline.name}:
            return baseline
    raise UsageError(
        f"No published row is called {name!r}. "
        "`mistral-eval table --list-baselines` lists them with their ids."
    )
