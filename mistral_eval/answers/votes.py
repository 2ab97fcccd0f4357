"""Majority votes over classes of equivalent answers (maj@k).

Source: Wang et al. 2022 (self-consistency); the rules for classes and ties are protocol rules.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Vote(Generic[T]):
    """What a vote came to.

    Attributes:
        winner: Representative of the largest class; None when no sample could be read.
        classes: Sample indices of each class, in order of appearance; the first index of a class
            is its representative.
    """

    winner: T | None
    classes: tuple[tuple[int, ...], ...]

    @property
    def count(self) -> int:
        """How many samples voted for the winner."""
        return max((len(members) for members in self.classes), default=0)


def vote(answers: Sequence[T | None], equal: Callable[[T, T], bool]) -> Vote[T]:
    """Let the samples of one question vote.

    An answer joins the first class whose representative it equals (equivalence of formulas is not
    transitive, so the order of the samples is part of the rule). Ties go to the class that
    appeared first. None is a reply from which nothing was read: it does not vote.

    Args:
        answers: One answer per sample, in sample order.
        equal: Whether a representative (first argument) and an answer (second) are equivalent.
    """
    representatives: list[T] = []
    classes: list[list[int]] = []
    for index, answer in enumerate(answers):
        if answer is None:
            continue
        for representative, members in zip(representatives, classes, strict=True):
            if equal(representative, answer):
                members.append(index)
                break
        else:
            representatives.append(answer)
            classes.append([index])
    if not classes:
        return Vote(None, ())
    largest = max(range(len(classes)), key=lambda place: len(classes[place]))
    return Vote(representatives[largest], tuple(tuple(members) for members in classes))
