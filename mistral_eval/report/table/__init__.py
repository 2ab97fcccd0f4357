"""The paper's table from published numbers and runs, in six formats."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from mistral_eval.errors import UsageError
from mistral_eval.record.run_record import RunRecord
from mistral_eval.record.run_scores import RunScores, load_scores, scores_of
from mistral_eval.report.baselines import PAPER, Baseline, load_baselines, select
from mistral_eval.report.table.data_tables import csv_table, json_table
from mistral_eval.report.table.html_table import html_page
from mistral_eval.report.table.latex_table import latex_table
from mistral_eval.report.table.markdown_table import markdown_table
from mistral_eval.report.table.notes import build_notes
from mistral_eval.report.table.rich_table import RichTable
from mistral_eval.report.table.view import Section, TableOptions, TableView, build_rows
from mistral_eval.suite.benchmark import Benchmark
from mistral_eval.suite.registry import BENCHMARKS
from mistral_eval.suite.registry import PAPER as PAPER_SUITE

_RENDERERS: Final[dict[str, Callable[[TableView], Any]]] = {
    "rich": RichTable,
    "md": markdown_table,
    "latex": latex_table,
    "csv": csv_table,
    "html": html_page,
    "json": json_table,
}
FORMATS: Final = tuple(_RENDERERS)


def published_rows(names: Sequence[str] = ()) -> tuple[Baseline, ...]:
    """Return the published rows of these names; without names, the paper's own.

    Raises:
        UsageError: A name is unknown or ambiguous.
    """
    return select(names or (PAPER,), load_baselines())


def build_view(
    baselines: Sequence[Baseline],
    runs: Sequence[RunScores] = (),
    options: TableOptions | None = None,
) -> TableView:
    """Return the table's content before any format: published rows, then runs, notes, sections.

    A benchmark that is not among the options' columns has one behind them if a run has its score.
    If the runs have none of the options' columns, the table has the benchmarks that were run, and
    the published rows with a number of one of them.

    Raises:
        UsageError: An option names a row that does not exist.
    """
    options = options or TableOptions()
    measured = {name for run in runs for name in run.cells}
    others = [one for one in BENCHMARKS if one.id in measured and one.id not in PAPER_SUITE]
    chosen = options.benchmarks
    if others and not any(one.id in measured for one in chosen):
        chosen = ()  # a table of what was run, not twelve empty columns beside it
        reference = options.delta_to
        baselines = [
            one for one in baselines if _has_any(one, others) or reference in (one.id, one.name)
        ]
    options = replace(options, benchmarks=tuple(dict.fromkeys((*chosen, *others))))
    rows = build_rows(baselines, runs, options)
    sections: tuple[Section, ...] = ()
    if options.asks_for_sections:
        from mistral_eval.report.table.sections import build_sections

        sections = build_sections(rows, baselines, runs, options)
    return TableView(
        _title(baselines, runs, options.benchmarks),
        options.benchmarks,
        rows,
        build_notes(baselines, runs, options),
        sections,
    )


def figure_view(runs: Sequence[RunScores], layout: str) -> TableView:
    """Return the paper's figure 4 or 5 as a table: its models, then the runs.

    Raises:
        UsageError: There is no such layout.
    """
    from mistral_eval.report.table.figures import FIGURE_ROWS, figure_4, figure_5

    layouts = {"figure4": figure_4, "figure5": figure_5}
    if layout not in layouts:
        known = ", ".join((*layouts, "chat", "guardrails"))
        raise UsageError(f"A layout is one of table2, {known}; found {layout!r}.")
    options = TableOptions(BENCHMARKS)
    rows = build_rows(published_rows(FIGURE_ROWS), runs, options)
    section = layouts[layout](rows, options.benchmarks)
    return TableView(section.title, (), (), (), (section,))


def render_table(
    baselines: Sequence[Baseline],
    runs: Sequence[RunScores],
    fmt: str,
    options: TableOptions | None = None,
) -> Any:
    """Return the table in a format: text that ends in a line break, or for "rich" a renderable.

    Raises:
        UsageError: The format is unknown, or an option names a row that does not exist.
    """
    return _rendered(build_view(baselines, runs, options), fmt)


def _rendered(view: TableView, fmt: str) -> Any:
    if fmt not in _RENDERERS:
        raise UsageError(f"A table can be printed as {', '.join(FORMATS)}; found {fmt!r}.")
    return _RENDERERS[fmt](view)


def render_figure(folders: Sequence[Path], layout: str, fmt: str) -> Any:
    """Return one of the paper's other displays with finished runs in it, as `render_table` does.

    Args:
        folders: Finished runs; for the layout `chat` also FastChat's files of judgments.
        layout: "figure4", "figure5", "chat" (Table 3) or "guardrails" (Table 4).
        fmt: See `render_table`.

    Raises:
        OutputError: A folder holds no finished run.
        DataError: A file is not FastChat's.
        UsageError: The layout or format is unknown, or a run has not what the layout shows.
    """
    if layout in ("chat", "guardrails"):
        from mistral_eval.report.table.chat_runs import chat_view, guardrail_view

        view = chat_view(folders) if layout == "chat" else guardrail_view(folders)
        return _rendered(view, fmt)
    return _rendered(figure_view([load_scores(folder) for folder in folders], layout), fmt)


def render_runs(
    runs: Sequence[Path | RunScores],
    baselines: Sequence[str],
    fmt: str,
    options: TableOptions | None = None,
) -> Any:
    """Return the table of runs below published rows, as `render_table` does.

    Of a finished run its folder is enough.

    Raises:
        OutputError: A folder holds no finished run.
        UsageError: A baseline or format is unknown.
    """
    rows = [run if isinstance(run, RunScores) else load_scores(run) for run in runs]
    return render_table(published_rows(baselines), rows, fmt, options)


def markdown_of(run: RunRecord, folder: Path) -> str:
    """Return a run's own table.md."""
    return str(render_table(published_rows(), [scores_of(run, folder)], "md"))


def _has_any(baseline: Baseline, columns: Sequence[Benchmark]) -> bool:
    cells = {column.id: baseline.cells.get(column.id) for column in columns}
    return any(cell is not None and cell.fits_column(name) for name, cell in cells.items())


def _title(
    baselines: Sequence[Baseline], runs: Sequence[RunScores], columns: Sequence[Benchmark]
) -> str:
    if runs and not any(column.id in PAPER_SUITE for column in columns):
        return "Benchmarks outside the Mistral 7B paper's table, in percent"
    if runs:
        return "The Mistral 7B paper's suite: published numbers and measured ones, in percent"
    if {baseline.group for baseline in baselines} == {PAPER}:
        return "Mistral 7B (arXiv 2310.06825), Table 2, in percent"
    return "The Mistral 7B paper's suite: published numbers, in percent"
