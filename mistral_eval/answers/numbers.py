"""Numbers in replies: read the answer and compare it exactly, as text, without floats.

`strict` extracts the number after "The answer is", the format of Wei et al. 2022's
chain-of-thought prompt; `flexible` extracts the last number of the reply, like lm-eval's filter
of that name.
"""

import re
from collections import deque
from fractions import Fraction
from itertools import islice, pairwise
from typing import Literal, TypeAlias

from mistral_eval.answers.verdict import Outcome, Verdict

Mode: TypeAlias = Literal["strict", "flexible"]

TRIGGER = "The answer is"
# Longer fractions are compared as text: Python limits the digits that it converts to an integer.
MAX_FRACTION_DIGITS = 1000

_SIGN = r"(?:(?<![0-9A-Za-z.)\]])[-\u2212+])?"
_CURRENCY = r"(?:\\?[$\u20ac\u00a3\u00a5]\s?(?P<inner>-?))?"
_WHOLE = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_DECIMALS = rf"(?:{_WHOLE}(?:\.[0-9]+)?|(?<![0-9])\.[0-9]+)"
# 3/4 and 2 1/2 are one number each. Bounded spaces keep the search linear.
NUMBER = re.compile(
    rf"(?P<sign>{_SIGN}){_CURRENCY}(?:(?P<mixed>[0-9]+) (?=[0-9]+/))?(?P<digits>{_DECIMALS})"
    r"(?: ?/ ?(?P<below>[0-9]+)(?![0-9.,]*[0-9]))?"
)
# An equals sign between a value, with up to three unit words (`3 days =`), and a number.
_CLAUSE = "and as because if is since so that then therefore thus when where which with"
_UNIT = rf"(?!(?:{_CLAUSE.replace(' ', '|')})\b)[A-Za-z][A-Za-z'-]{{1,20}}"
_EQUATION = re.compile(
    rf"[0-9%)\]](?:[\s/]{{0,3}}{_UNIT}(?:[\s/]{{1,3}}{_UNIT}){{0,2}})?\s{{0,3}}=\s{{0,3}}"
    r"(?=\*{0,3}[-\u2212+$\u20ac\u00a3\u00a5\\.0-9])"
)


def strict(text: str) -> str | None:
    """Return the number after the first "The answer is", normalised; None if there is none.

    The first occurrence counts: replies are truncated at `Q:` and at a blank line, so anything
    after the first answer is run-on text. Only the rest of that line is read, and of an equation
    (`21 - 15 = 6`, `$4 x 3 days = $12`) the last side that is a single number.
    """
    _, found, rest = text.partition(TRIGGER)
    if not found:
        return None
    line = rest.lstrip(" \t\r\n:").partition("\n")[0]
    first = NUMBER.search(line)
    if first is None:
        return None
    sentence = re.split(r"\.(?:\s|$)", line[first.start() :], maxsplit=1)[0]
    sides = _sides(sentence)
    single = (_only_number(side) for side in reversed(sides))
    stated = next((number for number in single if number), None)
    return _text_of(stated or NUMBER.search(sides[-1]) or first)


def _sides(sentence: str) -> list[str]:
    """Return the sides of an equation, the whole sentence if it is none."""
    starts = [match.end() for match in _EQUATION.finditer(sentence)]
    return [sentence[a:b] for a, b in pairwise([0, *starts, len(sentence)])]


def _only_number(side: str) -> re.Match[str] | None:
    """Return the number of a side; None if it has none, or more than one."""
    found = list(islice(NUMBER.finditer(side), 2))
    return found[0] if len(found) == 1 else None


def flexible(text: str) -> str | None:
    """Return the last number of the reply, normalised; None if there is none."""
    last = deque(NUMBER.finditer(text), maxlen=1)
    return _text_of(last[0]) if last else None


def normalise(text: str) -> str | None:
    """Return the canonical text of the first number in `text`; None if there is none.

    The canonical text has no sign but a minus, no currency sign, separators or unit, and no
    leading or trailing zeros.
    """
    number = NUMBER.search(text)
    return None if number is None else _text_of(number)


def equal(a: str, b: str) -> bool:
    """Return whether two texts hold the same number; without numbers, whether they are the same."""
    left, right = normalise(a), normalise(b)
    if left is None or right is None:
        return left is right and a.strip() == b.strip()
    if left == right:
        return True
    if "/" not in left + right or max(len(left), len(right)) > MAX_FRACTION_DIGITS:
        return False
    return _fraction(left) == _fraction(right) is not None


def match_number(text: str, gold: str, mode: Mode) -> Verdict:
    """Compare the number that a reply gives, extracted in `mode`, with the gold number."""
    answer = strict(text) if mode == "strict" else flexible(text)
    if answer is None:
        sought = f"number after {TRIGGER!r}" if mode == "strict" else "number"
        return Verdict(Outcome.NO_ANSWER, None, f"the reply has no {sought}")
    if equal(answer, gold):
        return Verdict(Outcome.CORRECT, answer, f"equals the gold answer {gold}")
    return Verdict(Outcome.WRONG, answer, f"differs from the gold answer {gold}")


def _text_of(number: re.Match[str]) -> str:
    """Return a matched number's canonical text: `-1234.5`, `3/4`, `2 1/2` as `5/2`."""
    minus = (number["sign"] or number["inner"]) in {"-", "\u2212"}
    whole, _, decimals = number["digits"].replace(",", "").partition(".")
    text = whole.lstrip("0") or "0"
    if decimals.rstrip("0"):
        text += "." + decimals.rstrip("0")
    if number["below"]:
        text = _over(text, number["below"].lstrip("0") or "0", number["mixed"])
    return "-" + text if minus and text != "0" else text


def _over(above: str, below: str, mixed: str | None) -> str:
    """Return `above/below`, adding the whole part of a mixed number."""
    if mixed is None or "." in above or len(above + below + mixed) > MAX_FRACTION_DIGITS:
        return f"{above}/{below}"
    return f"{int(mixed) * int(below) + int(above)}/{below}"


def _fraction(text: str) -> Fraction | None:
    """Return the value of a canonical number; None for a zero denominator."""
    above, _, below = text.partition("/")
    if below and int(below) == 0:
        return None
    return Fraction(above) / Fraction(below or "1")
