"""Read which of two answers a judge prefers, and combine the two orders.

A judge prefers the answer that it sees first more often than it should (Zheng et al. 2023, section
3.4), so each pair is judged in both orders and a win counts only if both orders agree on it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from mistral_eval.stats import Interval, clustered_mean


class Winner(StrEnum):
    """Winner of one game, in FastChat's words."""

    FIRST = "model_1"
    SECOND = "model_2"
    TIE = "tie"
    ERROR = "error"


class Orders(StrEnum):
    """What the two games of a pair say together."""

    CONSISTENT = "consistent"
    CONTRADICTORY = "contradictory"
    HALF_TIE = "half a tie"
    UNREAD = "unread"


_EXCHANGED: Final = {Winner.FIRST: Winner.SECOND, Winner.SECOND: Winner.FIRST}


def read_winner(text: str, *, exchanged: bool = False) -> Winner:
    """Return the winner that a judgment names: `[[A]]`, `[[B]]` or, for a tie, `[[C]]`.

    As in FastChat, a text that holds several of them is read in the order A, B, C.

    Args:
        text: The judge's text.
        exchanged: Assistant A was the second model.
    """
    marks = (("[[A]]", Winner.FIRST), ("[[B]]", Winner.SECOND), ("[[C]]", Winner.TIE))
    winner = next((winner for mark, winner in marks if mark in text), Winner.ERROR)
    return _EXCHANGED.get(winner, winner) if exchanged else winner


def compare_orders(first: Winner, second: Winner) -> Orders:
    """Return whether the two orders agree, contradict each other, or one alone is a tie."""
    if Winner.ERROR in (first, second):
        return Orders.UNREAD
    if first is second:
        return Orders.CONSISTENT
    return Orders.HALF_TIE if Winner.TIE in (first, second) else Orders.CONTRADICTORY


def pair_winner(first: Winner, second: Winner) -> Winner:
    """Return a pair's winner: both orders name it, or else it is a tie; unread stays an error."""
    if Winner.ERROR in (first, second):
        return Winner.ERROR
    return first if first is second else Winner.TIE


def count_orders(games: Iterable[tuple[Winner, Winner]]) -> dict[Orders, int]:
    """Count the pairs by what their two orders say together; every kind is in the result."""
    found = Counter(compare_orders(first, second) for first, second in games)
    return {kind: found[kind] for kind in Orders}


def count_winners(games: Iterable[tuple[Winner, Winner]]) -> dict[Winner, int]:
    """Count the pairs by winner, where only consistent wins count; every kind is in the result."""
    found = Counter(pair_winner(first, second) for first, second in games)
    return {kind: found[kind] for kind in Winner}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models' answers to one turn: who won with the first model as A, and who as B."""

    question_id: int
    turn: int
    games: tuple[Winner, Winner]


@dataclass(frozen=True, slots=True)
class PairScore:
    """How often the first model's answer is preferred.

    Attributes:
        wins: Pairs that it wins in both orders.
        losses: Pairs that it loses in both orders.
        ties: All other pairs with two readable judgments.
        unread: Pairs of which a judgment could not be read; they are in no other count.
        orders: What the two orders say together; every kind is in it.
        questions: Questions with a readable pair.
        share: Wins and half of the ties in percent of these pairs, with an interval over questions,
            whose turns are one cluster; None if no pair could be read. 50 is no preference.
    """

    wins: int
    losses: int
    ties: int
    unread: int
    orders: dict[Orders, int]
    questions: int
    share: Interval | None


_POINTS: Final = {Winner.FIRST: 100.0, Winner.SECOND: 0.0, Winner.TIE: 50.0}


def score_pairs(pairs: Sequence[Pair]) -> PairScore:
    """Count the pairs, and return the first model's share with its interval over questions."""
    winners = count_winners(pair.games for pair in pairs)
    found = [(pair.question_id, pair_winner(*pair.games)) for pair in pairs]
    read = [(question, winner) for question, winner in found if winner is not Winner.ERROR]
    share = None
    if read:
        points = [_POINTS[winner] for _, winner in read]
        share = clustered_mean(points, [question for question, _ in read], bounds=(0.0, 100.0))
    return PairScore(
        winners[Winner.FIRST],
        winners[Winner.SECOND],
        winners[Winner.TIE],
        winners[Winner.ERROR],
        count_orders(pair.games for pair in pairs),
        len({question for question, _ in read}),
        share,
    )
