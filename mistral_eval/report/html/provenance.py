"""Where the numbers come from: each run's time, counts, settings, versions, protocols, data."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from mistral_eval.record.run_record import RunRecord
from mistral_eval.record.run_scores import one_line
from mistral_eval.report.table.view import MISSING, Section, column_of
from mistral_eval.suite.registry import BY_ID

PHASES: Final = {
    "build": "building the prompts",
    "load": "loading the model",
    "answer": "answering",
    "judge": "judging",
    "stock": "stock lm-eval tasks",
}
COUNTS: Final = {
    "computed": "replies computed",
    "from_log": "replies from the log",
    "truncated": "prompts cut to the model's length",
    "generated_tokens": "tokens generated",
    "engine.score_naive": "tokens of scored prompts, without sharing",
    "engine.score_unique": "tokens of scored prompts, each prefix once",
    "engine.score_computed": "tokens of scored prompts, computed",
    "engine.prompt_naive": "tokens of prompts to continue, without sharing",
    "engine.prompt_unique": "tokens of prompts to continue, each prefix once",
    "engine.prompt_computed": "tokens of prompts to continue, computed",
    "engine.generated": "tokens drawn",
    "engine.score_flop": "useful FLOP scoring",
    "engine.generate_flop": "useful FLOP generating",
    "engine.score_seconds": "seconds scoring",
    "engine.generate_seconds": "seconds generating",
}


def _saved(counts: Mapping[str, Any]) -> float | None:
    """Return the share of prompt tokens that sharing prefixes saved, in percent."""
    naive = sum(counts.get(f"engine.{kind}_naive", 0) for kind in ("score", "prompt"))
    computed = sum(counts.get(f"engine.{kind}_computed", 0) for kind in ("score", "prompt"))
    return 100.0 * (1 - computed / naive) if naive else None


def _drawn(counts: Mapping[str, Any]) -> float | None:
    """Return tokens generated per second."""
    seconds = counts.get("engine.generate_seconds", 0)
    return counts.get("engine.generated", 0) / seconds if seconds else None


RATIOS: Final[Mapping[str, Callable[[Mapping[str, Any]], float | None]]] = {
    "prompt tokens saved by sharing, %": _saved,
    "tokens drawn a second": _drawn,
}
SHARES: Final = {"score": "scoring", "generate": "generating"}


def _share(run: RunRecord, kind: str) -> float | None:
    """Return the useful FLOP rate of scoring or generating, in percent of the matrix rate."""
    share = getattr(run.speed, kind).get("share") if run.speed else None
    return None if share is None else 100.0 * share


def speed(runs: Sequence[RunRecord], names: Sequence[str]) -> Section:
    """Return the seconds of each phase and the counters, one column per run.

    A resumed run answered part of its questions earlier: those count as kept replies, and their
    time is not included.
    """
    counts = [_flat(run.counts.model_dump(exclude_unset=True)) for run in runs]
    rows = [
        (f"seconds {words}", *(_number(run.seconds.get(key)) for run in runs))
        for key, words in PHASES.items()
    ]
    rows += [
        (
            f"seconds answering {column_of(task)}",
            *(_number(run.seconds_by_task.get(task)) for run in runs),
        )
        for task in dict.fromkeys(task for run in runs for task in run.seconds_by_task)
    ]
    keys = dict.fromkeys(key for mine in counts for key in mine)
    rows += [(COUNTS.get(key, key), *(_number(mine.get(key)) for mine in counts)) for key in keys]
    rows += [
        (words, *(_number(ratio(mine)) for mine in counts))
        for words, ratio in RATIOS.items()
        if any(ratio(mine) is not None for mine in counts)
    ]
    rows += [
        (f"share of the matrix rate {words}, %", *(_number(_share(run, kind)) for run in runs))
        for kind, words in SHARES.items()
        if any(_share(run, kind) is not None for run in runs)
    ]
    note = (
        "For a resumed run, the seconds are those of its last session. Benchmarks are answered "
        "together: a reply is charged the seconds since the previous reply."
    )
    return Section("Time and counts", ("", *names), tuple(rows), (note,))


def settings(runs: Sequence[RunRecord], names: Sequence[str]) -> Section:
    """Return the settings of the runs, and their versions and machines, one column per run."""
    columns = [
        {"date": run.date}
        | ({"rescored": run.rescored} if run.rescored else {})
        | _flat(run.settings.as_json())
        | {"engine": f"{run.settings.engine}: {run.engine}"}
        | {f"model: {key}": value for key, value in _flat(run.model.model_dump()).items()}
        | {f"version: {key}": value for key, value in run.versions.items()}
        | {f"machine: {key}": value for key, value in run.machine.model_dump().items()}
        | {"notes": "; ".join(run.notes)}
        for run in runs
    ]
    keys = list(dict.fromkeys(key for column in columns for key in column))
    rows = tuple((key, *(_text(column.get(key)) for column in columns)) for key in keys)
    every = tuple(range(len(names) + 1))
    return Section("Settings, versions, machine", ("", *names), rows, words=every)


def protocols(run: RunRecord, name: str) -> Section:
    """Return each benchmark's metric, shots, hash of the task file, and fingerprint of the rows."""
    rows, notes = [], []
    override = run.settings.num_fewshot
    for task in run.scores:
        known, data = BY_ID.get(task), run.data[task]
        shots = override if override is not None else (known.shots if known else None)
        rows.append(
            (
                column_of(task),
                known.cell if known else MISSING,
                _text(shots),
                run.protocol[task][:16],
                f"{_text(data.name)} {(data.commit or '')[:12]}".strip(),
                data.sha256[:16],
            )
        )
        notes += [one_line(data.footnote)] if data.footnote else []
    header = ("Benchmark", "Metric", "Shots", "Task file, sha256", "Data", "Rows, sha256")
    return Section(
        f"Protocol and data of {name}", header, tuple(rows), tuple(notes), (0, 1, 3, 4, 5)
    )


def _flat(value: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{before}{key}"
        if isinstance(item, Mapping):
            flat |= _flat(item, f"{name}.")
        else:
            flat[name] = item
    return flat


def _number(value: Any) -> str:
    if value is None:
        return MISSING
    if isinstance(value, float) and not value.is_integer():
        return f"{value:,.1f}"
    return f"{value:,.0f}" if isinstance(value, int | float) else one_line(str(value))


def _text(value: Any) -> str:
    if value is None or value == "":
        return MISSING
    if isinstance(value, list | tuple):
        return one_line(", ".join(map(str, value)))
    return one_line(str(value))
