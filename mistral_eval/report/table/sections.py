"""The tables below the table: differences, "reproduced?", the paper's figure 4 and figure 5."""

from collections.abc import Callable, Sequence

from mistral_eval.errors import UsageError
from mistral_eval.report.baselines import Baseline, load_baselines
from mistral_eval.report.table.model import RunScores, TableOptions
from mistral_eval.report.table.scale import ANCHOR_IDS, SIZE_METHOD, Anchors, anchors, size_words
from mistral_eval.report.table.view import (
    MISSING,
    CellView,
    RowView,
    Section,
    find_row,
    points,
    run_labels,
    signed,
)
from mistral_eval.stats import Interval, mean_of
from mistral_eval.suite.benchmark import Benchmark, Group
from mistral_eval.suite.suites import FIGURE_4, FIGURE_5, columns_of


def build_sections(
    rows: Sequence[RowView],
    baselines: Sequence[Baseline],
    runs: Sequence[RunScores],
    options: TableOptions,
) -> tuple[Section, ...]:
    """Return the sections that the options ask for, in the order of the questions one asks."""
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
    """Read a run's intervals against one publication, in words that do not overclaim."""
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
    """Return a row's plain mean over a group's columns, or None where one is missing or marked.

    The group is whole or it is not shown. Published numbers have no interval: their ends equal the
    value.
    """
    by_id = {column.id: cell for column, cell in zip(columns, row.cells, strict=True)}
    cells = [by_id.get(known.id, CellView()) for known in columns_of(group)]
    parts = []
    for cell in cells:
        if cell.value is None or cell.mark:
            return None
        low = cell.value if cell.low is None else cell.low
        high = cell.value if cell.high is None else cell.high
        parts.append(Interval(cell.value, low, high))
    return mean_of(parts) if parts else None


def figure_4(rows: Sequence[RowView], columns: Sequence[Benchmark]) -> Section:
    """Return the group means of the paper's figure 4, as far as this suite has their columns."""

    def words(interval: Interval) -> str:
        text = f"{interval.value:.2f}"
        if interval.low == interval.high:
            return text
        return f"{points(interval.value)} [{points(interval.low)}, {points(interval.high)}]"

    means = [f"{FIGURE_4[group]} of {_joined(group)}" for group in ("knowledge", "code", "maths")]
    return Section(
        "Groups of the paper's figure 4",
        ("Model", *FIGURE_4.values()),
        _per_group(rows, columns, tuple(FIGURE_4), words),
        (
            f"Plain means of columns: {', '.join(means)}, as in the paper's bars.",
            (
                f"Reasoning is the mean of {_joined('reasoning')}; the paper's bar "
                "also holds SIQA, OpenbookQA and CommonsenseQA, so the two are not the same number."
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
    titles = tuple(FIGURE_4[group] for group in FIGURE_5)
    scales: dict[Group, Anchors] = {group: anchors(known, group) for group in FIGURE_5}
    body = []
    for row in rows:
        if row.is_model:
            found = {group: group_interval(row, columns, group) for group in FIGURE_5}
            body.append(
                (
                    row.label,
                    *(
                        MISSING if interval is None else size_words(interval, scales[group])
                        for group, interval in found.items()
                    ),
                )
            )
    return Section(
        "Llama 2 size with the same score (the paper's figure 5)",
        ("Model", *titles),
        tuple(body),
        SIZE_METHOD,
    )


def _per_group(
    rows: Sequence[RowView],
    columns: Sequence[Benchmark],
    groups: Sequence[Group],
    words: Callable[[Interval], str],
) -> tuple[tuple[str, ...], ...]:
    table = []
    for row in rows:
        found = [group_interval(row, columns, group) for group in groups]
        table.append((row.label, *(MISSING if one is None else words(one) for one in found)))
    return tuple(table)


def _find(name: str, baselines: Sequence[Baseline]) -> Baseline:
    for baseline in (*baselines, *load_baselines()):
        if name in {baseline.id, baseline.name}:
            return baseline
    raise UsageError(
        f"No published row is called {name!r}. "
        "`mistral-eval table --list-baselines` lists them with their ids."
    )
