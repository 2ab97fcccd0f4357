"""From baselines and runs to the table's content, before any format."""

from collections.abc import Sequence

from mistral_eval.report.baselines import PAPER, Baseline
from mistral_eval.report.table.model import RunScores, TableOptions
from mistral_eval.report.table.notes import build_notes
from mistral_eval.report.table.sections import build_sections
from mistral_eval.report.table.view import TableView, build_rows


def build_view(
    baselines: Sequence[Baseline], runs: Sequence[RunScores], options: TableOptions
) -> TableView:
    """Return what every format prints.

    Raises:
        UsageError: An option names a row or a baseline that does not exist.
    """
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
