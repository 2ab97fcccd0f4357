"""A finished run's scores: each benchmark's number with its evidence, read from run.json."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mistral_eval.errors import OutputError
from mistral_eval.record.run_folder import RUN_FILE, read_run
from mistral_eval.settings import MODEL_FREE
from mistral_eval.stats import wilson


@dataclass(frozen=True, slots=True)
class Cell:
    """One measured score with its evidence.

    Attributes:
        value: The score in percent.
        low: Lower end of the Wilson 95 % interval, in percent.
        high: Upper end, in percent.
        n: Questions asked.
        n_total: Questions in the full test set.
        correct: Questions answered correctly; a vote is one question.
        no_answer: Questions in whose reply no answer was found.
        timeout: Questions whose checker timed out.
        data_fingerprint: Name of the test set's fingerprint, e.g. "hub" or "sample".
        secondary: Other metrics in percent, e.g. {"maj@1": 11.9} or {"acc_macro": 61.2}.
        limited: Whether fewer questions were asked than the test set has.
        notes: Further sentences for the table's notes.
    """

    value: float
    low: float
    high: float
    n: int
    n_total: int
    correct: int
    no_answer: int = 0
    timeout: int = 0
    data_fingerprint: str = ""
    secondary: Mapping[str, float] = field(default_factory=dict)
    limited: bool = False
    notes: tuple[str, ...] = ()

    @classmethod
    def counted(cls, correct: int, n: int, n_total: int, **fields: Any) -> "Cell":
        """Make a cell from counts: compute the score, its Wilson interval and `limited`.

        Other fields are given by name.
        """
        share = wilson(correct, n)
        limited = n < n_total
        interval = (share.value, share.low, share.high)
        return cls(*interval, n, n_total, correct, limited=limited, **fields)


@dataclass(frozen=True, slots=True)
class RunScores:
    """One run's scores: a row of the table.

    Attributes:
        name: The row's label.
        path: The run's folder.
        model: The checkpoint's name.
        seed: The run's seed.
        engine: The engine's name; "oracle" and "random" are marked as not a model.
        date: Day of the run, ISO 8601.
        cells: Benchmark id -> score.
    """

    name: str
    path: str
    model: str
    seed: int
    engine: str
    date: str
    cells: Mapping[str, Cell]

    @property
    def is_model(self) -> bool:
        """Whether a model answered, not the oracle or the random engine."""
        return self.engine not in MODEL_FREE


def load_scores(folder: Path) -> RunScores:
    """Read the scores of a finished run.

    Raises:
        OutputError: The folder holds no run, an unfinished one, or one of another version.
    """
    return scores_of(read_finished(folder), folder)


def read_finished(folder: Path) -> dict[str, Any]:
    """Read the run.json of a finished run.

    Raises:
        OutputError: The folder holds no run, an unfinished one, or one of another version.
    """
    run = read_run(folder)
    if run.get("status") != "finished":
        raise OutputError(
            f"The run in {folder} has not finished. Run its command again to resume it."
        )
    return run


def scores_of(run: Mapping[str, Any], folder: Path) -> RunScores:
    """Return the scores in the content of a run.json.

    Raises:
        OutputError: A field is missing.
    """
    try:
        settings, engine, notes = run["settings"], run["engine"], run.get("notes", ())
        model = settings["model"]
        name = engine if engine in MODEL_FREE else str(model)
        return RunScores(
            name=Path(name).name if Path(name).exists() else name,
            path=str(folder),
            model=model,
            seed=settings["seed"],
            engine=engine,
            date=run["date"][:10],
            cells={
                task: Cell(**{**cell, "notes": (*cell["notes"], *notes)})
                for task, cell in run["scores"].items()
            },
        )
    except (KeyError, TypeError) as error:
        raise OutputError(
            f"{folder / RUN_FILE} lacks a field that the table needs ({error}). "
            "Run the command again."
        ) from error


def run_labels(runs: Sequence[RunScores]) -> tuple[str, ...]:
    """Return one label per run: its name, and where names repeat its seed, folder or number."""
    labels = [one_line(run.name) for run in runs]
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
