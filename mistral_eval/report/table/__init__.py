"""The paper's table from published numbers and runs, in six formats."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from mistral_eval.errors import UsageError
from mistral_eval.record.run_record import RunRecord, RunScores, load_scores, scores_of
from mistral_eval.report.baselines import PAPER, Baseline, load_baselines, select
from mistral_eval.report.table.data_tables import csv_table, json_table
from mistral_eval.report.table.html_table import html_page
from mistral_eval.report.table.latex_table import latex_table
from mistral_eval.report.table.markdown_table import markdown_table
from mistral_eval.report.table.rich_table import RichTable
from mistral_eval.report.table.view import Section, TableOptions, TableView, build_notes, build_rows
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

    Raises:
        UsageError: An option names a row that does not exist.
    """
    options = options or TableOptions()
    measured = {name for run in runs for name in run.cells}
    others = [one for one in BENCHMARKS if one.id in measured and one.id not in PAPER_SUITE]
    columns = tuple(dict.fromkeys((*options.benchmarks, *others)))
    options = replace(options, benchmarks=columns)
    rows = build_rows(baselines, runs, options)
    sections: tuple[Section, ...] = ()
    if options.asks_for_sections:
        from mistral_eval.report.table.sections import build_sections

        sections = build_sections(rows, baselines, runs, options)
    return TableView(
        _title(baselines, runs),
        options.benchmarks,
        rows,
        build_notes(baselines, runs, options),
        sections,
    )


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
    if fmt not in _RENDERERS:
        raise UsageError(f"A table can be printed as {', '.join(FORMATS)}; found {fmt!r}.")
    return _RENDERERS[fmt](build_view(baselines, runs, options))


def render_runs(
    folders: Sequence[Path],
    baselines: Sequence[str],
    fmt: str,
    options: TableOptions | None = None,
) -> Any:
    """Return the table of finished runs below published rows, as `render_table` does.

    Raises:
        OutputError: A folder holds no finished run.
        UsageError: A baseline or format is unknown.
    """
    runs = [load_scores(folder) for folder in folders]
    return render_table(published_rows(baselines), runs, fmt, options)


def markdown_of(run: RunRecord, folder: Path) -> str:
    """Return a run's own table.md."""
    return str(render_table(published_rows(), [scores_of(run, folder)], "md"))


def _title(baselines: Sequence[Baseline], runs: Sequence[RunScores]) -> str:
    if runs:
        return "The Mistral 7B paper's suite: published numbers and measured ones, in percent"
    if {baseline.group for baseline in baselines} == {PAPER}:
        return "Mistral 7B (arXiv 2310.06825), Table 2, in percent"
    return "The Mistral 7B paper's suite: published numbers, in percent"
