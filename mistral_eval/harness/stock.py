"""Stock lm-eval tasks through our engines: lm-eval's own evaluation, our adapter as its model."""

from collections.abc import Sequence
from typing import Any

import requests
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import HfHubHTTPError
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from mistral_eval.adapter import MistralLM
from mistral_eval.errors import DataError, SandboxError, UsageError
from mistral_eval.settings import RunSettings, nearest

FEWSHOT_SEED = 1234  # lm-eval's default


def run_stock(names: Sequence[str], lm: MistralLM, settings: RunSettings) -> dict[str, Any]:
    """Run stock tasks as `lm_eval` itself would.

    Returns:
        lm-eval's results, with `samples`.

    Raises:
        UsageError: a name lm-eval does not know.
        DataError: a task's data could not be loaded.
        SandboxError: a task runs generated code, and --unsafe-code was not given.
    """
    manager = TaskManager()
    for name in names:
        if name not in manager.all_tasks:
            raise UsageError(f"lm-eval has no task {name!r}. {nearest(name, manager.all_tasks)}")
    try:
        loaded = manager.load(list(names))
    except (OSError, DatasetsError, HfHubHTTPError, requests.RequestException) as error:
        raise DataError(
            f"The data of {', '.join(names)} could not be loaded: {error} Stock tasks read the hub "
            "or its local cache, whatever --data says; check the network, or leave them out."
        ) from error
    for name, task in loaded["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False) and not settings.unsafe_code:
            raise SandboxError(
                f"The stock task {name} runs generated code without isolation. Use this suite's "
                "humaneval or mbpp, or give --unsafe-code."
            )
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=settings.num_fewshot or 0)
        elif settings.num_fewshot is not None:
            task.set_config(key="num_fewshot", value=settings.num_fewshot)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    results: dict[str, Any] = evaluate(
        lm=lm,
        task_dict=loaded,
        limit=None if settings.limit is None else float(settings.limit),
        bootstrap_iters=0,
        confirm_run_unsafe_code=settings.unsafe_code,
    )
    return results
