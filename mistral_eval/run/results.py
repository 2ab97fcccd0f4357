"""Write a finished run: samples, lm-eval's results file, the table, and finally run.json."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mistral_eval import __version__
from mistral_eval.console import counted
from mistral_eval.data.task_file import tasks_folder
from mistral_eval.engines.interface import EngineIdentity
from mistral_eval.engines.lm_eval_model import FEWSHOT_SEED
from mistral_eval.model.load.training_step import step_of
from mistral_eval.record.run_folder import (
    RUN_FILE,
    TABLE_FILE,
    sample_row,
    stock_row,
    task_hash,
    text_hash,
    write_json,
    write_lines,
    write_rows,
)
from mistral_eval.record.run_record import RUN_FORMAT, RunRecord, read_record
from mistral_eval.run.absent import lacking
from mistral_eval.run.answering import Answers
from mistral_eval.run.judging import Judged
from mistral_eval.settings import MODEL_FREE, RunSettings

PACKAGES = ("torch", "lm_eval", "transformers", "datasets", "sympy", "sentencepiece", "numpy")


@dataclass(frozen=True, slots=True)
class Finished:
    """The results of a run.

    `earlier` is the run.json that a rescoring replaces; `verified` is the result of `--verify`;
    `speed` is the engine's speed in this process.
    """

    settings: RunSettings
    answers: Answers
    judged: Sequence[Judged]
    stock: Mapping[str, Any] | None
    seconds: Mapping[str, float]
    earlier: Mapping[str, Any] | None = None
    verified: Mapping[str, Any] | None = None
    speed: Mapping[str, Any] | None = None


def write_run(folder: Path, finished: Finished) -> None:
    """Write all files of a run; run.json is written last, so it exists only if the others do.

    Raises:
        OutputError: a file could not be written; the replies remain in the replies log.
    """
    now = datetime.now(UTC)
    stamp = now.strftime("%Y-%m-%dT%H-%M-%S.%f")
    hashes = {}
    for judged in finished.judged:
        rows = [sample_row(question, judged.loaded.judged_by) for question in judged.questions]
        name = judged.loaded.benchmark.id
        hashes[name] = task_hash(rows)
        write_rows(folder / f"samples_{name}_{stamp}.jsonl", rows)
    stock = dict(finished.stock or {})
    for name, rows in stock.pop("samples", {}).items():
        write_rows(folder / f"samples_{name}_{stamp}.jsonl", map(stock_row, rows))
    results = _results(finished, stock, hashes, now)
    results_name = f"results_{stamp}.json"
    write_json(folder / results_name, results)
    run = _run(folder, finished, results_name, now)
    _write_record(folder, run)


def rename(folder: Path, name: str) -> None:
    """Give a finished run another name in tables.

    Raises:
        OutputError: a file could not be written.
    """
    run = read_record(folder)
    if run.settings.name != name:
        renamed = run.model_copy(
            update={"settings": run.settings.model_copy(update={"name": name})}
        )
        _write_record(folder, renamed)


def _write_record(folder: Path, run: RunRecord) -> None:
    """Write table.md and then run.json."""
    from mistral_eval.report.table import markdown_of

    write_lines(folder / TABLE_FILE, [markdown_of(run, folder).rstrip("\n")])
    write_json(folder / RUN_FILE, run.as_json())


def _run(folder: Path, finished: Finished, results_name: str, now: datetime) -> RunRecord:
    identity, counts = finished.answers.identity, finished.answers.counts()
    ratings = {j.loaded.benchmark.id: j.ratings for j in finished.judged if j.ratings}
    judges = {j.loaded.benchmark.id: j.refusal_judge for j in finished.judged if j.refusal_judge}
    run = {
        "format": RUN_FORMAT,
        "status": "finished",
        "id": folder.name,
        "date": now.isoformat(timespec="seconds"),
        "settings": finished.settings.as_json(),
        "engine": identity.engine,
        "identity": identity.as_json(),
        "model": {"fingerprint": identity.fingerprint, **identity.info},
        **_step(finished.settings),
        "notes": [
            *identity.notes,
            *_other_engine(identity),
            *_truncated(counts.get("truncated", 0)),
            *_remarks(finished),
            *map(lacking, finished.settings.left_out),
        ],
        "versions": _versions(),
        "machine": {
            "system": platform.platform(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
        },
        "data": {j.loaded.benchmark.id: _data(j, finished.settings) for j in finished.judged},
        "protocol": {
            j.loaded.benchmark.id: protocol_hash(j.loaded.benchmark.id) for j in finished.judged
        },
        "counts": counts,
        "seconds": dict(finished.seconds),
        "seconds_by_task": {
            name: round(seconds, 3) for name, seconds in finished.answers.seconds.items()
        },
        "speed": finished.speed,
        "verify": finished.verified or (finished.earlier or {}).get("verify"),
        "scores": {j.loaded.benchmark.id: asdict(j.cell) for j in finished.judged},
        "strata": {j.loaded.benchmark.id: dict(j.strata) for j in finished.judged if j.strata},
        **({"ratings": ratings} if ratings else {}),
        **({"refusal_judges": judges} if judges else {}),
        "stock": {
            name: dict(metrics)
            for name, metrics in (finished.stock or {}).get("results", {}).items()
        },
        "results_file": results_name,
    }
    if finished.earlier:  # rescoring computes no replies: keep date, machine and speed
        kept = ("date", "machine", "counts", "seconds", "seconds_by_task", "notes")
        run |= {key: finished.earlier[key] for key in kept} | {"rescored": run["date"]}
        run["speed"] = finished.earlier.get("speed")
    return RunRecord.model_validate(run)


def _step(settings: RunSettings) -> dict[str, Any]:
    """Return the training step of the run's model, or adapter, if it has one."""
    if settings.engine in MODEL_FREE:
        return {}
    found = step_of(settings.adapter or settings.model, settings.revision)
    return {} if found is None else {"step": asdict(found)}


