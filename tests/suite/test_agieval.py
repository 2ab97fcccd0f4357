"""AGIEval's prompts are its authors'; its rows and their weights are Llama 2's."""

import ast
import csv
from collections import Counter
from statistics import fmean

import pytest

from mistral_eval.data import load_benchmark_data, make_source
from mistral_eval.data.task_file import data_spec
from mistral_eval.errors import HubError
from mistral_eval.suite.registry import BY_ID

TASKS = (
    "aqua-rat", "logiqa-en", "lsat-ar", "lsat-lr", "lsat-rc", "sat-en", "sat-en-without-passage",
    "sat-math",
)  # fmt: skip
# Llama 2 (arXiv 2307.09288v2), table 24: the average, then the tasks in the order above
TABLE_24 = {
    "MPT 7B": (23.5, 27.6, 23.0, 18.7, 21.2, 20.8, 25.2, 32.5, 23.6),
    "MPT 30B": (33.8, 28.0, 28.7, 23.9, 35.1, 37.9, 63.1, 36.9, 27.7),
    "Falcon 7B": (21.2, 21.7, 22.3, 16.1, 17.3, 20.4, 26.2, 23.8, 26.4),
    "LLaMA 1 7B": (23.9, 18.9, 24.6, 26.1, 19.2, 21.9, 33.0, 32.5, 22.3),
    "LLaMA 1 13B": (33.9, 20.1, 34.9, 22.2, 31.6, 39.8, 52.9, 45.1, 29.5),
    "LLaMA 1 33B": (41.7, 18.9, 37.3, 18.7, 48.0, 59.5, 74.8, 44.7, 35.0),
    "LLaMA 1 65B": (47.6, 23.6, 42.1, 23.9, 56.7, 63.6, 83.0, 48.1, 41.8),
    "Llama 2 7B": (29.3, 23.2, 31.0, 23.9, 22.4, 32.7, 43.2, 37.4, 28.2),
    "Llama 2 13B": (39.1, 21.7, 38.1, 23.0, 41.0, 54.6, 62.1, 46.1, 27.3),
}


@pytest.fixture
def counts(shared) -> Counter:
    """The number of questions of each task."""
    rows = load_benchmark_data(data_spec("agieval"), make_source(str(shared / "data")))["test"]
    return Counter(row["task"] for row in rows)


@pytest.mark.parametrize("model", TABLE_24)
def test_llama_2_s_averages_are_means_over_these_questions(counts, model):
    """Not of the tasks, and with the SAT questions without their passages."""
    average, *tasks = TABLE_24[model]
    weights = [counts[task] for task in TASKS]
    assert fmean(tasks, weights) == pytest.approx(average, abs=0.1)


def test_no_other_reading_gives_llama_2_s_averages(counts):
    """The mean of the tasks, or leaving out the 206 questions without passages, is 0.5 off."""
    without = dict(zip(TASKS, [counts[task] for task in TASKS], strict=True))
    without["sat-en-without-passage"] = 0
    for weights in (dict.fromkeys(TASKS, 1), without):
        apart = [
            abs(fmean(tasks, list(weights.values())) - average)
            for average, *tasks in TABLE_24.values()
        ]
        assert max(apart) > 0.5


def test_every_prompt_is_the_authors(shared, shared_task):
    """Their `few-shot` setting without explanations, to the byte, then the question and its cue."""
    with (shared / "data/agieval/few_shot_prompts.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.reader(file))
    task = shared_task("agieval")
    for doc in task.eval_docs:
        column = table[0].index(doc["task"].removesuffix("-without-passage"))
        examples = [ast.literal_eval(row[column]) for row in table[1::2] if row[column]]
        assert 3 <= len(examples) <= 5
        hidden = doc["task"].endswith("-without-passage")
        text = "Here are the answers for the problems in the exam.\n"
        for number, shown in enumerate([*examples, doc], 1):
            passage = "" if hidden or shown["passage"] is None else shown["passage"]
            text += f"Problem {number}.   {passage} {shown['question']}\n"
            text += f"Choose from the following options:    {' '.join(shown['options'])}\n"
            text += "The answer is therefore"
            text += "" if shown is doc else f" {shown['label']}\n\n"
        assert task.fewshot_context(doc, num_fewshot=5) == text


def test_the_questions_without_passages_are_those_with_them(shared):
    """One set of 206 questions counts twice, once as a test of what can be guessed."""
    rows = load_benchmark_data(data_spec("agieval"), make_source(str(shared / "data")))["test"]

    def asked(task: str) -> list:
        return [(r["question"], r["options"], r["label"]) for r in rows if r["task"] == task]

    assert asked("sat-en") == asked("sat-en-without-passage")
    assert len(asked("sat-en")) == 206


@pytest.mark.parametrize("label", [[], ["A", "B"], ["E"], ["a"]])
def test_a_row_without_exactly_one_right_option_has_no_gold(label):
    row = {"options": list("wxyz"), "label": label}
    assert BY_ID["agieval"].gold(row).index == -1


def test_the_hub_lacks_it_and_the_error_says_where_it_is():
    with pytest.raises(HubError, match=r"lacks them .*github.com/ruixiangcui/AGIEval.*out of --ta"):
        load_benchmark_data(data_spec("agieval"), make_source("hub"))


def test_no_question_of_logiqa_ships():
    """Its licence forbids commercial use; the sample has questions of the other seven tasks."""
    rows = load_benchmark_data(data_spec("agieval"), make_source("sample"))["test"]
    assert len(rows) == 16
    assert {row["task"] for row in rows} == set(TASKS) - {"logiqa-en"}
