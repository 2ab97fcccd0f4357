"""Finished runs as the table wants them: from run.json to a row."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mistral_eval.errors import OutputError
from mistral_eval.record.run_folder import RUN_FILE, read_run
from mistral_eval.report.baselines import load_baselines, select
from mistral_eval.report.table import render_table
from mistral_eval.report.table.model import Cell, RunScores, TableOptions

DEFAULT_BASELINES = ("mistral-paper-table2",)


def load_scores(folder: Path) -> RunScores:
    """The row of a finished run.

    Raises:
        OutputError: no run, an unfinished one, or one of another version.
    """
    return scores_of(read_finished(folder), folder)


def read_finished(folder: Path) -> dict[str, Any]:
    """The run.json of a finished run.

    Raises:
        OutputError: no run, an unfinished one, or one of another version.
    """
    run = read_run(folder)
    if run.get("status") != "finished":
        raise OutputError(
            f"The run in {folder} has not finished. Its command goes on where it stopped."
        )
    return run


def scores_of(run: Mapping[str, Any], folder: Path) -> RunScores:
    """A row from the content of a run.json.

    Raises:
        OutputError: a field is missing.
    """
    try:
        settings = run["settings"]
        cells = {name: _cell(cell, run.get("notes", ())) for name, cell in run["scores"].items()}
        return RunScores(
            name=_label(run["engine"], settings),
            path=str(folder),
            model=settings["model"],
            seed=settings["seed"],
            engine=run["engine"],
            date=run["date"][:10],
            cells=cells,
        )
    except (KeyError, TypeError) as error:
        raise OutputError(
            f"{folder / RUN_FILE} lacks what a table needs ({error}). Run the command again."
        ) from error


def render_runs(
    folders: Sequence[Path],
    baselines: Sequence[str],
    fmt: str,
    options: TableOptions | None = None,
) -> Any:
    """The paper's table with these runs below the baselines: text, or a rich renderable."""
    published = select(baselines or DEFAULT_BASELINES, load_baselines())
    runs = [load_scores(folder) for folder in folders]
    return render_table(published, runs, fmt, options=options)


def markdown_of(run: Mapping[str, Any], folder: Path) -> str:
    """A run's own table.md."""
    published = select(DEFAULT_BASELINES, load_baselines())
    return str(render_table(published, [scores_of(run, folder)], "md"))


def _cell(cell: Mapping[str, Any], notes: Sequence[str]) -> Cell:
    return Cell(**{**cell, "notes": (*cell["notes"], *notes)})


def _label(engine: str, settings: Mapping[str, Any]) -> str:
    from mistral_eval.settings import MODEL_FREE

    if engine in MODEL_FREE:
        return engine
    model = str(settings["model"])
    return Path(model).name if Path(model).exists() else model
