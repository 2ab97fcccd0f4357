"""`mistral-eval report`: runs as one HTML file that needs no network and no server."""

from collections.abc import Sequence
from pathlib import Path

from mistral_eval.errors import DataError, TaskError
from mistral_eval.record.comparison import BenchmarkSamples, Comparison, RunSamples, compare_against
from mistral_eval.record.run_folder import write_lines
from mistral_eval.record.run_record import read_record
from mistral_eval.record.run_scores import run_labels, scores_of
from mistral_eval.record.sample_files import protocol_of, sample_files
from mistral_eval.report.table import build_view, published_rows
from mistral_eval.suite.registry import BY_ID

__all__ = ["write_report"]


def write_report(folders: Sequence[Path], output: Path, baselines: Sequence[str] = ()) -> None:
    """Write the report of finished runs; further runs are compared with the first.

    `baselines` are the published rows of the table; without any, the paper's own.

    Raises:
        OutputError: A run is unfinished or damaged, or the file cannot be written.
        UsageError: A baseline does not exist.
    """
    from mistral_eval.report.html.bundle import bundle
    from mistral_eval.report.html.document import Content, document
    from mistral_eval.report.html.shown_judgments import read_judgments
    from mistral_eval.report.table.chat_runs import chat_findings

    runs = [read_record(folder) for folder in folders]
    scores = [scores_of(run, folder) for run, folder in zip(runs, folders, strict=True)]
    view = build_view(published_rows(baselines), scores)
    names = run_labels(scores)
    files = [sample_files(run, folder) for run, folder in zip(runs, folders, strict=True)]
    known = {task for mine in files for task in mine}
    tasks = [task for task in dict.fromkeys((*BY_ID, *sorted(known))) if task in known]
    rated = [read_judgments(run, folder) for run, folder in zip(runs, folders, strict=True)]
    bundles = {
        task: bundle(
            task, [mine.get(task) for mine in files], [mine.get(task, {}) for mine in rated]
        )
        for task in tasks
    }
    samples = [
        RunSamples(
            name,
            {
                task: BenchmarkSamples(protocol_of(run, task), mine, run.scores[task].asked_as)
                for task, part in bundles.items()
                if (mine := part.outcomes[i]) is not None
            },
            run.engine,
        )
        for i, (name, run) in enumerate(zip(names, runs, strict=True))
    ]
    comparisons, refusal = _compared(samples)
    chat = chat_findings(folders)
    content = Content(view, runs, names, tuple(bundles.values()), comparisons, refusal, chat)
    write_lines(output, document(content))


def _compared(samples: Sequence[RunSamples]) -> tuple[tuple[Comparison, ...], str]:
    """Compare each further run with the first; on refusal, return its sentence."""
    reference, *others = samples
    if not others:
        return (), ""
    try:
        return compare_against(reference, others), ""
    except (TaskError, DataError) as refused:
        return (), str(refused)
