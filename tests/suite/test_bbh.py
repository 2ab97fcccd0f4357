"""BIG-Bench Hard's prompts are its authors', and lm-eval's where lm-eval's are the authors'."""

import json
import re
from pathlib import Path

import lm_eval
import pytest
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from mistral_eval.data import Rows
from mistral_eval.suite.registry import BY_ID, SUITES

STOCK = Path(lm_eval.__file__).parent / "tasks" / "bbh"
STEP = "A: Let's think step by step."
REASONING = re.compile(
    r" Let's think step by step\.(?:(?!\n\nQ: ).)*?So the answer is (.*)\.$", re.DOTALL
)


@pytest.fixture
def published(shared) -> dict[str, str]:
    """The authors' chain-of-thought prompt of each task, without the canary line above it."""
    file = shared / "data" / "bbh" / "cot_prompts.json"
    texts = json.loads(file.read_text(encoding="utf-8"))
    return {task: text.split("-----\n", 1)[1].rstrip("\n") for task, text in texts.items()}


def without_reasoning(prompt: str) -> str:
    """Leave only the answers of a published prompt's examples."""
    head, *examples = prompt.split("\n\nQ: ")
    return "\n\nQ: ".join([head, *(REASONING.sub(r" \1", example) for example in examples)])


def test_every_prompt_is_the_authors_without_the_reasoning(published, shared_task):
    task = shared_task("bbh")
    for doc in task.eval_docs:
        context = task.fewshot_context(doc, num_fewshot=3)
        shown = without_reasoning(published[doc["task"]])
        assert STEP not in shown
        assert context == f"{shown}\n\nQ: {doc['input']}\nA:"


def test_every_prompt_is_lm_eval_s(shared_task):
    """`bbh_fewshot` of lm-eval has the same texts; its rows are given to it here."""
    task = shared_task("bbh")
    stock = {}
    for doc in task.eval_docs:
        if doc["task"] not in stock:
            stock[doc["task"]] = stock_task("fewshot", doc["task"], doc)
        theirs = stock[doc["task"]].fewshot_context(doc, num_fewshot=3)
        assert task.fewshot_context(doc, num_fewshot=3) == theirs


def test_every_chain_of_thought_prompt_is_the_authors(published, shared_task):
    """To the byte, with the question after the examples; the model writes what follows the cue."""
    task = shared_task("bbh_cot")
    for doc in task.eval_docs:
        context = task.fewshot_context(doc, num_fewshot=3)
        assert context == f"{published[doc['task']]}\n\nQ: {doc['input']}\n{STEP}"


def test_lm_eval_s_chain_of_thought_prompts_differ_in_one_line_break(shared_task):
    """It puts one after the cue, in `sports_understanding` also where the authors do not."""
    task = shared_task("bbh_cot")
    for name in task.config.dataset_kwargs["configs"]:
        doc = next(doc for doc in task.eval_docs if doc["task"] == name)
        theirs = stock_task("cot_fewshot", name, doc).fewshot_context(doc, num_fewshot=3)
        ours = task.fewshot_context(doc, num_fewshot=3) + "\n"
        if name == "sports_understanding":
            ours = re.sub(r"step\. (?=\S)", "step.\n", ours)
        assert theirs == ours, name


def test_the_two_ways_of_answering_never_share_a_suite_or_a_bar():
    both = {"bbh", "bbh_cot"}
    assert not any(both <= set(members) for members in SUITES.values())
    assert (
        len({BY_ID[name].group for name in both}) == len({BY_ID[name].column for name in both}) == 2
    )


def stock_task(kind: str, name: str, doc: dict) -> ConfigurableTask:
    config = load_yaml(STOCK / kind / f"{name}.yaml", resolve_func=True)
    rows = Rows([doc], {"input": "text", "target": "text"})
    return ConfigurableTask(config={**config, "custom_dataset": lambda **_: {"test": rows}})
