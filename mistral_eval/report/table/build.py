"""From baselines and runs to the table's content, before any format."""

from collections.abc import Sequence
from dataclasses import replace

from mistral_eval.report.baselines import PAPER, Baseline
from mistral_eval.report.table.model import RunScores, TableOptions
from mistral_eval.report.table.notes import build_notes
from mistral_eval.report.table.sections import build_sections
from mistral_eval.report.table.view import TableView, build_rows
from mistral_eval.suite.registry import BENCHMARKS
from mistral_eval.suite.suites import PAPER as SUITE


def build_view(
    baselines: Sequence[Baseline], runs: Sequence[RunScores], options: TableOptions
) -> TableView:
    """Return what every format prints.

    A benchmark outside the paper's suite has a column if a run has it, after the others.

    Raises:
        UsageError: An option names a row or a baseline that does not exist.
    """
    measured = {name for run in runs for name in run.cells}
    others = [b for b in BENCHMARKS if b.id in measured and b.id not in SUITE]
    columns = dict.fromkeys((*options.benchmarks, *others))
    options = replace(options, benchmarks=tuple(columns))
    rows = build_rows(baselines, runs, options)
    return TableView(
        options.title or _title(baselines, runs),
        options.benchmarks,
        rows,
        build_notes(baselines, runs, options),
        build_sections(rows, baselines, runs, options),
    )


def _title(baselines: Sequence[Baseline], runs: Sequence[RunScores]) -> str:
    if runs:
        return "The Mistral 7B paper's suite: published numbers and measured ones, in percent"
    if {baseline.group for baseline in baselines} == {PAPER}:
        return "Mistral 7B (arXiv 2310.06825), Table 2, in percent"
    return "The Mistral 7B paper's suite: published numbers, in percent"
