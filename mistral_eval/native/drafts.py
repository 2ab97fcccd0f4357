"""Draft tokens: propose a reply's next ones from what it repeats, so that a step can give several.

Speculative decoding without a second model (n-gram lookup): a forward pass with few rows takes as
long as reading the weights, so it computes draft tokens beside the next one. A draft token is
accepted only if it is the token that is drawn at its place, and draws depend on nothing else, so
replies stay what they are. Long replies, which run alone at the end of a benchmark, are often
loops.
"""

from collections.abc import Sequence
from typing import Final

_LENGTH: Final = 2  # tokens that must have occurred before
_FIRST: Final = 1  # tokens proposed at first; twice as many after each draft that was accepted
_MOST: Final = 16


class NgramProposer:
    """Proposes draft tokens for one reply."""

    def __init__(self) -> None:
        self._behind: dict[tuple[int, ...], int] = {}  # tokens -> the last place behind them
        self._indexed = _LENGTH
        self._many = _FIRST

    def propose(self, ids: Sequence[int], most: int) -> list[int]:
        """Return up to `most` tokens that may come after `ids`, the reply so far; often none."""
        for end in range(self._indexed, len(ids)):  # the last tokens have nothing behind them yet
            self._behind[tuple(ids[end - _LENGTH : end])] = end
        self._indexed = max(self._indexed, len(ids))
        place = self._behind.get(tuple(ids[-_LENGTH:]))
        if place is None:
            return []
        period = len(ids) - place  # a draft longer than the loop goes round it again
        return [ids[place + n % period] for n in range(min(most, self._many))]

    def learn(self, drafted: int, accepted: int) -> None:
        """Take how many tokens were proposed, and how many of them were accepted."""
        if drafted:
            is_whole = accepted == drafted
            self._many = min(2 * self._many, _MOST) if is_whole else max(1, self._many // 2)


def shortened(drafts: Sequence[list[int]], room: int) -> list[list[int]]:
    """Cut the longest drafts until all together have at most `room` tokens; of equals the last."""
    most = max(map(len, drafts), default=0)
    while most and sum(min(len(draft), most) for draft in drafts) > room:
        most -= 1
    cut = [draft[:most] for draft in drafts]
    left = room - sum(map(len, cut))
    for n, draft in enumerate(drafts):
        if left > 0 and len(draft) > most:
            cut[n] = draft[: most + 1]
            left -= 1
    return cut
