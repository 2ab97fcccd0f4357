"""Run stock lm-eval tasks with lm-eval's evaluator and our engines."""

from collections.abc import Iterator, Mapping
from typing import Any

import requests
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import HfHubHTTPError
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from mistral_eval.engines.interface import Request
from mistral_eval.engines.lm_eval_model import FEWSHOT_SEED, MistralLM, settings_of
from mistral_eval.errors import DataError, SandboxError, UsageError, nearest
from mistral_eval.settings import STOCK_PREFIX, RunSettings


def load_stock(settings: RunSettings) -> Mapping[str, Any]:
    """Load stock tasks and their data, before the model, so that errors appear early.

    Returns:
        The result of lm-eval's task manager: `tasks`, `groups` and its other fields.

    Raises:
        UsageError: lm-eval has no such task, or a benchmark of this run has the same name.
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


def empty_prompts(loaded: Mapping[str, Any]) -> Iterator[Request]:
    """Yield a request of each task that generates, with an empty prompt.

    An engine that cannot encode it has no room for the task's new tokens. lm-eval makes the real
    requests later, when other benchmarks have been answered.
    """
    for name, task in loaded.get("tasks", {}).items():
        if task.OUTPUT_TYPE == "generate_until":
            settings = settings_of(task.get_config("generation_kwargs") or {})
            yield Request(f"{STOCK_PREFIX}{name}", 0, 0, 0, "generate", "", "", settings)


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
    """Return a line of scores for each stock task, since the table has no column for them."""
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
    """Prepare a task as lm-eval's `simple_evaluate` does before evaluation."""
    if getattr(task, "UNSAFE_CODE", False) and not settings.unsafe_code:
        raise SandboxError(
            f"The stock task {name} runs generated code without isolation. Use one "
            "of our own code benchmarks, or give --unsafe-code."
        )
    shots = task.get_config("num_fewshot")
    if shots is None or (shots != 0 and settings.num_fewshot is not None):  # lm-eval keeps a 0
        task.set_config(key="num_fewshot", value=settings.num_fewshot or 0)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
