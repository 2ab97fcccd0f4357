"""Draft tokens: guess a reply's next ones from what it repeats, so that a step can give several.

Speculative decoding without a second model ("prompt lookup"): a forward pass with few rows takes as
long as reading the weights, so it computes guessed tokens beside the next one. A guess is kept only
if it is the token that is drawn at its place, and draws depend on nothing else, so replies stay
what they are. Long replies, which run alone at the end of a benchmark, are often loops.
"""

from collections.abc import Sequence
from typing import Final

_LENGTH: Final = 4  # tokens that must have occurred before
_FIRST: Final = 2  # tokens guessed at first; twice as many after each guess that was right
_MOST: Final = 16


class Drafts:
    """The guesses for one reply."""

    def __init__(self) -> None:
        self._behind: dict[tuple[int, ...], int] = {}  # tokens -> the last place behind them
        self._indexed = _LENGTH
        self._many = _FIRST

    def guess(self, ids: Sequence[int], most: int) -> list[int]:
        """Return up to `most` tokens that may come after `ids`, the reply so far; often none."""
        for end in range(self._indexed, len(ids)):  # the last tokens have nothing behind them yet
            self._behind[tuple(ids[end - _LENGTH : end])] = end
        self._indexed = max(self._indexed, len(ids))
        place = self._behind.get(tuple(ids[-_LENGTH:]))
        if place is None:
            return []
        period = len(ids) - place  # a guess longer than the loop goes round it again
        return [ids[place + n % period] for n in range(min(most, self._many))]

    def learn(self, guessed: int, right: int) -> None:
        """Take how many tokens were guessed, and how many of them were drawn."""
        if guessed:
            is_right = right == guessed
            self._many = min(2 * self._many, _MOST) if is_right else max(1, self._many // 2)
