"""Split an answer in normal form into tokens; text that is not mathematics is an error.

The grammar is deliberately small and our own: no text of a model reaches an evaluator of code.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mistral_eval.answers.latex.nodes import LatexError

FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp".split()
)
GREEK = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi "
    "rho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon "
    "Phi Psi Omega ell hbar pi infty emptyset".split()
)
OPERATORS = {
    "cdot": "*", "times": "*", "ast": "*", "div": "/", "pm": "+-", "mp": "-+", "le": "<=",
    "leq": "<=", "leqslant": "<=", "ge": ">=", "geq": ">=", "geqslant": ">=", "lt": "<", "gt": ">",
    "ne": "!=", "neq": "!=", "in": "in", "cup": "cup", "cap": "cap", "setminus": "minus",
    "backslash": "minus", "approx": "=", "circ": "deg", "degree": "deg", "{": "{set",
    "}": "set}", "lbrace": "{set", "rbrace": "set}", "|": "|", "vert": "|", "lvert": "|",
    "rvert": "|", "lfloor": "floor", "rfloor": "endfloor", "lceil": "ceil", "rceil": "endceil",
    "langle": "(", "rangle": ")", "varnothing": "emptyset", "\\": "row", "frac": "frac",
    "sqrt": "sqrt", "binom": "binom", "dbinom": "binom", "tbinom": "binom",
}  # fmt: skip
STYLES = frozenset("mathbf boldsymbol mathcal mathit mathsf boxed fbox underline bf rm it".split())
TEXTS = frozenset(
    "text textbf textit textrm textnormal mathrm mbox hbox operatorname mathop".split()
)
ACCENTS = frozenset("overline bar vec hat widehat tilde overrightarrow mathbb".split())
UNITS = frozenset(
    "cm mm km ft feet foot inch inches yd yard yards mile miles meter meters metre metres unit "
    "units square cubic sq cu degree degrees dollar dollars cent cents hour hours minute minutes "
    "second seconds day days week weeks month months year years mph kg gram grams gm lb lbs pound "
    "pounds ounce ounces oz liter liters litre litres gallon gallons percent way ways point "
    "points people students per times sec min hr hrs radians rad".split()
)

OPENERS = frozenset({"(", "[", "{set"})
CLOSERS = frozenset({")", "]", "set}"})

_SCANNER = re.compile(
    r"""(?P<space>\s+)
    |(?P<based>(?:[0-9][0-9A-Z]*(?:\.[0-9A-Z]+)?|\.[0-9A-Z]+)\s?_\s?(?:\{\s?[0-9]{1,2}\s?\}|[0-9]))
    |(?P<repeat>[0-9]*\.[0-9]*\\(?:overline|bar)\{[0-9]+\})
    |(?P<thousands>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9]|,[0-9])(?:\.[0-9]+)?)
    |(?P<number>[0-9]+(?:\.[0-9]+)?|\.[0-9]+)
    |\\(?P<command>[A-Za-z]+|[{}|\\%])
    |(?P<letters>[A-Za-z]+)
    |(?P<operator><=|>=|!=|==|[-+*/^_!%'()\[\]{}|,;:=<>&])""",
    re.VERBOSE,
)
_DIGITS = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)")
_GROUP = re.compile(r"\s*\{([^{}]*)\}")
_NAME = re.compile(r"\s*(?:\{\s*)?([A-Z][A-Z']*)(?:\s*\})?")


@dataclass(frozen=True, slots=True)
class Token:
    """One token: `kind` is number, based, repeat, name, word, function, or the operator itself."""

    kind: str
    text: str


def tokens(text: str) -> list[Token]:
    """Split an answer in normal form into tokens.

    Raises:
        LatexError: At the first unknown character or command.
    """
    found: list[Token] = []
    depth = 0  # of parentheses; inside them a comma separates and never groups thousands
    place = seen = 0
    while place < len(text):
        kind, piece, place = _scan(text, place, grouped=depth == 0)
        if kind == "command":
            place = _command(piece, text, place, found)
        else:
            found.extend(_plain(kind, piece))
        for token in found[seen:]:
            depth += (token.kind in OPENERS) - (token.kind in CLOSERS)
        seen = len(found)
    return found


