"""Questions of MATH and GSM8K: samples vote, and single samples are averaged."""

from collections import Counter

import pandas as pd
import pytest

from mistral_eval.answers.latex.boxed import Equality
from mistral_eval.answers.math_checker import MathChecker
from mistral_eval.answers.verdict import Outcome
from mistral_eval.answers.votes import vote_on_formulas, vote_on_numbers


@pytest.fixture(scope="module")
def checker():
    """One checker for the tests of this file."""
    with MathChecker(workers=2) as opened:
        yield opened


def said(*answers: str | None) -> list[str]:
    """Return replies in Minerva's format; None is a reply without an answer."""
    return [
        "Hm."
        if a is None
        else f"So.\nFinal Answer: The final answer is ${a}$. I hope it is correct."
        for a in answers
    ]


@pytest.mark.parametrize(
    ("answers", "gold", "outcome", "answer", "mean"),
    [
        (["0.5", "1", r"\frac12", "2"], "1/2", "correct", "$0.5$", 0.5),
        (["1", "0.5", "2", "3"], "1/2", "wrong", "$1$", 0.25),
        ([None, None, "0.5", None], "1/2", "correct", "$0.5$", 0.25),
        ([None, None, None, None], "1/2", "no_answer", None, 0.0),
        (["1", "0.5", "1", r"\frac12"], "1/2", "wrong", "$1$", 0.5),
    ],
)
def test_math_votes_over_equivalent_answers(checker, answers, gold, outcome, answer, mean):
    """Equivalent answers vote together; unreadable ones do not vote; ties go to the first."""
    (judged,) = vote_on_formulas([said(*answers)], [gold], checker)

    assert (outcome, answer) == (judged.verdict.outcome, judged.verdict.answer)
    assert {"maj@4": float(outcome == "correct"), "maj@1": mean} == dict(judged.metrics)
    assert len(answers) == len(judged.samples)


def test_the_gold_of_math_is_the_last_box_of_the_solution(checker):
    """A whole solution may be given as gold."""
    gold = r"Since \boxed{2} is wrong, \boxed{24}."
    (judged,) = vote_on_formulas([said("24")], [gold], checker)

    assert dict(judged.metrics) == {"maj@4": 1.0, "maj@1": 1.0}


def test_a_comparison_that_timed_out_is_counted_as_wrong_and_shown_apart():
    """A hanging comparison with the gold makes `timeout`; the other question is not harmed."""
    hanging = "((x^{5000})^{5000})^{5000}"
    with MathChecker(workers=2, limit_seconds=1) as checker:
        first, second = vote_on_formulas([said(hanging), said("4")], ["x^2", "4"], checker)

    assert (first.verdict.outcome, first.metrics["maj@4"]) == (Outcome.TIMEOUT, 0.0)
    assert (second.verdict.outcome, second.metrics["maj@4"]) == (Outcome.CORRECT, 1.0)


class _Dying(MathChecker):
    """A checker whose workers always die."""

    def equal_many(self, pairs, on_done=None):
        return [Equality.FAILED for _ in pairs]


def test_a_comparison_that_broke_off_is_shown_as_timeout_with_its_reason():
    """A checker that died is no verdict on the answer: it counts as wrong and says why."""
    (judged,) = vote_on_formulas([said("4")], ["5"], _Dying())

    assert (judged.verdict.outcome, "failed" in judged.verdict.reason) == (Outcome.TIMEOUT, True)


def test_the_votes_of_math_8_samples(checker, shared):
    """The vote over the replies is right where the published answers' most frequent one is."""
    rows = pd.read_parquet(shared / "transcripts" / "math_8_samples.parquet")
    questions = []
    for _, group in rows.groupby("item_id", sort=False):
        (first, most), *others = Counter(group.published_pred).most_common()
        if not others or others[0][1] < most:  # the published vote is not a tie
            right = bool(group.verdict[group.published_pred == first].iloc[0])
            questions.append((list(group.output), f"\\boxed{{{group.gold.iloc[0]}}}", right))

    replies, golds, published = zip(*questions, strict=True)
    judged = [question.verdict.is_correct for question in vote_on_formulas(replies, golds, checker)]

    assert len(questions) > 90
    assert list(published) == judged


@pytest.mark.parametrize(
    ("replies", "outcome", "metrics"),
    [
        (["The answer is 18."] * 5 + ["The answer is 3."] * 3, "correct", (1.0, 0.625, 1.0)),
        (["The answer is 1,800."] * 8, "wrong", (0.0, 0.0, 0.0)),
        (["It is 18"] * 8, "no_answer", (0.0, 0.0, 1.0)),
        (["It is"] * 7 + ["The answer is $18.00."], "correct", (1.0, 0.125, 1.0)),
        (["The answer is 18. Q 3"] * 8, "correct", (1.0, 1.0, 0.0)),
        (["The answer is 3.", "The answer is 18."] * 4, "wrong", (0.0, 0.5, 0.0)),
    ],
)
def test_gsm8k_votes_over_strict_numbers_and_records_flexible_ones(replies, outcome, metrics):
    """The strict vote is the cell; the flexible vote and the single samples stand beside it."""
    (judged,) = vote_on_numbers([replies], ["She makes 9 * 2 = 18.\n#### 18"])

    assert outcome == judged.verdict.outcome
    assert dict(zip(["maj@8", "maj@1", "maj@8_flexible"], metrics, strict=True)) == judged.metrics


def test_a_question_without_samples_has_no_answer(checker):
    """No samples, no vote, and no division by zero."""
    assert vote_on_formulas([[]], ["1"], checker)[0].verdict.outcome is Outcome.NO_ANSWER
    assert {0.0} == set(vote_on_numbers([[]], ["1"])[0].metrics.values())