def protocol_hash(benchmark: str) -> str:
    """Return the hash of a benchmark's YAML file."""
    return text_hash((tasks_folder() / f"{benchmark}.yaml").read_text(encoding="utf-8"))


def _data(judged: Judged, settings: RunSettings) -> dict[str, Any]:
    """Return the rows' fingerprint, with the hub's revision if they are from the hub."""
    kwargs = judged.loaded.task.config.dataset_kwargs
    revision = kwargs["revision"] if settings.data == "hub" else None
    return {**asdict(judged.loaded.fingerprint), "revision": revision}


def _other_engine(identity: EngineIdentity) -> list[str]:
    """Return a note for the table if a model was run by another engine than ours."""
    if identity.engine == "native" or identity.engine in MODEL_FREE:
        return []
    name = f"{identity.engine} {identity.version}".strip()
    note = (
        f"answered by the engine {name}, not by native: log-likelihoods may differ by rounding, "
        "and samples are other draws"
    )
    return [note]


def _truncated(count: int) -> list[str]:
    """Return a note for the table if requests were truncated to the model's context."""
    if not count:
        return []
    return [f"{counted(count, 'request')} longer than the model's context, cut on the left"]


def _remarks(finished: Finished) -> list[str]:
    """Return the engine's remarks about benchmarks, each once, after the benchmarks' names."""
    columns = {j.loaded.benchmark.id: j.loaded.benchmark.column for j in finished.judged}
    return [
        f"{', '.join(columns.get(name, name) for name in names)}: {remark}"
        for remark, names in finished.answers.remarks.items()
    ]


def _results(
    finished: Finished, stock: Mapping[str, Any], hashes: Mapping[str, str], now: datetime
) -> dict[str, Any]:
    """Return the results in lm-eval's schema; stock tasks keep what lm-eval returned."""
    settings = finished.settings
    parts = {j.loaded.benchmark.id: j for j in finished.judged}
    tasks = {name: judged.loaded.task for name, judged in parts.items()}
    total = sum(finished.seconds.values())
    started = now.timestamp() - total
    name = (
        settings.model_label if finished.answers.identity.info else finished.answers.identity.engine
    )
    ours: dict[str, dict[str, Any]] = {
        "results": {key: _task_results(judged) for key, judged in parts.items()},
        "group_subtasks": {key: [] for key in parts},
        "configs": {key: _config(task.dump_config()) for key, task in tasks.items()},
        "versions": {key: task.VERSION for key, task in tasks.items()},
        "n-shot": {key: task.config.num_fewshot or 0 for key, task in tasks.items()},
        "higher_is_better": {key: task.higher_is_better() for key, task in tasks.items()},
        "n-samples": {
            key: {"original": judged.loaded.total, "effective": len(judged.questions)}
            for key, judged in parts.items()
        },
    }
    merged = {key: {**stock.get(key, {}), **value} for key, value in ours.items()}
    return {
        **stock,
        **merged,
        "config": {
            "model": finished.answers.identity.engine,
            "model_args": dict(settings.model_args),
            **finished.answers.identity.info,
            "batch_size": None,
            "batch_sizes": [],
            "device": settings.device,
            "use_cache": None,
            "limit": None if settings.limit is None else float(settings.limit),
            "bootstrap_iters": 0,
            "gen_kwargs": None,
            "random_seed": settings.seed,
            "numpy_seed": settings.seed,
            "torch_seed": settings.seed,
            "fewshot_seed": FEWSHOT_SEED,
        },
        "git_hash": None,
        "date": started,
        "pretty_env_info": platform.platform(),
        "transformers_version": _version("transformers"),
        "lm_eval_version": _version("lm_eval"),
        "upper_git_hash": None,
        "max_length": finished.answers.identity.info.get("max_length"),
        "task_hashes": dict(hashes),
        "model_source": "mistral",
        "model_name": name,
        "model_name_sanitized": settings.model_folder,
        "system_instruction": settings.system_instruction,
        "system_instruction_sha": (
            text_hash(settings.system_instruction) if settings.system_instruction else None
        ),
        "fewshot_as_multiturn": (
            settings.apply_chat_template and settings.fewshot_as_multiturn is not False
        ),
        "chat_template": None,
        "chat_template_sha": None,
        "start_time": started,
        "end_time": now.timestamp(),
        "total_evaluation_time_seconds": str(total),
        "mistral_eval": {"version": __version__},
    }


def _task_results(judged: Judged) -> dict[str, Any]:
    benchmark = judged.loaded.benchmark
    return {
        "name": benchmark.id,
        "alias": benchmark.column,
        "sample_len": len(judged.questions),
        **judged.metrics,
    }


def _config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task's configuration without the loader and the paths of this machine."""
    plain = {key: value for key, value in config.items() if key != "custom_dataset"}
    metadata = dict(plain.get("metadata") or {})
    metadata.pop("config_source", None)
    return {**plain, "metadata": metadata}


def _versions() -> dict[str, str | None]:
    found = {name: _version(name) for name in PACKAGES}
    return {"mistral_eval": __version__, "python": platform.python_version(), **found}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
