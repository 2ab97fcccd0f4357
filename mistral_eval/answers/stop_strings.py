"""Truncate generated text at its stop strings."""

from collections.abc import Iterable


def cut(text: str, until: Iterable[str]) -> str:
    """Return the text before the first occurrence of any stop string."""
    ends = [place for stop in until if stop and (place := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text
