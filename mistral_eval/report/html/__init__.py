"""`mistral-eval report`: runs as one HTML file that needs no network and no server."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mistral_eval.errors import DataError, TaskError
from mistral_eval.record.comparison import BenchmarkSamples, Comparison, RunSamples, compare_against
from mistral_eval.record.run_folder import write_lines
from mistral_eval.record.sample_files import protocol_of, sample_files
from mistral_eval.report.baselines import load_baselines, select
from mistral_eval.report.runs import DEFAULT_BASELINES, load_scores, read_finished
from mistral_eval.report.table.build import build_view
from mistral_eval.report.table.model import TableOptions
from mistral_eval.report.table.view import run_labels
from mistral_eval.suite.registry import BY_ID

__all__ = ["write_report"]


def write_report(folders: Sequence[Path], output: Path, baselines: Sequence[str] = ()) -> None:
    """Write the report of finished runs; further runs are compared with the first.

    Args:
        folders: The runs' folders.
        output: The file to write.
        baselines: Published rows of the table; none means the paper's own.

    Raises:
        OutputError: a run is unfinished or damaged, or the file cannot be written.
        UsageError: a baseline does not exist.
    """
    from mistral_eval.report.html.bundle import Bundle, bundle
    from mistral_eval.report.html.document import Content, document

    published = select(baselines or DEFAULT_BASELINES, load_baselines())
    runs = [read_finished(folder) for folder in folders]
    scores = [load_scores(folder) for folder in folders]
    view = build_view(published, scores, TableOptions())
    names = run_labels(scores)
    files = [sample_files(run, folder) for run, folder in zip(runs, folders, strict=True)]
    tasks = list(dict.fromkeys(task for task in (*BY_ID, *_all(files)) if task in _all(files)))
    bundles: list[Bundle] = [bundle(task, [mine.get(task) for mine in files]) for task in tasks]
    samples = [
        RunSamples(
            names[i],
            scores[i].path,
            {
                task: BenchmarkSamples(protocol_of(runs[i], task), mine)
                for task, part in zip(tasks, bundles, strict=True)
                if (mine := part.outcomes[i]) is not None
            },
        )
        for i in range(len(runs))
    ]
    comparisons, refusal = _compared(samples)
    content = Content(view, runs, names, bundles, comparisons, refusal)
    write_lines(output, document(content))


def _all(files: Sequence[dict[str, Any]]) -> set[str]:
    return {task for mine in files for task in mine}


def _compared(samples: Sequence[RunSamples]) -> tuple[tuple[Comparison, ...], str]:
    """Each further run against the first, or the sentence that says why not."""
    reference, *others = samples
    if not others:
        return (), ""
    try:
        return compare_against(reference, others), ""
    except (TaskError, DataError) as refused:
        return (), str(refused)
