"""Exact match of short answers follows SQuAD's normalisation."""

import json
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistral_eval.answers import exact_match as spans
from mistral_eval.answers.verdict import Outcome

CASES = json.loads((Path(__file__).parent / "cases" / "spans.json").read_text("utf-8"))
ANY_TEXT = st.text(st.characters(codec=None))


@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case["input"])[:40])
def test_case_table(case):
    """Every row of the case table gets the outcome its source says."""
    assert case["expected"] == spans.match_any(case["input"], case["golds"]).outcome


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (" Linda Davis\nQ: who", "Linda Davis"),
        (" Linda Davis.\n", "Linda Davis"),
        (" Linda Davis,", "Linda Davis"),
        (" U.S.A..", "U.S.A."),
        (" one.,", "one."),
        ("\nLinda Davis", ""),
        (" Linda Davis\r\nQ:", "Linda Davis"),
        ("", ""),
    ],
)
def test_cut_keeps_the_first_line(reply, expected):
    """The reply ends at its first line break; one final full stop or comma goes."""
    assert expected == spans.cut(reply)


def test_exact_match_equals_the_published_one(shared):
    """Exact match of the uncut text equals `em_squad` on all 1490 rows."""
    rows = pd.read_parquet(shared / "transcripts" / "nq.parquet")

    judged = [
        spans.match_any(output, list(golds)).is_correct
        for output, golds in zip(rows.output, rows.gold, strict=True)
    ]

    assert sum(mine == theirs for mine, theirs in zip(judged, rows.em_squad, strict=True)) == 1490


def test_every_gold_answer_of_nq_is_correct(shared):
    """Each of the 3610 questions' first gold answers is correct."""
    rows = pd.read_parquet(shared / "data" / "nq_open" / "nq_open" / "validation.parquet")

    right = sum(spans.match_any(golds[0], list(golds)).is_correct for golds in rows.answer)

    assert right == 3610


@given(ANY_TEXT, st.lists(ANY_TEXT, max_size=3))
def test_scorer_is_total(text, golds):
    """Any text gets a verdict, and one that is not empty equals itself."""
    assert spans.match_any(spans.cut(text), golds).outcome in Outcome
    assert spans.match_any(text, [text]).is_correct == bool(text.strip())


@given(ANY_TEXT)
def test_normalising_twice_changes_nothing(text):
    """A normalised text without articles is normal: no second pass is needed."""
    once = spans.normalise(text)

    assert not once or once == " ".join(once.split())


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("piece", ["a ", "the", ".", "\u2019", "\u0301", "\ud800"])
def test_megabytes_are_compared_in_linear_time(piece):
    """A megabyte of any one pattern is compared in seconds."""
    text = piece * (1_000_000 // len(piece))

    assert spans.match_any(text, [text]).is_correct
