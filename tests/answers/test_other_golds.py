"""Right answers of one question are wrong answers to every other, however they are dressed.

Each right answer of the transcripts is compared as it stands and in each form that replies dress an
answer in, with the gold of every other question that has another value. By default one comparison
in STRIDE is made; MISTRAL_EVAL_ALL_PAIRS=1 makes them all.
"""

import os
import random

import pandas as pd
import pytest

from mistral_eval.answers import numbers
from mistral_eval.answers.latex.boxed import Equality, boxed_answer, final_answer
from mistral_eval.answers.math_checker import MathChecker

STRIDE = 1 if os.environ.get("MISTRAL_EVAL_ALL_PAIRS") == "1" else 20
FORMS = (
    "{}",
    "${}$ apples",
    "${}$ of the whole",
    "{} apples",
    "${}$th",
    "**{}**",
    r"\${}",
    "$a_1+b_1={}$",
    "${}=a_1+b_1$",
    "(X) {}",
    "X. {}",
)


@pytest.fixture(scope="module")
def checker():
    """One checker for the tests of this file."""
    with MathChecker(workers=2) as opened:
        yield opened


def accepted(checker, pairs):
    """Return those of the pairs (gold, own gold, answer) that compare equal, save coincidences."""
    results = checker.equal_many([(gold, answer) for gold, _, answer in pairs])
    found = [pair for pair, result in zip(pairs, results, strict=True) if result != "different"]
    # Golds of two questions may have one value; then an answer to one answers the other.
    same = checker.equal_many([(gold, own) for gold, own, _ in found])
    return [pair for pair, one in zip(found, same, strict=True) if one is not Equality.EQUAL]


def test_right_answers_of_math_against_other_golds(checker, shared):
    """No answer of the 100 questions, in any form, equals the gold of another one."""
    rows = pd.read_parquet(shared / "transcripts" / "math_8_samples.parquet")
    rows = rows[rows.verdict]
    answers = dict.fromkeys(
        (row.gold, answer) for row in rows.itertuples() if (answer := final_answer(row.output))
    )
    golds = sorted(set(rows.gold))
    pairs = [
        (gold, own, form.format(answer))
        for own, answer in answers
        for gold in golds
        for form in FORMS
        if gold != own
    ]

    assert len(pairs) > 50_000
    assert accepted(checker, pairs[::STRIDE]) == []


def test_golds_of_math_against_other_golds(checker, shared):
    """No gold of MATH, in any form, equals the gold of another question."""
    files = sorted((shared / "data" / "hendrycks_math").glob("*/test.parquet"))
    golds = [boxed_answer(text) or "" for file in files for text in pd.read_parquet(file).solution]
    pairs = [
        (other, gold, form.format(gold))
        for number, form in enumerate(FORMS)
        for gold, other in zip(golds, random.Random(number).sample(golds, 5000), strict=True)
        if gold != other
    ]

    assert len(pairs) > 50_000
    assert accepted(checker, pairs[::STRIDE]) == []


@pytest.mark.parametrize(
    "form", ["{}.", "**{}**", "${} apples", "{} x 1 day = {}.", "3 bags + 4 bags = {} bags", "{}th"]
)
def test_answers_of_gsm8k_are_read_in_every_form(form, shared):
    """The number of a right reply is read as itself, and so differs from every other gold."""
    rows = pd.read_parquet(shared / "transcripts" / "gsm8k.parquet")
    golds = sorted(set(rows[rows.verdict].gold))
    read = [numbers.strict("The answer is " + form.replace("{}", gold)) for gold in golds]

    assert len(golds) > 200
    assert list(map(numbers.normalise, golds)) == read
