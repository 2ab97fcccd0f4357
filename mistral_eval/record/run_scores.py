"""A run's scores as a row of a table, and the label that tells it from others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mistral_eval.errors import MistralEvalError, UnfinishedError
from mistral_eval.record.run_record import Cell, RunRecord, StepRecord, read_record, unfinished
from mistral_eval.settings import MODEL_FREE, RunSettings


@dataclass(frozen=True, slots=True)
class RunScores:
    """One run's scores by benchmark: a row of the table, labelled `name`.

    `path` is the run's folder, `date` its day in ISO 8601. `error` is the sentence of a run that
    failed, which has neither folder, date nor cells.
    """

    name: str
    path: str
    model: str
    seed: int
    engine: str
    date: str
    cells: Mapping[str, Cell]
    revision: str | None = None
    step: StepRecord | None = None
    error: str = ""

    @property
    def is_model(self) -> bool:
        """Whether a model answered, not the oracle or the random engine."""
        return self.engine not in MODEL_FREE


def load_scores(folder: Path) -> RunScores:
    """Read the scores of a finished run; errors as of `read_record`."""
    return scores_of(read_record(folder), folder)


def unfinished_runs(folders: Sequence[Path]) -> dict[Path, UnfinishedError]:
    """Return which of several runs have not finished, with a sentence on each.

    Raises:
        UnfinishedError: none has finished.
    """
    found = {folder: error for folder in folders if (error := unfinished(folder))}
    if found and all(folder in found for folder in folders):
        raise next(iter(found.values()))
    return found


def scores_of(run: RunRecord, folder: Path) -> RunScores:
    """Return a run's scores; its notes are appended to those of each cell."""
    settings = run.settings
    own = run.engine if run.engine in MODEL_FREE else settings.model_label
    name = settings.name or own
    return RunScores(
        name=f"{name}, run {settings.iteration + 1}" if settings.iteration else name,
        path=str(folder),
        model=settings.model,
        seed=settings.seed,
        engine=run.engine,
        date=run.date[:10],
        cells={
            task: replace(cell, notes=(*cell.notes, *run.notes))
            for task, cell in run.scores.items()
        },
        revision=settings.revision,
        step=run.step,
    )


def failed_scores(settings: RunSettings, error: MistralEvalError) -> RunScores:
    """Return the row of a run that failed: without scores, and with the reason."""
    return RunScores(
        name=settings.name or settings.model_label,
        path=settings.model,
        model=settings.model,
        seed=settings.seed,
        engine=settings.engine,
        date="",
        cells={},
        revision=settings.revision,
        error=str(error),
    )


def run_labels(runs: Sequence[RunScores]) -> tuple[str, ...]:
    """Return one label per run: its name, and where names repeat what tells the runs apart.

    That is their revisions on the hub, seeds or folders, or else a number.
    """
    labels = [one_line(run.name) for run in runs]
    labels = _told_apart(labels, [one_line(run.revision or "main") for run in runs])
    labels = _told_apart(labels, [f"seed {run.seed}" for run in runs])
    labels = _told_apart(labels, _tails([run.path for run in runs]))
    earlier = [labels[:place].count(label) for place, label in enumerate(labels)]
    return tuple(
        f"{label} ({before + 1})" if before else label
        for label, before in zip(labels, earlier, strict=True)
    )


def _told_apart(labels: Sequence[str], marks: Sequence[str]) -> list[str]:
    """Append its mark to each repeated label, unless all runs of that label have the same mark."""
    found: dict[str, set[str]] = {}
    for label, mark in zip(labels, marks, strict=True):
        found.setdefault(label, set()).add(mark)
    return [
        f"{label}, {mark}" if len(found[label]) > 1 else label
        for label, mark in zip(labels, marks, strict=True)
    ]


def _tails(paths: Sequence[str]) -> list[str]:
    """Return the shortest endings of paths, in whole parts, that distinguish different paths."""
    parts = [[part for part in path.split("/") if part] for path in paths]
    for many in range(1, max(map(len, parts), default=1)):
        tails = ["/".join(part[-many:]) for part in parts]
        if len(set(tails)) == len(set(paths)):
            return tails
    return list(paths)


def one_line(name: str) -> str:
    """Return a name with line breaks and control characters replaced, to stay in its cell."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in name)
