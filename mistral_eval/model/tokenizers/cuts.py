r"""Prove from a pre-tokenizer's regular expressions that a text can be cut before its words.

A *cut* is the index of a space after a non-space. A byte-level BPE merges only within the pieces
into which its expressions split a text, so the two sides of a cut can be encoded apart if every cut
is a border between pieces, and if no piece before a cut depends on what follows it. Both hold if

- no match has a space after a character that is not white space;
- an expression looks beyond a match only where the match ends with white space (`\s+(?!\S)`), which
  no cut follows, and has no anchors and no look-behind;
- one expression matches a space wherever one begins (`\s+`), so that no unmatched text has one.

What this reading does not know, it does not prove.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

# Expressions of known tokenizers: tekken.json, Llama 3's tokenizer.json, and GPT-2, whose
# expression the tokenizers library's ByteLevel uses.
TEKKEN_SPLIT: Final = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA_SPLIT: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2_SPLIT: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_BLACK_CATEGORIES: Final = "LMNPS"  # general categories without white space
_TOKEN: Final = re.compile(
    r"\\[pP]\{\^?(?P<category>\w+)\}|\\(?P<escape>.)|(?P<literal>[^\\])", re.DOTALL
)
_QUANTIFIER: Final = re.compile(r"(?P<count>[?*+]|\{\d+(?:,\d*)?\})(?:[+?])?")
_WHITE_ESCAPES: Final = "rntfv"


class _UnknownError(Exception):
    """The expression has a part that this reading does not know."""


@dataclass(frozen=True, slots=True)
class _Atom:
    """What one part of an alternative can match, and how often.

    Attributes:
        space: whether it can match a space.
        white: whether it can match other white space.
        black: whether it can match anything else.
        least, repeats: whether it matches at least once, and can match several times.
        is_look: it is a negative look-ahead for black, which matches no character.
    """

    space: bool = False
    white: bool = False
    black: bool = False
    least: bool = True
    repeats: bool = False
    is_look: bool = False


def allows_cuts(steps: Any, normalizer: Any) -> bool:
    """Return whether a tokenizer.json's steps allow cuts, for a byte-level BPE.

    Args:
        steps: its `pre_tokenizer`: digits and regular expressions, at last ByteLevel.
        normalizer: its `normalizer`. NFC never joins a space with what stands before it.
    """
    if normalizer is not None and normalizer != {"type": "NFC"}:
        return False
    if not isinstance(steps, Mapping):
        return False
    parts = steps.get("pretokenizers") if steps.get("type") == "Sequence" else [steps]
    if not isinstance(parts, list) or not parts or parts[-1].get("type") != "ByteLevel":
        return False
    *others, letters = parts
    if letters.get("add_prefix_space", True):  # of every piece
        return False
    expressions = [GPT2_SPLIT] if letters.get("use_regex", True) else []
    for part in others:
        if part.get("type") == "Digits":  # adds borders around digits
            continue
        pattern = (part.get("pattern") or {}).get("Regex")
        is_isolated = part.get("behavior") == "Isolated" and not part.get("invert")
        if part.get("type") != "Split" or not is_isolated or pattern is None:
            return False
        expressions.append(pattern)
    return are_cuttable(expressions)


def are_cuttable(expressions: Sequence[str]) -> bool:
    """Return whether splitting by these expressions, one after the other, allows cuts."""
    try:
        read = [list(_alternatives(expression)) for expression in expressions]
    except _UnknownError:
        return False
    each = (alternative for alternatives in read for alternative in alternatives)
    return all(map(_is_safe, each)) and any(
        any(map(_begins_at_spaces, alternatives)) for alternatives in read
    )


def _is_safe(alternative: Sequence[_Atom]) -> bool:
    """Return whether no match has a space after black, and it looks beyond white space only."""
    has_black, has_white = False, False
    for atom in alternative:
        if atom.is_look:
            if has_black or not has_white:
                return False
            continue
        if atom.space and (has_black or (atom.black and atom.repeats)):
            return False
        has_black |= atom.black
        has_white |= atom.least and not atom.black
    return True


def _begins_at_spaces(alternative: Sequence[_Atom]) -> bool:
    """Return whether it matches wherever a space begins: a single part, e.g. white space."""
    return len(alternative) == 1 and alternative[0].space


def _alternatives(expression: str) -> Iterator[list[_Atom]]:
    """Yield the alternatives of an expression.

    Raises:
        _UnknownError: a part of it is not known.
    """
    atoms: list[_Atom] = []
    at = 0
    while at < len(expression):
        if expression[at] == "|":
            yield atoms
            atoms, at = [], at + 1
            continue
        atom, at = _atom(expression, at)
        if quantifier := _QUANTIFIER.match(expression, at):
            atom = _quantified(atom, quantifier["count"])
            at = quantifier.end()
        atoms.append(atom)
    yield atoms


def _quantified(atom: _Atom, count: str) -> _Atom:
    if atom.is_look:
        raise _UnknownError
    least = count == "+" or (count.startswith("{") and not count.startswith(("{0,", "{0}")))
    repeats = count not in ("?", "{1}", "{0,1}")
    return _Atom(atom.space, atom.white, atom.black, least, repeats)


def _atom(expression: str, at: int) -> tuple[_Atom, int]:
    """Read the part at an index; return it and the index behind it."""
    if expression.startswith(r"(?!\S)", at):
        return _Atom(is_look=True), at + len(r"(?!\S)")
    if expression.startswith(("(?i:", "(?:"), at):
        return _group(expression, at)
    if expression[at] == "[":
        return _bracket(expression, at)
    if expression[at] in "().^$*+?{}]":
        raise _UnknownError
    found = _TOKEN.match(expression, at)
    if found is None:
        raise _UnknownError
    return _kind(found), found.end()


def _kind(token: "re.Match[str]") -> _Atom:
    """Return what a character, an escape or a property can match."""
    if category := token["category"]:
        is_positive = token[0].startswith(r"\p") and "^" not in token[0]
        if not is_positive or category[0] not in _BLACK_CATEGORIES:
            raise _UnknownError
        return _Atom(black=True)
    if escape := token["escape"]:
        if escape == "s":
            return _Atom(space=True, white=True)
        if escape in _WHITE_ESCAPES:
            return _Atom(white=True)
        if escape in "Sdw":
            return _Atom(black=True)
        if escape.isalnum():
            raise _UnknownError
        return _literal(escape)
    return _literal(token["literal"])


def _literal(character: str) -> _Atom:
    is_space, is_white = character == " ", character.isspace()
    return _Atom(is_space, is_white and not is_space, not is_white)


def _group(expression: str, at: int) -> tuple[_Atom, int]:
    """Read a group, which may not match a space, and may not hold another one."""
    start = expression.index(":", at) + 1
    end = expression.find(")", start)
    inside = expression[start:end]
    if end < 0 or "(" in inside or "\\" in inside or "[" in inside or " " in inside:
        raise _UnknownError
    return _Atom(white=True, black=True), end + 1


def _bracket(expression: str, at: int) -> tuple[_Atom, int]:
    """Read a set of characters, with ranges, escapes and properties."""
    start = at + 1
    is_negated = expression.startswith("^", start)
    start += is_negated
    members: list[_Atom] = []
    while start < len(expression) and (expression[start] != "]" or not members):
        if expression[start] == "[" or expression.startswith("&&", start):
            raise _UnknownError
        found = _TOKEN.match(expression, start)
        if found is None:
            raise _UnknownError
        members.append(_kind(found))
        start = found.end()
        if expression.startswith("-", start) and not expression.startswith("-]", start):
            last = _TOKEN.match(expression, start + 1)
            first = found["literal"]
            if last is None or not first or not last["literal"] or not first > " ":
                raise _UnknownError
            # a range of black characters could hold white ones, which are no spaces
            members.append(_Atom(white=True, black=True))
            start = last.end()
    if start >= len(expression):
        raise _UnknownError
    spaces, blacks = any(m.space for m in members), any(m.black for m in members)
    whites = any(m.white for m in members)
    if is_negated:  # it may match all that is not surely excluded
        return _Atom(space=not spaces, white=True, black=True), start + 1
    return _Atom(spaces, whites, blacks), start + 1
