"""Where the benchmarks' YAML files lie: in the installed package, or beside it in a checkout."""

from pathlib import Path

from mistral_eval.errors import TaskError

PACKAGE = Path(__file__).resolve().parent


def tasks_folder() -> Path:
    """The folder of the benchmarks' YAML files.

    Raises:
        TaskError: neither the wheel's `_tasks` nor the checkout's `tasks` is there.
    """
    for folder in (PACKAGE / "_tasks", PACKAGE.parent / "tasks"):
        if folder.is_dir():
            return folder
    raise TaskError(
        f"The benchmarks' YAML files should lie in {PACKAGE / '_tasks'} or in "
        f"{PACKAGE.parent / 'tasks'}, but neither folder exists. Install mistral-eval again."
    )
