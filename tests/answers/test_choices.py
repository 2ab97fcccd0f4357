"""The most likely choice is the answer."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistral_eval.answers import likelihoods as choices
from mistral_eval.answers.verdict import Outcome
from mistral_eval.errors import DataError, EngineError


@pytest.mark.parametrize(
    ("logprobs", "texts", "normalise", "expected"),
    [
        ([-2.0, -1.0, -3.0], ["A", "B", "C"], "none", "B"),
        ([-1.0, -1.0], ["A", "B"], "none", "A"),
        ([-4.0, -6.0], ["ab", "abcd"], "none", "ab"),
        ([-4.0, -6.0], ["ab", "abcd"], "characters", "abcd"),
        ([-2.0, -4.0], ["ab", "abcd"], "characters", "ab"),
        ([-3.0, -4.0], ["\u00e9\u00e9", "abc"], "characters", "abc"),
        ([-math.inf, -9.0], ["A", "B"], "none", "B"),
        ([-math.inf, -math.inf], ["A", "B"], "none", "A"),
    ],
)
def test_the_first_maximum_is_chosen(logprobs, texts, normalise, expected):
    """The likeliest choice, or the likeliest per character, is chosen; the first of equals."""
    assert expected == choices.pick_choice(logprobs, texts, 0, normalise).answer


@pytest.mark.parametrize(
    ("normalise", "alone", "reason"),
    [
        ("none", [], "choice 0 is the most likely of 2; the gold is choice 1"),
        (
            "characters",
            [],
            "choice 1 is the most likely of 2 per character (-2.000, -1.500); the gold is choice 1",
        ),
        (
            "unconditional",
            [-1.0, -7.0],
            (
                "choice 1 is the most likely of 2 relative to its likelihood without the question "
                "(-3.000, 1.000); the gold is choice 1"
            ),
        ),
    ],
)
def test_the_reason_has_the_values_that_decided(normalise, alone, reason):
    """Otherwise the log-likelihoods that `samples` shows seem to contradict it."""
    found = choices.pick_choice([-4.0, -6.0], ["ab", "abcd"], 1, normalise, alone)
    assert found.reason == reason


def test_a_likelihood_is_divided_by_that_without_the_question():
    asked, alone = [-2.0, -3.0, -4.0], [-2.5, -9.0, -4.0]
    chosen = choices.pick_choice(asked, ["A", "B", "C"], 1, "unconditional", alone)
    assert (chosen.answer, chosen.is_correct) == ("B", True)
    with pytest.raises(EngineError, match="lost a request"):
        choices.pick_choice(asked, ["A", "B", "C"], 1, "unconditional")
    with pytest.raises(EngineError, match="finite log-likelihoods without the question"):
        choices.pick_choice(asked, ["A", "B", "C"], 1, "unconditional", [-1.0, -math.inf, -1.0])


@given(st.lists(st.floats(max_value=0, allow_nan=False), min_size=1, max_size=6))
def test_exactly_the_gold_choice_is_correct(logprobs):
    """Over all golds, exactly one makes the question correct."""
    texts = [str(index) for index in range(len(logprobs))]
    verdicts = [choices.pick_choice(logprobs, texts, gold, "none") for gold in range(len(logprobs))]

    assert sum(verdict.outcome is Outcome.CORRECT for verdict in verdicts) == 1


@pytest.mark.parametrize(
    ("logprobs", "texts", "gold", "normalise", "error", "words"),
    [
        ([-1.0], ["A", "B"], 0, "none", EngineError, "lost a request"),
        ([-1.0, math.nan], ["A", "B"], 0, "none", EngineError, "found nan"),
        ([-1.0, -2.0], ["A", "B"], 2, "none", DataError, "found index 2"),
        ([-1.0, -2.0], ["A", ""], 0, "characters", DataError, "found an empty one"),
    ],
)
def test_numbers_that_cannot_be_judged_are_errors(logprobs, texts, gold, normalise, error, words):
    """A missing or broken log-likelihood stops the run instead of costing a point."""
    with pytest.raises(error, match=words):
        choices.pick_choice(logprobs, texts, gold, normalise)
