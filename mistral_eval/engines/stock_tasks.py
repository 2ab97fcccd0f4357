"""Stock lm-eval tasks through our engines: lm-eval's own evaluation, our adapter as its model."""

from collections.abc import Mapping
from typing import Any

import requests
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import HfHubHTTPError
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from mistral_eval.engines.lm_eval_model import FEWSHOT_SEED, MistralLM
from mistral_eval.errors import DataError, SandboxError, UsageError, nearest
from mistral_eval.settings import STOCK_PREFIX, RunSettings


def load_stock(settings: RunSettings) -> Mapping[str, Any]:
    """Load stock tasks and their data, before any model is: what is wrong is known at once.

    Returns:
        What lm-eval's task manager loads: `tasks`, `groups` and what it keeps beside them.

    Raises:
        UsageError: a name lm-eval does not know, or one that a benchmark of this run has too.
        DataError: a task's data could not be loaded.
        SandboxError: a task runs generated code, and --unsafe-code was not given.
    """
    names = settings.stock_tasks
    manager = TaskManager()
    for name in names:
        if name not in manager.all_tasks:
            raise UsageError(f"lm-eval has no task {name!r}. {nearest(name, manager.all_tasks)}")
    try:
        loaded: dict[str, Any] = manager.load(list(names))
    except (OSError, DatasetsError, HfHubHTTPError, requests.RequestException) as error:
        raise DataError(
            f"The data of {', '.join(names)} could not be loaded ({error}). Stock tasks read "
            "the hub or its local cache, whatever --data says; check the network, or leave them "
            "out."
        ) from error
    for name, task in loaded["tasks"].items():
        if name in settings.own_tasks:
            raise UsageError(
                f"{name} and {STOCK_PREFIX}{name} have the same name in the results. Run them in "
                "two commands."
            )
        _prepare(name, task, settings)
    return loaded


def run_stock(loaded: Mapping[str, Any], lm: MistralLM, settings: RunSettings) -> dict[str, Any]:
    """Run stock tasks as `lm_eval` itself would.

    Returns:
        lm-eval's results, with `samples`.
    """
    results: dict[str, Any] = evaluate(
        lm=lm,
        task_dict=dict(loaded),
        limit=None if settings.limit is None else float(settings.limit),
        bootstrap_iters=0,
        confirm_run_unsafe_code=settings.unsafe_code,
    )
    return results


def stock_lines(results: Mapping[str, Any]) -> list[str]:
    """A line of scores for each stock task: the paper's table has no column for them."""
    lines = []
    for name, metrics in results.get("results", {}).items():
        scores = [
            f"{key} {value:.4g}"
            for key, value in metrics.items()
            if "," in key and isinstance(value, int | float)
        ]
        lines.append(f"{STOCK_PREFIX}{name}: {'; '.join(scores)}")
    return lines


def _prepare(name: str, task: Any, settings: RunSettings) -> None:
    """What `simple_evaluate` does to each task before it evaluates."""
    if getattr(task, "UNSAFE_CODE", False) and not settings.unsafe_code:
        raise SandboxError(
            f"The stock task {name} runs generated code without isolation. Use this suite's "
            "a benchmark of ours that runs them, or give --unsafe-code."
        )
    shots = task.get_config("num_fewshot")
    if shots is None or (shots != 0 and settings.num_fewshot is not None):  # 0 is the task's word
        task.set_config(key="num_fewshot", value=settings.num_fewshot or 0)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
