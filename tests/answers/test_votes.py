"""A majority vote over equivalence classes, in sample order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistral_eval.answers.votes import Vote, vote


def near(a: int, b: int) -> bool:
    """An equivalence that is not transitive: 1 ~ 2 ~ 3, but not 1 ~ 3."""
    return abs(a - b) <= 1


@pytest.mark.parametrize(
    ("answers", "winner", "classes"),
    [
        (["4", "5", "5"], "5", ((0,), (1, 2))),
        (["4", "5", "5", "4"], "4", ((0, 3), (1, 2))),
        ([None, "5", None, None], "5", ((1,),)),
        ([None, None], None, ()),
        ([], None, ()),
        (["", None, ""], "", ((0, 2),)),
    ],
)
def test_the_largest_class_wins_and_the_first_of_equals(answers, winner, classes):
    """The most frequent answer wins; ties go to the first class; None does not vote."""
    assert Vote(winner, classes) == vote(answers, str.__eq__)


@pytest.mark.parametrize(
    ("answers", "classes"),
    [([1, 2, 3], ((0, 1), (2,))), ([2, 1, 3], ((0, 1, 2),)), ([3, 1, 2], ((0, 2), (1,)))],
)
def test_an_answer_joins_the_first_class_whose_representative_it_equals(answers, classes):
    """Only the representative is asked, so the order of samples decides."""
    assert classes == vote(answers, near).classes


def largest(result: Vote[int]) -> int:
    """The size of the largest class."""
    return max(map(len, result.classes), default=0)


@given(st.lists(st.one_of(st.none(), st.integers(0, 9)), max_size=12))
def test_every_readable_sample_is_in_exactly_one_class(answers):
    """The classes partition the readable samples, and the winner's class is a largest one."""
    result = vote(answers, near)
    members = sorted(index for group in result.classes for index in group)

    assert [i for i, answer in enumerate(answers) if answer is not None] == members
    winners = [answers[group[0]] for group in result.classes if len(group) == largest(result)]
    assert result.winner == (winners[0] if winners else None)
