"""QuAC on rows in the hub's columns: QuAC's own could not be had."""

import json
from statistics import fmean

import pytest

from mistral_eval.answers.verdict import Outcome
from mistral_eval.console import Talk
from mistral_eval.data import load_benchmark_data, make_source
from mistral_eval.data.task_file import data_spec
from mistral_eval.errors import DataError
from mistral_eval.run.run import run_suite
from mistral_eval.settings import RunSettings
from mistral_eval.suite.lm_eval_hooks import mean_of_kept
from mistral_eval.suite.registry import BY_ID

QUAC = BY_ID["quac"]
ROWS = load_benchmark_data(data_spec("quac"), make_source("sample"))["validation"]


def test_the_dialogue_so_far_is_in_the_prompt(sample_task):
    task = sample_task("quac")
    for doc in task.eval_docs:
        context = task.fewshot_context(doc, num_fewshot=0)
        assert context == doc["prompt"] + "\nAnswer:"
        assert context.startswith("Title: ")
        assert 3 <= context.count("\nAnswer:") <= 4


def test_a_question_s_title_is_its_question():
    assert QUAC.title(ROWS[0]) == "What was her first success?"


def test_metrics_of_one_question():
    """Two references: the reply equals the first, which shares five of its words with the other."""
    row = {"prompt": "Question: q", "references": ["one two three four five", "one two three"]}
    (verdict,) = QUAC.judge([row], [[" one two three four five\nQuestion:"]])
    other = 2 * 3 / (5 + 3)
    assert verdict.metrics == {
        "f1": pytest.approx((1 + other) / 2),
        "heq_q": 1.0,
        "human_f1": pytest.approx(other),
        "f1_unfiltered": pytest.approx((1 + other) / 2),
        "f1_max": 1.0,
    }


def test_a_question_on_which_people_disagree_counts_only_in_the_unfiltered_f1():
    row = {"prompt": "Question: q", "references": ["red fox", "grey owl"]}
    (verdict,) = QUAC.judge([row], [["red fox"]])
    assert [verdict.metrics[name] for name in ("f1", "heq_q", "human_f1")] == [None] * 3
    assert verdict.metrics["f1_unfiltered"] == 0.5
    assert "too little for it to count" in verdict.verdict.reason


@pytest.mark.parametrize(
    "references",
    [["CANNOTANSWER"], ["CANNOTANSWER", "a red fox"], ["a red fox", "the red fox"], ["the", "a"]],
)
@pytest.mark.parametrize("reply", ["", " ", "\nQuestion: what?"])
def test_an_empty_reply_shares_no_word_with_any_reference(references, reply):
    """As in the authors' script: silence is not "cannot answer", and no word is shared.

    People's F1 is the question's own and does not depend on the reply.
    """
    row = {"prompt": "Question: q", "references": references}
    (verdict,) = QUAC.judge([row], [[reply]])
    (other,) = QUAC.judge([row], [["xyzzy"]])
    assert verdict.verdict.outcome is Outcome.NO_ANSWER
    assert verdict.metrics == other.metrics
    assert {verdict.metrics[name] for name in ("f1", "heq_q")} <= {0.0, None}
    assert {verdict.metrics[name] for name in ("f1_unfiltered", "f1_max")} == {0.0}


def test_the_mean_leaves_them_out():
    assert mean_of_kept([None, 0.25, 0.75]) == 0.5
    assert mean_of_kept([None]) == 0.0


@pytest.mark.parametrize("engine", ["oracle", "oracle-wrong"])
def test_the_cell_is_the_mean_f1_of_the_questions_that_count(engine, tmp_path):
    """Fourteen of sixteen; the oracle repeats a reference, so it is always as good as a person."""
    settings = RunSettings(tasks=("quac",), engine=engine, data="sample", output_path=tmp_path)
    record = json.loads((run_suite(settings, Talk(quiet=True)) / "run.json").read_text())
    cell = record["scores"]["quac"]
    right = engine == "oracle"
    verdicts = QUAC.judge(list(ROWS), [[QUAC.oracle(row, right)] for row in ROWS])
    counted = [verdict.metrics["f1"] for verdict in verdicts if verdict.metrics["f1"] is not None]
    assert len(counted) == cell["n"] == 14
    assert cell["value"] == pytest.approx(100 * fmean(counted))
    assert (cell["n_total"], cell["limited"]) == (1000, True)
    assert cell["secondary"]["heq_q"] == cell["secondary"]["f1_max"] == (100.0 if right else 0.0)
    assert cell["low"] <= cell["value"] <= cell["high"]
    assert any("14 of 16 questions on which people agree" in note for note in cell["notes"])


def test_without_its_rows_a_run_says_so_in_one_sentence(tmp_path):
    (tmp_path / "piqa").mkdir()
    with pytest.raises(DataError, match=r"should hold quac_helm/default/validation.parquet .* for"):
        load_benchmark_data(data_spec("quac"), make_source(str(tmp_path)))
