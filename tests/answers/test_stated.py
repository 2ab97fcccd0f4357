"""Answers that must equal the target: the whole reply, or what follows "the answer is"."""

import json
from pathlib import Path

import pytest

from mistral_eval.answers import stated

CASES = json.loads((Path(__file__).parent / "cases" / "stated.json").read_text("utf-8"))
READ = {"direct": stated.direct_answer, "stated": stated.stated_answer}


@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case["reply"])[:40])
def test_case_table(case):
    answer = READ[case["read"]](case["reply"])
    assert stated.match_exactly(answer, case["target"]).outcome == case["expected"]


def test_a_verdict_keeps_the_answer_that_was_read():
    assert stated.match_exactly("(B)", "(A)").answer == "(B)"
    assert stated.match_exactly("", "(A)").answer is None
