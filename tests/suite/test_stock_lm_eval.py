"""The folder works under stock lm-eval: its manager, its evaluator, its results."""

from pathlib import Path

import datasets
import golden_prompts
import lm_eval
import pytest
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from mistral_eval.data import dataset_from, make_source
from mistral_eval.data.task_file import read_task, tasks_folder
from mistral_eval.suite import lm_eval_hooks
from mistral_eval.suite.registry import BY_ID

# Ours -> lm-eval's own file of the same definition, and what its rows have otherwise.
SAME = {
    "siqa": ("siqa/siqa.yaml", lambda row: row),
    "openbookqa": ("openbookqa/openbookqa.yaml", lambda row: row),
    "commonsense_qa": ("commonsense_qa/default.yaml", lambda row: row),
    "boolq": ("super_glue/boolq/default.yaml", lambda row: {**row, "label": int(row["answer"])}),
}


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
    """Every metric of every file arrives, at its best for a model that knows the gold."""
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
        best = {
            f"{metric['metric']},{judged_by}": float(metric["higher_is_better"])
            for metric in task["metric_list"]
        }
        found = {key: results[benchmark].get(key) for key in best}
        if BY_ID[benchmark].is_graded:  # one of several references does not agree with all others
            assert all(0 < found[key] <= 1 for key in best), found
            assert 1.0 in found.values()
        else:
            assert found == best, benchmark


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


@pytest.mark.parametrize("benchmark", SAME)
def test_requests_and_plain_metrics_are_those_of_the_stock_task(benchmark, shared_task):
    """On every question of the test set: context, choices, gold, and both plain metrics.

    What ours asks besides is each choice after "Answer:", for a metric that lm-eval's lacks.
    """
    name, as_stock = SAME[benchmark]
    ours, known = shared_task(benchmark), BY_ID[benchmark]
    rows = datasets.Dataset.from_list([as_stock(dict(doc)) for doc in ours.eval_docs])
    config = load_yaml(Path(lm_eval.__file__).parent / "tasks" / name)
    for key in ("training_split", "dataset_name", "tag"):
        config.pop(key, None)
    splits = dict.fromkeys(("validation", "test"), rows)
    stock = ConfigurableTask(
        config={**config, "num_fewshot": 0, "custom_dataset": lambda **_: splits}
    )
    assert len(stock.eval_docs) == len(ours.eval_docs) == known.n
    for place, doc in enumerate(stock.eval_docs):
        mine = golden_prompts.requests_of(ours, place)
        asked, alone = known.halves(mine)
        theirs = golden_prompts.requests_of(stock, place)
        assert [one.args for one in asked] == [one.args for one in theirs]
        again = [(known.unconditional, one.args[1]) for one in asked if known.unconditional]
        assert [one.args for one in alone] == again
        scores = [(-((7 * place + 5 * n) % 11) - 0.5, False) for n in range(len(mine))]
        found = ours.process_results(ours.eval_docs[place], scores)
        expected = stock.process_results(doc, scores[: len(theirs)])
        assert {key: found[key] for key in expected} == expected