def _scan(text: str, place: int, *, grouped: bool) -> tuple[str, str, int]:
    """Return kind, text and end of the piece at `place`. With `grouped`, 1,000 is one number."""
    match = _SCANNER.match(text, place)
    kind = match.lastgroup if match else None
    refused = (kind == "thousands" and not grouped) or (
        kind == "based" and match is not None and not _is_numeral(match["based"])
    )
    if refused:
        match, kind = _DIGITS.match(text, place), "number"
    if match is None or kind is None:
        raise LatexError(f"unknown character {text[place]!r}")
    return kind, match[kind], match.end()


def _is_numeral(based: str) -> bool:
    """Return whether all digits of `digits_base` are below the base (those of 3A_1 are not)."""
    digits, _, base = based.partition("_")
    highest = int(base.strip(" {}"))
    return all(int(digit, 36) < highest for digit in digits.strip().replace(".", ""))


def _plain(kind: str, text: str) -> Iterator[Token]:
    """Yield the tokens of a piece that is not a command."""
    if kind == "letters":
        yield from _letters(text)
    elif kind == "based":
        digits, _, base = text.partition("_")
        yield Token("based", f"{digits.strip().lstrip('0')}_{base.strip(' {}')}")
    elif kind in {"thousands", "number"}:
        yield Token("number", text.replace(",", ""))
    elif kind == "repeat":
        yield Token("repeat", text)
    elif kind == "operator":
        yield Token("=" if text == "==" else text, text)


def _letters(run: str) -> Iterator[Token]:
    """Yield a run of letters outside text commands as a known word or single-letter names."""
    if run in {"and", "or"}:
        yield Token("or" if run == "or" else ",", run)
    elif run in FUNCTIONS:
        yield Token("function", run)
    elif run == "sqrt":
        yield Token("sqrt", run)
    elif run in {"pi", "infinity", "inf", "infty", "oo"}:
        yield Token("name", "pi" if run == "pi" else "infty")
    elif len(run) > 1 and run.lower() in UNITS:
        yield Token("word", run.lower())
    else:
        yield from (Token("name", letter) for letter in run)


def _command(name: str, text: str, place: int, found: list[Token]) -> int:
    """Append the tokens of the command that ends at `place`; return the offset after it."""
    if name in OPERATORS:
        found.append(Token(OPERATORS[name], name))
    elif name == "%":
        found.append(Token("%", name))
    elif name in GREEK:
        found.append(Token("name", name))
    elif name in FUNCTIONS:
        found.append(Token("function", name))
    elif name in {"angle", "triangle"}:
        return _named(_NAME.match(text, place), name, found)
    elif name in TEXTS or name in ACCENTS or name in {"begin", "end"}:
        group = _GROUP.match(text, place)
        if name in ACCENTS:
            return _named(group, name, found)
        if group is None:
            raise LatexError(f"\\{name} without a group")
        found.extend([Token(name, group[1])] if name in {"begin", "end"} else _words(group[1]))
        return group.end()
    elif name not in STYLES:
        raise LatexError(f"unknown command \\{name}")
    return place


def _named(group: re.Match[str] | None, name: str, found: list[Token]) -> int:
    r"""Append one name (`\angle ABC`, `\overline{CD}`, `\mathbb{R}`); return its end."""
    if group is None:
        raise LatexError(f"\\{name} without a name")
    found.append(Token("name", f"{name} {group[1].strip()}"))
    return group.end()


def _words(text: str) -> Iterator[Token]:
    """Yield the numbers, separators and words inside a text command."""
    for piece in re.findall(r"[0-9]+(?:\.[0-9]+)?|[A-Za-z][A-Za-z.]*|[^\sA-Za-z0-9]", text):
        word = piece.rstrip(".")
        if word in {"and", "or"}:
            yield Token("or" if word == "or" else ",", word)
        elif word in FUNCTIONS:
            yield Token("function", word)
        elif word in {"i", "e"}:
            yield Token("name", word)
        elif word and word[0].isalpha():
            yield Token("word", word if len(word) == 1 else word.lower())
        elif word and word[0].isdigit():
            yield Token("number", word)
        elif word in set("(),;:/-+%"):
            yield Token(word, word)
        elif word:
            raise LatexError(f"unknown character {word!r} in a text")
