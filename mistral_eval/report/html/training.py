"""Scores over training steps: which runs make a curve, and the curves' numbers as a table."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from mistral_eval.record.run_record import RunRecord
from mistral_eval.report.html.charts import Training
from mistral_eval.report.html.svg import RUNS
from mistral_eval.report.table.view import Section, column_of, points
from mistral_eval.stats import Interval

LEAST: Final = 2  # points that make a curve


def curves(runs: Sequence[RunRecord]) -> dict[str, list[Training]]:
    """Return benchmark -> curves of the runs whose training step is known.

    A curve is of one training: of the checkpoints in one folder, or of one hub model's revisions. A
    run whose step the curve already has, e.g. with another seed, goes to a further curve.
    """
    trainings: dict[str, dict[int, RunRecord]] = {}
    for run in runs:
        if run.step is None:
            continue
        names = (_name(run, number) for number in itertools.count(1))
        steps = next(
            steps
            for name in names
            if run.step.number not in (steps := trainings.setdefault(name, {}))
        )
        steps[run.step.number] = run
    found: dict[str, list[Training]] = {}
    for task in dict.fromkeys(task for run in runs for task in run.scores):
        for (name, steps), color in zip(trainings.items(), itertools.cycle(RUNS), strict=False):
            cells = [(step, run.scores.get(task)) for step, run in sorted(steps.items())]
            drawn = [
                (step, Interval(cell.value, cell.low, cell.high))
                for step, cell in cells
                if cell and cell.n
            ]
            if len(drawn) >= LEAST:
                found.setdefault(task, []).append(Training(name, color, drawn))
    return found


def _name(run: RunRecord, number: int) -> str:
    place = Path(run.settings.adapter or run.settings.model)
    name = place.parent.name if place.is_absolute() else str(place)
    return name if number == 1 else f"{name} ({number})"


def table(curves: Mapping[str, Sequence[Training]]) -> Section:
    """Return the curves' numbers: a row for each training and step, a column for each benchmark."""
    cells: dict[tuple[str, int], dict[str, str]] = {}
    for task, lines in curves.items():
        for line in lines:
            for step, interval in line.points:
                text = f"{points(interval.value)} [{points(interval.low)}, {points(interval.high)}]"
                cells.setdefault((line.name, step), {})[task] = text
    rows = [
        (name, f"{step:,}", *(by_task.get(task, "") for task in curves))
        for (name, step), by_task in sorted(cells.items())
    ]
    header = ("Training", "Step", *map(column_of, curves))
    return Section("Scores by training step", header, tuple(rows))
