r"""Final answers of maths solutions: find one in a reply, and say whether two are equivalent.

Source: the answer format of Minerva's 4-shot prompt (Lewkowycz et al. 2022) and the \boxed answers
of Hendrycks et al. 2021. `docs/scoring.md` says what counts as equal.
"""

import re
from collections import deque
from enum import StrEnum

from mistral_eval.answers.latex.dressing import (
    choice,
    labelled,
    last_side,
    undressed,
    without_markdown,
)
from mistral_eval.answers.latex.grammar import parse
from mistral_eval.answers.latex.nodes import LatexError, Node
from mistral_eval.answers.latex.text import MAX_CHARS, clock, normal_form, words

MAX_ANSWER_CHARS = 20_000
MAX_TRIES = 8  # occurrences of "answer is", from the last one back
MAX_WORDS = 3  # of an answer without a formula or number: "positive, because ..." is prose
_BOX = re.compile(r"\\(?:begin)?(?:boxed|fbox)\s*\{")
_BARE_BOX = re.compile(r"\\boxed\s+([^\s{}$]{1,200})")
_SAID = re.compile(r"[Ff]inal [Aa]nswer is:?")
_PLAIN = re.compile(r"[Aa]nswer is:?")
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
_MATH = re.compile(
    r"\$\$(?:\\+[^\\]|[^$\\])+\$\$|\$(?:\\+[^\\]|[^$\\])+\$|\\\(.+?\\\)|\\\[.+?\\\]", re.DOTALL
)
_FORMAL = re.compile(r"[$\\\\0-9]")
_BOLD = re.compile(r"\*\*[^*\n]{1,2000}\*\*")
_GOES_ON = re.compile(r"\s*(?:,|and|or|, and|, or)\s*\$")


class Equality(StrEnum):
    """Result of comparing two answers; `TIMEOUT` and `FAILED` are set by `MathChecker` only."""

    EQUAL = "equal"
    DIFFERENT = "different"
    TIMEOUT = "timeout"
    FAILED = "failed"


def final_answer(text: str) -> str | None:
    r"""Return the final answer of a reply as LaTeX; None if it states none.

    `\boxed{...}` and `final answer is ...` have equal rank and the last one in the text wins. A
    reply with neither may still state `answer is ...`. An unclosed box (of a reply truncated by the
    token limit) is not an answer.
    """
    found = [*_boxes(text), *_said(text, _SAID)] or _said(text, _PLAIN)
    return max(found)[1] if found else None


def boxed_answer(solution: str) -> str | None:
    r"""Return the content of the last \boxed of a text, as gold solutions have it."""
    boxes = _boxes(solution)
    return max(boxes)[1] if boxes else None


def equal(gold: str, answer: str) -> Equality:
    """Compare two answers in this process, without a time limit; use `MathChecker` for replies.

    The order matters in two cases only: an answer that is an equation is right if the gold is one
    of its sides, and a choice with its text is right if the gold is its letter. Answers outside the
    grammar are compared as text.
    """
    if gold.strip() == answer.strip():
        return Equality.EQUAL
    if max(len(gold), len(answer)) > MAX_CHARS:
        return Equality.DIFFERENT
    gold, answer = without_markdown(gold), without_markdown(answer)
    chosen = labelled(answer)
    letter = choice(gold)
    if chosen and letter:
        return Equality.EQUAL if chosen[0] == letter else Equality.DIFFERENT
    answers = [answer, *undressed(answer)]
    if chosen:
        answers += [chosen[1], *undressed(chosen[1])]
    for wanted in (gold, *undressed(gold)):
        for said in answers:
            found = _compare(wanted, said)
            if found is not None:
                return found
    return Equality.DIFFERENT


def _compare(gold: str, answer: str) -> Equality | None:
    """Compare one reading of each answer; None if another reading may still be equal."""
    gold, answer = normal_form(gold), normal_form(answer)
    said = words(gold), words(answer)
    if gold == answer or (said[0] == said[1] and any(map(str.isalpha, said[0]))):
        return Equality.EQUAL
    times = clock(said[0]), clock(said[1])
    if any(time and time[2] for time in times):
        return Equality.EQUAL if _same_time(*times) else Equality.DIFFERENT
    left, right = _parsed(gold), _parsed(answer)
    if right is None and "=" not in gold and (side := last_side(answer)):
        right = _parsed(side)
    if left is None or right is None:
        return None
    from mistral_eval.answers.latex.equivalence import same  # imports sympy, which is slow

    return Equality.EQUAL if same(left, right) else None


def _parsed(text: str) -> Node | None:
    try:
        return parse(text)
    except LatexError:
        return None


def _same_time(a: tuple[int, int, str] | None, b: tuple[int, int, str] | None) -> bool:
    """Return whether two times of day agree; one of them may omit a.m. or p.m."""
    return (
        a is not None and b is not None and a[:2] == b[:2] and (a[2] == b[2] or not (a[2] and b[2]))
    )


def _boxes(text: str) -> list[tuple[int, str]]:
    """Return the offset and content of every closed box, in one pass over the text."""
    starts = {match.end(): match.start() for match in _BOX.finditer(text)}
    bare = [(match.start(), match[1].rstrip(".,;")) for match in _BARE_BOX.finditer(text)]
    found = [(place, content) for place, content in bare if content]
    if not starts:
        return found
    opened: list[int] = []
    for match in _BRACES.finditer(text, min(starts) - 1):
        if match[0] == "{":
            opened.append(match.end())
        elif match[0] == "}" and opened:
            start = opened.pop()
            content = text[start : match.start()].strip()
            if start in starts and content and len(content) <= MAX_ANSWER_CHARS:
                found.append((starts[start], content))
    return found


def _said(text: str, words_before: re.Pattern[str]) -> list[tuple[int, str]]:
    """Return the offset and text of the last `answer is ...` that is followed by an answer."""
    for match in reversed(deque(words_before.finditer(text), maxlen=MAX_TRIES)):
        rest = text[match.end() : match.end() + MAX_ANSWER_CHARS].lstrip()
        answer, hopes, _ = rest.partition("I hope it is")
        answer = (answer if hopes else _sentence(rest)).strip().rstrip(".,;: ").strip()
        prose = len(answer.split()) > MAX_WORDS and not _FORMAL.search(answer)
        if answer and not prose:
            return [(match.start(), answer)]
    return []


def _sentence(rest: str) -> str:
    """Return the formula or bold text at the start if no list follows, else the first sentence."""
    formula = _MATH.match(rest) or _BOLD.match(rest)
    if formula and not _GOES_ON.match(rest, formula.end()):
        return formula[0]
    return re.split(r"\.(?:\s|$)|\n", rest, maxsplit=1)[0]
