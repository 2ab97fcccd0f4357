"""Numbers are read and compared exactly, whatever surrounds them."""

import json
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistral_eval.answers import numbers
from mistral_eval.answers.verdict import Outcome

CASES = json.loads((Path(__file__).parent / "cases" / "numbers.json").read_text("utf-8"))
ANY_TEXT = st.text(st.characters(codec=None))
NUMBERISH = st.text(alphabet="0123456789.,-/$ =\u2212%AQ:\n", max_size=60)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["input"][:40])
def test_case_table(case):
    """Both readings of every row of the case table are as its source says."""
    expected = (case["strict"], case["flexible"])

    assert expected == (numbers.strict(case["input"]), numbers.flexible(case["input"]))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("2,125", "2125", True),
        ("5.00", "5", True),
        ("1/2", "0.5", True),
        ("1/2", "1", False),
        ("3/0", "3/0", True),
        ("3/0", "2/0", False),
        ("-3", "3", False),
        ("0.1", "0.10000000000000000001", False),
        ("none", "none", True),
        ("none", "1", False),
    ],
)
def test_equal_is_exact(a, b, expected):
    """Equality is of values, without floating point, and the same both ways."""
    assert (expected, expected) == (numbers.equal(a, b), numbers.equal(b, a))


def test_a_reply_without_a_number_is_no_answer():
    """Nothing to read is told from a wrong number, in both modes."""
    expected = [Outcome.NO_ANSWER, Outcome.NO_ANSWER, Outcome.WRONG]

    assert expected == [
        numbers.match_number("It is 18.", "18", "strict").outcome,
        numbers.match_number("It is many.", "18", "flexible").outcome,
        numbers.match_number("The answer is 17.", "18", "strict").outcome,
    ]


def test_flexible_agrees_with_all_published_verdicts(shared):
    """The last number agrees with all 5276 verdicts of openai/grade-school-math."""
    rows = pd.read_parquet(shared / "transcripts" / "gsm8k.parquet")

    judged = [
        numbers.match_number(output, gold, "flexible").is_correct
        for output, gold in zip(rows.output, rows.gold, strict=True)
    ]

    assert sum(mine == theirs for mine, theirs in zip(judged, rows.verdict, strict=True)) == 5276


def test_gold_answers_of_gsm8k_equal_themselves(shared):
    """Each of the 1319 gold answers, said in the prompt's words, is read as itself."""
    rows = pd.read_parquet(shared / "data" / "gsm8k" / "main" / "test.parquet")
    golds = [answer.rpartition("####")[2].strip() for answer in rows.answer]

    right = sum(numbers.match_number(f" The answer is {g}.", g, "strict").is_correct for g in golds)

    assert right == 1319


@given(st.one_of(ANY_TEXT, NUMBERISH))
def test_scorer_is_total(text):
    """Any text gets a verdict, in both modes, and what was read is already normal."""
    for mode in ("strict", "flexible"):
        verdict = numbers.match_number("The answer is " + text, text, mode)

        assert verdict.outcome in Outcome
        if verdict.answer is not None:
            assert verdict.answer == numbers.normalise(verdict.answer)


@given(NUMBERISH, NUMBERISH)
def test_equality_is_symmetric(a, b):
    """Which side is the gold does not matter, and every text equals itself."""
    assert numbers.equal(a, b) == numbers.equal(b, a)
    assert numbers.equal(a, a)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "piece",
    ["1", "1,", "1,111", " ", "1 ", "$", "-", "1/", "1 = ", "1 / ", ".", "1a", "1 ab ", "ab "],
)
def test_megabytes_are_read_in_linear_time(piece):
    """A megabyte of any one pattern is read in seconds, not hours."""
    text = piece * (1_000_000 // len(piece))

    for mode in ("strict", "flexible"):
        assert numbers.match_number("The answer is " + text, "1", mode).outcome in Outcome
