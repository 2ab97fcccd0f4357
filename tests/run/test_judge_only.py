"""Answers of a FastChat file are rated without a model."""

import json

import pandas as pd
import pytest

from mistral_eval.answers.mt_bench.judge_prompts import single_prompt
from mistral_eval.console import Talk
from mistral_eval.data import load_benchmark_data, make_source
from mistral_eval.errors import DataError, UsageError
from mistral_eval.record.fastchat import (
    Choice,
    ModelAnswer,
    read_single_judgments,
    write_lines,
)
from mistral_eval.report.table import render_figure
from mistral_eval.run.judge_only import judge_file
from mistral_eval.settings import RunSettings
from mistral_eval.suite.conversations import MT_BENCH
from tests.judge_server import JudgeServer, said

QUIET = Talk(quiet=True)
NUMBERS = (83, 88)  # the sample's first two questions


def by_question(number, body):
    """6 for one question and 9 for the other, 2 less for second turns."""
    system, user = (one["content"] for one in body["messages"])
    rating = 6 if "answer of 83" in user else 9
    return said(f"Rating: [[{rating - 2 * ('second' in system)}]]")


@pytest.fixture
def file(tmp_path):
    return answers_in(tmp_path, NUMBERS)


def answers_in(folder, numbers, model="vicuna"):
    found = [
        ModelAnswer(
            question_id=number,
            model_id=model,
            choices=(Choice(turns=(f"answer of {number}", f"second answer of {number}")),),
        )
        for number in numbers
    ]
    write_lines(folder / "vicuna.jsonl", found)
    return folder / "vicuna.jsonl"


def settings_in(folder, judge, **changed) -> RunSettings:
    fields = {"tasks": (MT_BENCH.id,), "data": "sample", "output_path": folder / "results"}
    return RunSettings(
        **{**fields, "judge_url": judge and judge.url, "judge_model": judge and "gpt-4", **changed}
    )


def row_of(file, model):
    """The cells of a model's row from its MT-Bench mean on."""
    table = render_figure([file], "chat", "md")
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {model} ")]
    return [part.strip() for part in line.strip("|").split("|")][2:]


def test_the_known_ratings_give_the_known_mean(tmp_path, file):
    """6, 4, 9, 7: the mean is 6.5, over two questions."""
    with JudgeServer(by_question) as judge:
        judged = judge_file(file, settings_in(tmp_path, judge), QUIET)
        assert judge_file(file, settings_in(tmp_path, judge), QUIET) == judged
        asked = judge.asked
    rows = read_single_judgments(judged)

    assert len(asked) == 4  # a second time nothing
    assert {(row.question_id, row.turn): row.score for row in rows} == {
        (83, 1): 6.0, (83, 2): 4.0, (88, 1): 9.0, (88, 2): 7.0,
    }  # fmt: skip
    assert {row.model for row in rows} == {"vicuna"}
    assert row_of(judged, "vicuna")[0] == "6.50"


def test_ratings_in_a_store_are_not_asked_for_again_on_another_machine(tmp_path, file, monkeypatch):
    url = f"file://{tmp_path}/store"
    found = []
    with JudgeServer(by_question) as judge:
        for machine in ("first", "second"):
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))
            judged = judge_file(file, settings_in(tmp_path, judge, output_path=url), QUIET)
            assert judged.is_relative_to(tmp_path / machine)
            found.append(row_of(judged, "vicuna"))
        assert len(judge.asked) == 4
    assert found[0] == found[1]
    (stored,) = (tmp_path / "store").rglob(judged.name)
    assert row_of(stored, "vicuna") == found[0]


