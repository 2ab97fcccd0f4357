"""Final answers are found in replies, and compared as docs/scoring.md says."""

import json
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mistral_eval.answers.latex.boxed import Equality, boxed_answer, equal, final_answer

FOLDER = Path(__file__).parent / "cases"
EQUALITIES = json.loads((FOLDER / "latex.json").read_text("utf-8"))
FINAL_ANSWERS = json.loads((FOLDER / "final_answers.json").read_text("utf-8"))
PIECES = st.sampled_from(
    [
        *"{}$.4x\\",
        r"\boxed{",
        r"\boxed",
        r"\fbox{",
        r"\{",
        r"\(",
        "answer is",
        "final answer is",
        "I hope",
    ]
)


@pytest.mark.parametrize("case", EQUALITIES, ids=lambda c: f"{c['gold']} ~ {c['answer']}"[:60])
def test_answers_compare_as_the_table_says_in_both_directions(case):
    """Each row of the table holds whichever side is the gold."""
    expected = (case["expected"], case["expected"])

    assert expected == (equal(case["gold"], case["answer"]), equal(case["answer"], case["gold"]))


@pytest.mark.parametrize("case", FINAL_ANSWERS, ids=lambda case: case["input"][:40])
def test_the_final_answer_of_a_reply(case):
    """The last box or final sentence is the answer; without one there is none."""
    assert case["expected"] == final_answer(case["input"])


def test_every_gold_solution_equals_itself_however_it_is_said(shared):
    """All 5000 gold answers equal themselves: boxed, and in the sentence of Minerva's format."""
    files = sorted((shared / "data" / "hendrycks_math").glob("*/test.parquet"))
    solutions = [text for file in files for text in pd.read_parquet(file).solution]
    golds = [boxed_answer(solution) for solution in solutions]
    said = [
        f"{solution}\nFinal Answer: The final answer is $ {gold} $. I hope it is correct."
        for solution, gold in zip(solutions, golds, strict=True)
    ]

    assert len([gold for gold in golds if gold]) == 5000
    assert [
        gold
        for gold, solution, reply in zip(golds, solutions, said, strict=True)
        if {equal(gold, final_answer(solution)), equal(gold, final_answer(reply))} != {"equal"}
    ] == []


def test_agreement_with_the_published_verdicts_of_math_8_samples(shared):
    """Of 800 verdicts 799 agree; the other is the published grader's: 10{,}000 is 10000."""
    rows = pd.read_parquet(shared / "transcripts" / "math_8_samples.parquet")

    differing = [
        (row.gold, answer)
        for row in rows.itertuples()
        if (equal(row.gold, answer := final_answer(row.output) or "") == "equal") != row.verdict
    ]

    assert differing == [("10{,}000", "10000")]


def test_agreement_with_the_published_unit_tests(shared):
    """Of 49 pairs 47 agree; the other two are lists in another order, which we call equal."""
    rows = pd.read_parquet(shared / "transcripts" / "math_equivalence.parquet")

    differing = [
        row.item_id
        for row in rows.itertuples()
        if (equal(row.gold, _said(row)) == "equal") != row.verdict
    ]

    assert differing == ["test_order", "test_decimals"]


def _said(row) -> str:
    """Return the answer of a row: inspect_ai's outputs are whole replies."""
    whole = row.suite.startswith("inspect_ai")
    return (final_answer(row.output) if whole else None) or row.output


@given(st.one_of(st.text(st.characters(codec=None)), st.lists(PIECES).map(" ".join)))
@example("\\boxed{" * 1000 + "}" * 1000)
def test_extraction_is_total(text):
    """Any text has a final answer or none; an answer is never empty."""
    answer = final_answer(text)

    assert answer is None or answer.strip()


@given(st.text(st.characters(codec=None), max_size=200))
def test_any_text_equals_itself(text):
    """Whatever a reply says, it says the same as itself."""
    assert equal(text, f" {text}\n") is Equality.EQUAL


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "piece",
    [
        "\\boxed{",
        "\\boxed ",
        "\\boxed{1}",
        "answer is . ",
        "final answer is $",
        "{",
        "$",
        " ",
        "\\",
    ],
)
def test_megabytes_are_read_in_linear_time(piece):
    """A megabyte of any one pattern is read and compared in seconds."""
    text = piece * (1_000_000 // len(piece))

    assert final_answer(text) is None or final_answer(text)
    assert equal(text, "1") is Equality.DIFFERENT
