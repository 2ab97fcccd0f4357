"""FastChat's files of answers and judgments: round trips and damaged files."""

import json

import pytest

from mistral_eval.answers.mt_bench.means import by_both_rules, score
from mistral_eval.errors import DataError
from mistral_eval.record.fastchat import (
    Choice,
    ModelAnswer,
    PairJudgment,
    SingleJudgment,
    answers_of,
    read_answers,
    read_pair_judgments,
    read_single_judgments,
    write_lines,
)

ANSWER = {
    "question_id": 81,
    "answer_id": "k3",
    "model_id": "m",
    "choices": [{"index": 0, "turns": ["one\u2028", "zwei \U0001f600"]}],
    "tstamp": 1686287917.5,
}
SINGLE = {
    "question_id": 81,
    "model": "m",
    "judge": ["gpt-4", "single-v1"],
    "user_prompt": "[Instruction]",
    "judgment": "Rating: [[70]]",
    "score": 70,
    "turn": 1,
    "tstamp": 1.0,
}
PAIR = {
    "question_id": 81,
    "model_1": "a",
    "model_2": "b",
    "g1_winner": "model_1",
    "g2_winner": "tie",
    "judge": ["gpt-4", "pair-v2"],
    "g1_user_prompt": "p",
    "g1_judgment": "[[A]]",
    "g2_user_prompt": "q",
    "g2_judgment": "[[C]]",
    "turn": 1,
    "tstamp": 1.0,
}
READERS = [
    (read_answers, ANSWER, ModelAnswer),
    (read_single_judgments, SINGLE, SingleJudgment),
    (read_pair_judgments, PAIR, PairJudgment),
]


@pytest.mark.parametrize(("read", "line", "kind"), READERS)
def test_a_file_is_read_as_it_was_written(tmp_path, read, line, kind):
    file = tmp_path / "lines.jsonl"
    write_lines(file, [kind.model_validate(line)])
    assert json.loads(file.read_text("utf-8")) == line
    found = read(file)
    assert list(found.values() if isinstance(found, dict) else found) == [kind.model_validate(line)]


@pytest.mark.parametrize(("read", "line", "kind"), READERS)
@pytest.mark.parametrize("text", ["{", "[]", '{"question_id": "x"}', "\udcff"])
def test_a_damaged_line_is_named(tmp_path, read, line, kind, text):
    file = tmp_path / "lines.jsonl"
    whole = json.dumps(line) + "\n\n" + text
    file.write_bytes(whole.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"line 3|not readable"):
        read(file)


@pytest.mark.parametrize(("read", "line", "kind"), READERS)
def test_a_duplicate_is_refused(tmp_path, read, line, kind):
    file = tmp_path / "lines.jsonl"
    file.write_text((json.dumps(line) + "\n") * 2, "utf-8")
    with pytest.raises(DataError, match="expected one line, found 2"):
        read(file)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl is not readable"):
        read_answers(tmp_path / "none.jsonl")


def test_fields_of_other_versions_are_ignored(tmp_path):
    file = tmp_path / "lines.jsonl"
    file.write_text(json.dumps(ANSWER | {"conv_id": 3}), "utf-8")
    assert read_answers(file)[81].model_id == "m"


def test_two_models_in_one_file_of_answers_are_refused(tmp_path):
    file = tmp_path / "lines.jsonl"
    other = ANSWER | {"model_id": "n"}
    file.write_text(f"{json.dumps(ANSWER)}\n{json.dumps(other)}\n", "utf-8")
    with pytest.raises(DataError, match="one model, found m, n"):
        read_answers(file)


def test_stored_scores_and_our_readings_are_both_to_be_had():
    judgment = SingleJudgment.model_validate(SINGLE)
    both = by_both_rules([judgment.judged()])
    assert both.ours.overall.unread == 1
    assert both.fastchat == score([judgment.stored()])
    assert judgment.stored().rating == 70
    error = SingleJudgment.model_validate(SINGLE | {"judgment": "$ERROR$", "score": -1})
    assert error.stored("math").rating is None
    assert score([error.stored("math")]).categories["math"].unread == 1


def test_one_sample_of_several_is_taken():
    answer = ModelAnswer(
        question_id=1,
        model_id="m",
        choices=(Choice(turns=("a", "b")), Choice(index=1, turns=("c", "d"))),
    )
    assert answers_of([answer], 1) == {1: ("c", "d")}
    with pytest.raises(DataError, match="expected sample 2, found 0, 1"):
        answers_of([answer], 2)


def test_half_a_surrogate_pair_becomes_a_question_mark(tmp_path):
    answer = ModelAnswer(question_id=1, model_id="m", choices=(Choice(turns=("a\ud800",)),))
    write_lines(tmp_path / "lines.jsonl", [answer])
    assert answers_of(list(read_answers(tmp_path / "lines.jsonl").values())) == {1: ("a?",)}


def test_the_stored_judgments_of_a_real_model_go_through(shared, tmp_path):
    import pandas as pd

    table = pd.read_parquet(shared / "transcripts" / "chat" / "mt_bench_judgments.parquet")
    part = table[table.model == "dolphin-2.2.1-mistral-7b"]
    lines = [
        SingleJudgment(
            question_id=row.question_id,
            model=row.model,
            judge=(row.judge, row.judge_prompt),
            judgment=row.judgment,
            score=row.score,
            turn=row.turn,
            tstamp=row.tstamp,
        )
        for row in part.itertuples()
    ]
    write_lines(tmp_path / "gpt-4_single.jsonl", lines)
    found = read_single_judgments(tmp_path / "gpt-4_single.jsonl")
    assert list(found) == lines
    both = by_both_rules([one.judged() for one in found])
    assert both.ours == both.fastchat == score([one.stored() for one in found])
    assert both.ours.missing == ()
