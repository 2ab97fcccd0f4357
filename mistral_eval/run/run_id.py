"""Which folder a run lives in: the same command on the same files finds its own again."""

import re
from collections.abc import Iterable
from pathlib import Path

from mistral_eval import __version__
from mistral_eval.data import Source
from mistral_eval.data.sources import SUFFIXES
from mistral_eval.data.task_file import data_spec, tasks_folder
from mistral_eval.record.run_folder import RUN_FILE, read_run, text_hash
from mistral_eval.settings import RunSettings
from mistral_eval.suite.task_names import suite_of


def run_folder(settings: RunSettings, source: Source) -> Path:
    """The run's folder: the latest attempt, or with --fresh the next one."""
    name = settings.run_id(_stamps(settings, source), suite_of(settings.tasks))
    parent = settings.output_path.expanduser() / settings.model_folder
    attempt = 1
    while _attempt(parent, name, attempt + 1).exists():
        attempt += 1
    if settings.fresh and _attempt(parent, name, attempt).exists():
        attempt += 1
    return _attempt(parent, name, attempt)


def is_finished(folder: Path) -> bool:
    """Whether the folder holds a run with all its scores."""
    return (folder / RUN_FILE).is_file() and read_run(folder).get("status") == "finished"


def is_another_attempt(folder: Path) -> bool:
    """Whether the run was started again with --fresh: then every reply is to be its own."""
    return re.search(r"-attempt\d+$", folder.name) is not None


def _attempt(parent: Path, name: str, attempt: int) -> Path:
    return parent / (name if attempt == 1 else f"{name}-attempt{attempt}")


def _stamps(settings: RunSettings, source: Source) -> dict[str, object]:
    """What the settings point to: a changed file, protocol or version is another run."""
    stamps: dict[str, object] = {
        "version": __version__,
        "protocol": {
            name: text_hash((tasks_folder() / f"{name}.yaml").read_text(encoding="utf-8"))
            for name in settings.own_tasks
        },
    }
    for name, value in (("model", settings.model), *sorted(settings.model_args.items())):
        path = Path(value).expanduser()
        if path.exists():
            stamps[name] = _stamp(path.glob("*") if path.is_dir() else [path])
    if source.kind == "folder" and source.folder is not None:
        specs = [data_spec(name) for name in settings.own_tasks]
        stamps["data"] = _stamp(
            source.folder / pattern.format(config=config) / f"{split}{suffix}"
            for spec in specs
            for pattern in spec.folders
            for config in spec.configs
            for split in spec.splits
            for suffix in SUFFIXES
        )
    return stamps


def _stamp(files: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Names, sizes and times of those that are files: what a run reads, not what lies beside it."""
    found = []
    for file in sorted(files):
        if file.is_file():
            status = file.stat()
            found.append((str(file), status.st_size, status.st_mtime_ns))
    return found
