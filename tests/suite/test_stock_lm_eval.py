"""The folder works under stock lm-eval: its manager, its evaluator, its results."""

import pytest
from lm_eval.api.model import LM
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from mistral_eval.data import dataset_from, make_source
from mistral_eval.data.task_file import read_task, tasks_folder
from mistral_eval.suite import lm_eval_hooks
from mistral_eval.suite.registry import BY_ID


class Gold(LM):
    """A model that knows the gold of every question."""

    def loglikelihood(self, requests):
        golds = [BY_ID[request.task_name].oracle(request.doc, True) for request in requests]
        return [
            (0.0 if r.idx == gold else -1e6, True) for r, gold in zip(requests, golds, strict=True)
        ]

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError

    def generate_until(self, requests):
        return [BY_ID[request.task_name].oracle(request.doc, True) for request in requests]


@pytest.mark.slow
@pytest.mark.sandbox
def test_stock_lm_eval_runs_every_benchmark_and_reports_our_metrics(monkeypatch):
    """Every metric of every file arrives, and is 1.0 for a model that knows the gold."""
    monkeypatch.setattr(lm_eval_hooks, "from_hub", dataset_from(make_source("sample")))
    results = simple_evaluate(
        model=Gold(),
        tasks=list(BY_ID),
        task_manager=TaskManager(include_path=str(tasks_folder()), include_defaults=False),
        limit=2,
        bootstrap_iters=0,
        confirm_run_unsafe_code=True,
    )["results"]
    for benchmark in BY_ID:
        task = read_task(benchmark)
        (judged_by,) = [listed["name"] for listed in task["filter_list"]]
        expected = {f"{metric['metric']},{judged_by}": 1.0 for metric in task["metric_list"]}
        assert {key: results[benchmark].get(key) for key in expected} == expected, benchmark


def test_the_folder_alone_is_tasks_and_no_group():
    manager = TaskManager(include_path=str(tasks_folder()), include_defaults=False)
    assert sorted(manager.all_tasks) == sorted(BY_ID)
    assert manager.all_groups == []


@pytest.mark.slow
def test_a_benchmark_of_ours_replaces_the_stock_one(monkeypatch):
    """Also MMLU, which lm-eval knows as a group of 57 tasks."""
    monkeypatch.setattr(lm_eval_hooks, "from_hub", dataset_from(make_source("sample")))
    manager = TaskManager(include_path=str(tasks_folder()))
    loaded = manager.load(["mmlu", "piqa"])
    assert list(loaded["tasks"]) == ["mmlu", "piqa"]
    assert [len(task.eval_docs) for task in loaded["tasks"].values()] == [16, 16]
