"""Answers that must equal the target: the whole reply, or what follows "the answer is"."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistral_eval.answers import stated

CASES = json.loads((Path(__file__).parent / "cases" / "stated.json").read_text("utf-8"))
READ = {"direct": stated.direct_answer, "stated": stated.stated_answer}


@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case["reply"])[:40])
def test_case_table(case):
    answer = READ[case["read"]](case["reply"])
    assert stated.match_exactly(answer, case["target"]).outcome == case["expected"]


@given(st.text(st.characters(codec=None)), st.sampled_from(sorted(READ)))
def test_any_text_gets_a_verdict(text, read):
    assert stated.match_exactly(READ[read](text), "(A)").outcome


def test_megabytes_are_read_in_no_time():
    assert stated.stated_answer("the answer is " * 100_000 + "(A).") == "(A)"


def test_a_verdict_keeps_the_answer_that_was_read():
    assert stated.match_exactly("(B)", "(A)").answer == "(B)"
    assert stated.match_exactly("", "(A)").answer is None
