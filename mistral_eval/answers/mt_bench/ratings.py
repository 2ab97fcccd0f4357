"""Read the rating from a judge's text, by our rule and by FastChat's.

A text without a rating is not a low rating: the value is None, with the reason. FastChat stores -1
for it, which `official_mean` in `means` can count as the first leaderboard did.

Ours, in order:

1. An empty text, or FastChat's `$ERROR$`, is a failed call: judge again. Of a judge that reasons
   aloud, what stands before `</think>` is not read.
2. The values in double brackets are collected: `[[7]]`, `[[8.5]]`, `[[7/10]]`, `[[rating: 7]]`.
   Code blocks count only if no other text holds one. One value is the rating. Of several, the last
   that stands alone on a "Rating: [[x]]" line is it, or else the first: what follows is mostly a
   hypothetical better answer.
3. A list such as `[[5, 1, 3]]` is no rating.
4. Otherwise looser forms are read outside code blocks, and marked as a fallback.
5. A value outside 1 to 10 is no rating.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from mistral_eval.answers.verdict import after_reasoning

FAILED_CALL: Final = "$ERROR$"
LOWEST: Final = 1.0
HIGHEST: Final = 10.0

_NUMBER: Final = r"(?P<value>\d{1,9}(?:\.\d{0,9})?)"
_OF_TEN: Final = r"(?: ?(?:/|out of) ?10)?"
_OPEN: Final = r"\\?\[\\?\["
_CLOSE: Final = r"\\?\]\\?\]"
_DOUBLE: Final = re.compile(
    rf"{_OPEN} ?\*{{0,2}}(?:(?:rating|score) ?:? ?)?{_NUMBER}{_OF_TEN}\*{{0,2}} ?{_CLOSE}",
    re.IGNORECASE,
)
_LIST: Final = re.compile(r"\[\[ ?\d{1,9}(?:\.\d{0,9})?(?: ?[,;] ?\d{1,9}(?:\.\d{0,9})?)+ ?\]\]")
_ON_RATING_LINE: Final = re.compile(
    r"^[^\w\[\]\n]{0,9}(?:[a-z]{1,12} ){0,2}(?:rating|score)(?: \([^()\[\]\n]{1,40}\))?"
    rf"[^\w\[\]]{{0,9}}{_OPEN}[^\[\]\n]{{0,30}}{_CLOSE}(?: ?/ ?10)?[^\w\n]{{0,9}}$",
    re.IGNORECASE | re.MULTILINE,
)
_CODE: Final = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_EXAMPLE: Final = re.compile(r'for example: "Rating: \[\[5\]\]"')

_SINGLE: Final = rf"\[ ?{_NUMBER}{_OF_TEN} ?\]"
_RATE: Final = r"\b(?:rat(?:e|ed|es|ing)|scor(?:e|ed|es|ing))\b"
_FALLBACKS: Final[Sequence[tuple[str, re.Pattern[str]]]] = tuple(
    (words, re.compile(pattern, re.IGNORECASE | re.MULTILINE))
    for words, pattern in (
        (
            "a number after [[Rating]]",
            rf"\[\[(?:rating|score)\]\][^\w\n]{{0,5}}{_NUMBER}(?![\d.]*\w)",
        ),
        ("single brackets alone on a line", rf"^[^\w\[\]\n]{{0,5}}{_SINGLE}[^\w\n]{{0,5}}$"),
        (
            "single brackets after a word for rating",
            rf"{_RATE}[^\n\d\[]{{0,40}}\[{{1,2}} ?{_NUMBER}{_OF_TEN} ?\]",
        ),
        ("a number out of 10", rf"(?<![\w.,/-]){_NUMBER} out of 10\b(?!\.\d)"),
    )
)
_FASTCHAT: Final = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))


@dataclass(frozen=True, slots=True)
class Rating:
    """A rating from 1 to 10, or None with the reason.

    Attributes:
        value: The rating; half points are real.
        reason: Where it was read, or why there is none.
        fallback: It was not in double brackets, so the judge did not follow the format.
        failed_call: The judge did not answer; a new call may.
    """

    value: float | None
    reason: str
    fallback: bool = False
    failed_call: bool = False


@dataclass(frozen=True, slots=True)
class Difference:
    """A text that the two rules read differently, by its place among the texts."""

    index: int
    ours: Rating
    fastchat: Rating


def read_rating(text: str) -> Rating:
    """Return the rating by our rule, which the module's docstring gives."""
    if _failed(text):
        return Rating(None, "the judge did not answer", failed_call=True)
    text = _EXAMPLE.sub("", after_reasoning(text))
    prose = _CODE.sub("\n", text)
    for part in (prose, text):
        found = list(_DOUBLE.finditer(part))
        if found:
            return _within_scale(*_choose(found, part))
    if _LIST.search(prose):
        return Rating(None, "a list stands where the rating should")
    for words, pattern in _FALLBACKS:
        found = list(pattern.finditer(prose))
        if found:
            value = float(found[0]["value"])
            return _within_scale(value, f"read from {words}", fallback=True)
    return Rating(None, "the text holds no rating")


def read_fastchat_rating(text: str) -> Rating:
    """Return the rating by FastChat's rule: the first [[x]], else the first [x], on any scale."""
    for pattern, words in zip(_FASTCHAT, ("[[x]]", "[x]"), strict=True):
        if found := pattern.search(text):
            return Rating(float(found[1]), f"the first {words}", fallback=words == "[x]")
    return Rating(None, "no number in brackets", failed_call=_failed(text))


def differences(texts: Iterable[str]) -> tuple[Difference, ...]:
    """Return the texts that the two rules read as different values."""
    both = ((read_rating(text), read_fastchat_rating(text)) for text in texts)
    return tuple(
        Difference(index, ours, theirs)
        for index, (ours, theirs) in enumerate(both)
        if ours.value != theirs.value
    )


def _failed(text: str) -> bool:
    return not text.strip() or text.strip().startswith(FAILED_CALL)


def _choose(found: Sequence[re.Match[str]], text: str) -> tuple[float, str]:
    """Return the value that counts among those in double brackets, and why."""
    values = [float(one["value"]) for one in found]
    if len(set(values)) == 1:
        return values[0], "the value in double brackets"
    lines = [line.span() for line in _ON_RATING_LINE.finditer(text)]
    alone = [
        value
        for value, one in zip(values, found, strict=True)
        if any(start <= one.start() and one.end() <= end for start, end in lines)
    ]
    if alone:
        return alone[-1], "the last of several that stands alone on a line for the rating"
    return values[0], "the first of several values in double brackets"


def _within_scale(value: float, reason: str, *, fallback: bool = False) -> Rating:
    if LOWEST <= value <= HIGHEST:
        return Rating(value, reason, fallback)
    return Rating(None, f"{value:g} lies outside 1 to 10", fallback)
