r"""Remove what a reply puts around an answer: markdown, words after it, ordinals, a choice letter.

These forms are not mathematics, so the grammar does not know them. Each function recognises one
form by its whole shape and leaves every other text alone: in `6abc` the letters are variables, in
`5 million` and `6 or more` the words change the value.
"""

import re
from collections.abc import Iterator

from mistral_eval.answers.latex.tokens import FUNCTIONS

MAX_WORDS = 12  # after an answer; more is a sentence of its own
# Words after a number that change it, or continue the answer.
_CHANGING = frozenset(
    "hundred hundreds thousand thousands million millions billion billions trillion trillions "
    "dozen dozens score gross half halves third thirds fourth fourths fifth fifths sixth sixths "
    "seventh sevenths eighth eighths ninth ninths tenth tenths eleventh elevenths twelfth twelfths "
    "sixteenth sixteenths twentieth twentieths hundredth hundredths thousandth thousandths "
    "millionth millionths billionth billionths twice thrice halved doubled tripled quadrupled "
    "squared cubed factorial plus minus less "
    "more greater fewer than above below over under up or nor not no none if unless when where "
    "is are was be equals mod modulo base pi infinity infinite zero one two three four five six "
    "seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen twenty thirty forty fifty sixty seventy eighty ninety both either neither degree "
    "degrees radian radians choose am pm".split()
)
_SHORT = frozenset("a an at by in of on to".split())  # with fewer than three letters, yet words
_MARKS = re.compile(
    r"(?<![\w)}\]^])(?P<mark>\*{1,3}|__|`)(?=[^\s*_`])(?P<inner>[^*`]*[^\s*`])(?P=mark)(?![\w({\[])"
)
_LOOSE = re.compile(r"^(?:\*\*|__)(?!\w*\*)\s*|(?<!\^)(?:\*\*|__)$")
_PROSE = r"\(?[A-Za-z][A-Za-z\s.,;:'\u2019()!?-]*"
_AFTER_FORMULA = re.compile(
    rf"(?P<value>.*(?:(?<!\\)\$|\\\)|\\\]))\s*-?\s*(?P<prose>{_PROSE})", re.DOTALL
)
_AFTER_NUMBER = re.compile(
    rf"(?P<value>.*[0-9}}%)])(?:[\s~-]|\\[ ,;:])+(?P<prose>{_PROSE})", re.DOTALL
)
_WHOLE = re.compile(r"\$([^$]*)(?<!\\)\$")
_COMMANDS = re.compile(r"\\(?:text|mathrm|mbox|textbf)\s*\{[^{}]*\}|\\[A-Za-z]+")
_NAMED = re.compile(r"^\s*[A-Za-z]\s*=")
_ORDINAL = re.compile(
    r"(?<=[0-9])(?:(?<!\\)\$)?\s?\^?\s?\{?\s?(?:\\(?:text|textrm|mathrm|mbox)\s?\{\s?)?"
    r"(?:st|nd|rd|th)(?![A-Za-z])(?:\s?\}){0,2}"
)
_FONT = r"(?:\\(?:text|textbf|textrm|mathrm|mathbf|mbox)\s*\{\s*)"
_LABEL = re.compile(
    rf"{_FONT}?(?:\((?P<round>[A-Z])\)|(?P<bare>[A-Z])\s?\}}?(?:\)|[.:](?=[\s}}~\\])))"
    r"(?P<gap>[\s}~.:]|\\[ ,;])*"
    rf"(?P<rest>-?(?:[0-9.]|{_FONT}|\\(?:[dt]?frac|sqrt|pi)|[A-Za-z]).*)",
    re.DOTALL,
)
_GROUP = re.compile(r"[(\[{][^()\[\]{}]*[)\]}]")  # an innermost one
# Outside of groups: a list, or a relation that is not equality.
_NO_EQUATION = re.compile(
    r"[,;<>!:]|\\(?:n?leq?|n?geq?|neq?|approx|equiv|sim|in|to|pm|mp|cup|cap|quad|implies|mid|iff)\b"
)
_SEVERAL = re.compile(r"\b(?:or|and|if)\b")
_LETTER = re.compile(rf"{_FONT}?\(?{_FONT}?([A-Z])\}}?\)?\}}?")
_JOINED = re.compile(r"(?:and|or)\b|.*\([A-Z]\)|.*\b[A-Z][.)](?:\s|$)", re.DOTALL)


