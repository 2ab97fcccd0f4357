"""The smaller tables: differences, "reproduced?", the baselines."""

from collections.abc import Sequence

from mistral_eval.errors import UsageError
from mistral_eval.record.run_scores import RunScores, run_labels
from mistral_eval.report.baselines import ALIASES, Baseline, load_baselines
from mistral_eval.report.table.figures import figure_4, figure_5
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
from mistral_eval.suite.benchmark import Benchmark


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
        sections.append(figure_5(rows, options.benchmarks))
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
    if cell.ways:
        return (known.text, *here, "another protocol")
    if not run.is_model:
        return (known.text, *here, "not a model")
    if cell.low <= known.value <= cell.high:
        return (known.text, *here, "inside")
    side = "above" if cell.value > known.value else "below"
    return (known.text, *here, f"outside: {abs(cell.value - known.value):.1f} {side}")


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
            "Columns: benchmarks with a published number; in brackets how many of "
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
