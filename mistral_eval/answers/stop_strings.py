"""Where a generated reply ends."""

from collections.abc import Iterable


def cut(text: str, until: Iterable[str]) -> str:
    """The text before the first of its stops; the stop itself is never shown."""
    ends = [place for stop in until if stop and (place := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text