def test_published_judgments_stand_beside_the_papers_table(tmp_path, shared):
    """Stored judgments of a real model, as FastChat writes them, have their stored mean."""
    table = pd.read_parquet(shared / "transcripts" / "chat" / "mt_bench_judgments.parquet")
    model, rows = next(iter(table.groupby("model")))
    stored = [
        {
            "question_id": int(row.question_id), "model": model, "judge": ["gpt-4", "single-v1"],
            "judgment": row.judgment, "score": float(row.score), "turn": int(row.turn),
        }
        for row in rows.drop_duplicates(["question_id", "turn"]).itertuples()
    ]  # fmt: skip
    (tmp_path / "gpt-4_single.jsonl").write_text("\n".join(map(json.dumps, stored)))
    mean, low, high, questions, unread, judge = row_of(tmp_path / "gpt-4_single.jsonl", model)
    kept = [one["score"] for one in stored if one["score"] != -1]
    counting = sum(one["score"] for one in stored) / len(stored)

    assert mean == f"{sum(kept) / len(kept):.2f}"
    assert float(low) < float(mean) < float(high)
    assert (questions, judge) == ("80", "gpt-4, our rule")
    assert unread == f"{len(stored) - len(kept)} ({counting:.2f} with each as -1)"


def test_the_prompt_is_that_of_the_files_answers(tmp_path, file):
    with JudgeServer(by_question) as judge:
        judge_file(file, settings_in(tmp_path, judge), QUIET)
        asked = judge.asked
    (rows,) = load_benchmark_data(MT_BENCH.task.data, make_source("sample")).values()
    expected = [
        single_prompt(row["turns"], [f"answer of {number}", f"second answer of {number}"], turn)
        for row in rows
        for number in NUMBERS
        if row["question_id"] == number
        for turn in (1, 2)
    ]

    assert {one["messages"][1]["content"] for one in asked} == {one.user for one in expected}


def test_questions_without_an_answer_are_said(tmp_path, file, capsys):
    with JudgeServer(by_question) as judge:
        judge_file(file, settings_in(tmp_path, judge), Talk())
    said_ = capsys.readouterr().err

    assert "14 questions without an answer, and 0 answers to questions that are not" in said_
    assert "vicuna: mean rating 6.50 [" in said_


def test_a_missing_second_turn_is_said(tmp_path, capsys):
    turns = (("answer of 83", "second answer of 83"), ("answer of 88",))
    write_lines(
        tmp_path / "vicuna.jsonl",
        [
            ModelAnswer(question_id=number, model_id="vicuna", choices=(Choice(turns=both),))
            for number, both in zip(NUMBERS, turns, strict=True)
        ],
    )
    with JudgeServer(by_question) as judge:
        judge_file(tmp_path / "vicuna.jsonl", settings_in(tmp_path, judge), Talk())
    said_ = capsys.readouterr().err

    assert "vicuna: mean rating 6.33 [" in said_  # 6, 4 and 9
    assert "missing answers: 1 (question 88, turn 2, is the first)" in said_


def test_a_file_of_other_questions_is_refused(tmp_path):
    with (
        JudgeServer(by_question) as judge,
        pytest.raises(DataError, match="has none of the 16 that are asked"),
    ):
        judge_file(answers_in(tmp_path, (81, 999)), settings_in(tmp_path, judge), QUIET)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"judge_url": None, "judge_model": None}, "--judge-only needs a judge"),
        ({"model": "tiny"}, "runs no model. Leave out --model"),
        ({"engine": "random"}, "runs no model. Leave out --engine"),
        ({"tasks": ("piqa",)}, "and --tasks is piqa"),
    ],
)
def test_options_of_a_model_and_a_missing_judge_are_refused(tmp_path, file, changed, sentence):
    with JudgeServer(by_question) as judge, pytest.raises(UsageError, match=sentence):
        judge_file(file, settings_in(tmp_path, judge, **changed), QUIET)


def test_a_folder_name_cannot_leave_the_results(tmp_path):
    file = answers_in(tmp_path, NUMBERS, model="..")
    with JudgeServer(by_question) as judge:
        judged = judge_file(file, settings_in(tmp_path, judge), QUIET)
    assert judged.is_relative_to(tmp_path / "results" / "model")
