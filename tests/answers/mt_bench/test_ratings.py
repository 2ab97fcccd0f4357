"""Ratings read from judges' texts, by our rule and by FastChat's."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistral_eval.answers.mt_bench.ratings import differences, read_fastchat_rating, read_rating

CASES = json.loads((Path(__file__).parents[1] / "cases" / "ratings.json").read_text("utf-8"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case["text"])[:50])
def test_case_table(case):
    ours = read_rating(case["text"])
    assert (ours.value, ours.fallback) == (case["ours"], case.get("fallback", False))
    assert read_fastchat_rating(case["text"]).value == case["fastchat"]
    assert ours.reason


def test_all_published_shapes_have_the_recommended_value(shared):
    lines = (shared / "transcripts" / "chat" / "judgment_shapes.jsonl").read_text("utf-8")
    shapes = [json.loads(line) for line in lines.splitlines()]
    assert len(shapes) == 11
    for shape in shapes:
        assert read_rating(shape["text"]).value == shape["recommended"], shape["shape"]
        stored = -1 if (theirs := read_fastchat_rating(shape["text"]).value) is None else theirs
        assert stored == shape["fastchat"], shape["shape"]


def test_fastchats_rule_gives_every_stored_score_and_ours_agrees_on_gpt4s(shared):
    import pandas as pd

    rows = pd.read_parquet(shared / "transcripts" / "chat" / "mt_bench_judgments.parquet")
    read = [read_fastchat_rating(text).value for text in rows.judgment]
    assert [-1 if value is None else value for value in read] == rows.score.tolist()
    assert len(read) == 970
    assert differences(rows.judgment) == ()


def test_failed_calls_are_told_from_texts_without_a_rating():
    assert read_rating("$ERROR$").failed_call
    assert read_rating(" \n").failed_call
    assert not read_rating("I cannot judge this.").failed_call


def test_differences_name_the_text_and_both_readings():
    texts = ["Rating: [[7]]", "Rating: [[70]]", "x = a[0]"]
    found = differences(texts)
    assert [(one.index, one.ours.value, one.fastchat.value) for one in found] == [
        (1, None, 70.0),
        (2, None, 0.0),
    ]


@given(st.text(st.characters(codec=None)))
def test_any_text_is_read(text):
    value = read_rating(text).value
    assert value is None or 1 <= value <= 10
    assert read_fastchat_rating(text).reason


@given(st.floats(1, 10).map(lambda value: round(value, 1)), st.text(alphabet="abc. \n"))
def test_one_value_in_double_brackets_is_the_rating_wherever_it_stands(value, around):
    assert read_rating(f"{around}[[{value}]]{around}").value == value


@pytest.mark.parametrize(
    "piece", ["[[", "```", "`", "[[1,", "rate ", "Rating: [[5]] ", "1 out of 1", "[[9" * 3]
)
@pytest.mark.usefixtures("quick")
def test_megabytes_are_read_in_seconds(piece):
    text = piece * (2_000_000 // len(piece))
    assert read_rating(text).reason
    assert read_fastchat_rating(text).reason