def without_markdown(text: str) -> str:
    """Return the text without the stars, underlines and backticks of emphasis.

    The stars of a product or power stand between two values and stay: `2**10`, `a*b*c`.
    """
    text = _MARKS.sub(r"\g<inner>", text.strip())
    return _LOOSE.sub("", text).strip()


def choice(text: str) -> str | None:
    r"""Return the letter if the text is one capital letter, as golds of choices are."""
    letter = _LETTER.fullmatch(text.replace("$", "").strip(" ."))
    return letter[1] if letter else None


def labelled(text: str) -> tuple[str, str] | None:
    r"""Return letter and text of a choice (`\text{(B)}\ 12`, `B. Saturday`); None if it is none.

    Two choices (`(A) and (B)`) and formulas (`(A)(B)`, `(A)+1`) are none.
    """
    bare = re.sub(r"(?<!\\)\$", "", text).strip()
    found = _LABEL.fullmatch(bare)
    if found is None or _JOINED.match(found["rest"]):
        return None
    if found["gap"] is None and not bare.startswith("\\"):
        return None  # (A)x is a product
    rest = found["rest"].strip()
    return found["round"] or found["bare"], rest.rstrip("}") if "{" not in rest else rest


def last_side(text: str) -> str | None:
    r"""Return the last side of an equation; None if the text is none, or more than one.

    It is for first sides that the grammar does not know: `\gcd(6,9)=3`.

    Args:
        text: a normal form.
    """
    outer = text
    while (bare := _GROUP.sub(lambda group: "_" * len(group[0]), outer)) != outer:
        outer = bare
    at = outer.rfind("=")
    if at < 0 or _NO_EQUATION.search(outer) or _SEVERAL.search(text):
        return None
    return text[at + 1 :].strip()


def undressed(text: str) -> Iterator[str]:
    """Yield the answer without its ordinal suffix or the words after it, if it has any."""
    plain = _ORDINAL.sub(_closing, text)
    if plain != text:
        yield plain
    value = _without_words(plain)
    if value is not None:
        yield value


def _closing(suffix: re.Match[str]) -> str:
    """Keep the dollar sign that an ordinal's suffix follows: `$12$th`."""
    return "$" if suffix[0].startswith("$") else ""


def _without_words(text: str) -> str | None:
    """Return the value before the final words; None if the text has no such words."""
    text = text.strip().rstrip(" .,;:")
    found = _AFTER_FORMULA.fullmatch(text)
    if found:
        return found["value"] if _is_prose(found["prose"], sure=True) else None
    whole = _WHOLE.fullmatch(text)
    found = _AFTER_NUMBER.fullmatch(whole[1] if whole else text)
    if found is None or not _is_prose(found["prose"], sure=False):
        return None
    letters = _COMMANDS.sub("", _NAMED.sub("", found["value"]))
    return None if re.search(r"[A-Za-z]", letters) else found["value"]


def _is_prose(text: str, *, sure: bool) -> bool:
    """Return whether all words are prose that does not change the value.

    Args:
        text: Letters, spaces and punctuation.
        sure: Whether the text stands outside a formula. Elsewhere letters may be variables.
    """
    found = re.findall(r"[A-Za-z]+", re.sub(r"['\u2019]", "", text))
    lowered = [word.lower() for word in found]
    if not 0 < len(found) <= MAX_WORDS or _CHANGING & {*lowered} or FUNCTIONS & {*found}:
        return False
    if any(len(word) == 1 and word != "a" for word in lowered) or lowered[-1] == "a":
        return False
    return sure or _is_word(lowered[0])


def _is_word(word: str) -> bool:
    """Return whether a run of letters after a number is a word and not a product: `abc` is one."""
    if len(word) < 3:
        return word in _SHORT
    return len(word) > 4 or list(word) != sorted(set(word))
