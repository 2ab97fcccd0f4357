"""F1 over words against several references, as QuAC's authors compute it."""

from statistics import fmean

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from mistral_eval.answers.overlap import (
    HELM_SYNONYMS,
    NO_ANSWER,
    overlap,
    references,
    says_no_answer,
    word_f1,
    words,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Beatles, in 1962!", ["beatles", "in", "1962"]),
        ("a man's  dog", ["mans", "dog"]),
        ("theatre", ["theatre"]),
        ("“quoted”", ["“quoted”"]),  # the authors remove ASCII punctuation only
        ("the a an", []),
    ],
)
def test_words_are_those_of_squad_s_script(text, expected):
    assert words(text) == expected


@pytest.mark.parametrize(
    ("reply", "reference", "expected"),
    [
        ("carried cattle", "carried cattle", 1.0),
        ("The cattle.", "cattle", 1.0),
        ("carried cattle", "he carried white cattle", 2 / 3),  # precision 1, recall 1/2
        ("cattle cattle", "cattle", 2 / 3),  # a word counts as often as both have it
        ("horse", "cattle", 0.0),
        ("", "cattle", 0.0),
        ("the", "a", 0.0),
    ],
)
def test_f1_of_words(reply, reference, expected):
    assert word_f1(reply, reference) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([NO_ANSWER], [NO_ANSWER]),
        ([NO_ANSWER, *HELM_SYNONYMS], [NO_ANSWER]),
        (["x", NO_ANSWER], [NO_ANSWER]),  # as frequent as spans
        (["x", NO_ANSWER, NO_ANSWER, "y"], [NO_ANSWER]),
        (["x", NO_ANSWER, "y"], ["x", "y"]),
        (["x", "", "y"], ["x", "y"]),
        (["Do not know"], ["Do not know"]),  # a span of the passage, not HELM's synonym
    ],
)
def test_the_majority_decides_whether_there_is_an_answer(given, kept):
    assert references(given) == kept


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("CANNOTANSWER", True),
        ("cannotanswer.", True),
        ("Cannot answer", True),
        ("Not enough information.", True),
        ("I cannot answer that", False),
        ("", False),
    ],
)
def test_how_a_reply_says_that_there_is_no_answer(reply, expected):
    assert says_no_answer(reply) == expected


def test_each_reference_is_left_out_in_turn():
    """Scores 1, 1/2 and 0 give the means of max(1/2, 0), max(1, 0) and max(1, 1/2)."""
    found = overlap("red fox", ["red fox", "red dog", "grey owl"])
    assert found.f1 == pytest.approx((0.5 + 1 + 1) / 3)
    assert found.best == 1.0
    assert found.human == pytest.approx((0.5 + 0.5 + 0) / 3)  # each with the nearest other
    assert not found.is_kept  # below 0.4
    assert found.is_human


def test_one_reference_is_not_left_out():
    found = overlap("red fox", ["red dog"])
    assert (found.f1, found.best, found.human) == (0.5, 0.5, 1.0)
    assert found.is_kept
    assert not found.is_human


def test_no_answer_equals_only_itself():
    assert overlap("CANNOTANSWER", [NO_ANSWER]).f1 == 1.0
    assert overlap("cannot answer it", [NO_ANSWER]).f1 == 0.0
    assert overlap("CANNOTANSWER", ["a span"]).f1 == 0.0


@pytest.mark.parametrize("given", [["a b", "a c"], ["x", "y", "z"], ["one two three"]])
def test_repeating_any_reference_is_as_good_as_a_person(given):
    """A person's F1 is the mean over persons; one of them, on all others, is not below it."""
    for reference in given:
        assert overlap(reference, given).f1 >= overlap(reference, given).human
        assert overlap(reference, given).best == 1.0


def test_a_reply_without_a_shared_word_is_never_as_good_as_a_person():
    """References that share nothing have a human F1 of 0, which any reply would reach."""
    found = overlap("xyzzy", ["x", "y"])
    assert (found.f1, found.human, found.is_human) == (0.0, 0.0, False)


@drawn(st.text(st.characters(codec=None)), st.lists(st.text(min_size=1), min_size=1, max_size=4))
def test_any_text_gets_a_score(reply, given):
    found = overlap(reply, given)
    assert 0 <= found.f1 <= found.best <= 1
    assert 0 <= found.human <= 1


def test_f1_lies_below_the_best_by_what_is_left_out():
    given = ["a b c", "a b", "c"]
    found = overlap("a b c", given)
    scores = sorted((word_f1("a b c", reference) for reference in given), reverse=True)
    assert found.f1 == pytest.approx(fmean([scores[1], scores[0], scores[0]]))
