"""Whole replies in the prompts' formats get the verdict of the table."""

import json
from pathlib import Path

import pytest

from mistral_eval.answers import numbers
from mistral_eval.answers.latex.boxed import Equality, equal, final_answer

CASES = json.loads((Path(__file__).parent / "cases" / "replies.json").read_text("utf-8"))


def is_right(case: dict[str, object]) -> bool:
    """Judge one reply as its benchmark does."""
    gold, reply = str(case["gold"]), str(case["reply"])
    if case["benchmark"] == "gsm8k":
        return numbers.match_number(reply, gold, "strict").is_correct
    return equal(gold, final_answer(reply) or "") is Equality.EQUAL


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['gold']} ~ {case['reply'][-60:]}")
def test_a_reply_gets_the_verdict_of_the_table(case):
    """Each way to dress an answer is read, and its wrong twins stay wrong."""
    assert case["right"] == is_right(case)


def test_the_replies_that_earlier_versions_misjudged(shared):
    """Every reply of the shared case table gets its verdict."""
    lines = (shared / "cases" / "answers.jsonl").read_text("utf-8").splitlines()
    cases = [json.loads(line) for line in lines]

    assert len(cases) >= 20
    assert [case["reply"] for case in cases if is_right(case) != case["right"]] == []
