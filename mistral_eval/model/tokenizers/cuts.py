r"""Where a text may be cut so that its parts, encoded alone, give the ids of the whole.

Such a place is a *cut*: the index of a space behind a character that is no white space, where a
tokenizer can be shown never to join the two. What shows it:

SentencePiece's BPE joins neighbours into a piece of its vocabulary, and text matches a user-defined
symbol. Where no piece has a space mark behind another character, neither can cross a cut, and with
an identity normalizer what stands left of a cut has no influence on what stands right of it.

A byte-level BPE joins within the words of its regular expression alone. In `SPLITS` every
alternative takes a space as its first character or among white space only, so that each cut is a
border of words; and the one look-ahead, `\s+(?!\S)`, looks at the character behind white space,
which a cut does not take away from it, as a non-space stands before the cut.
"""

from collections.abc import Iterable, Iterator

SPACE = "\u2581"  # what SentencePiece writes for a space

# Regular expressions for which the above holds: of tekken.json and of Llama 3's tokenizer.json.
TEKKEN_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = frozenset({TEKKEN_SPLIT, LLAMA_SPLIT})
_BPE = 2
_TRAINER, _NORMALIZER = 2, 3  # fields of sentencepiece_model.proto


def cut_before_space(text: str, end: int) -> int:
    """The last cut of a text at or before `end`; 0 where there is none.

    Python's white space and U+2581 are more than any tokenizer here takes for white space.
    """
    at = text.rfind(" ", 0, end + 1)
    while at > 0 and (text[at - 1].isspace() or text[at - 1] == SPACE):
        at = text.rfind(" ", 0, at)
    return max(at, 0)


def joins_across_spaces(pieces: Iterable[str]) -> bool:
    """Whether a piece has a space, or its mark, behind another character."""
    return any(SPACE in piece.lstrip(SPACE) or " " in piece for piece in pieces)


def is_plain_bpe(model: bytes) -> bool:
    """Whether a SentencePiece file is a BPE whose normalizer only marks spaces and adds one.

    Args:
        model: a serialized ModelProto.
    """
    parts = {number: value for number, value in _fields(model) if isinstance(value, bytes)}
    trainer = dict(_fields(parts.get(_TRAINER, b"")))
    normalizer = dict(_fields(parts.get(_NORMALIZER, b"")))
    model_type, byte_fallback, spaces_behind = (trainer.get(n, 0) for n in (3, 35, 24))
    # fields 3, 4 and 5 (dummy prefix, squeezed spaces, marks for spaces) are on where absent
    add_prefix, squeeze, escape = (normalizer.get(n, 1) for n in (3, 4, 5))
    is_identity = not normalizer.get(2)
    return (
        model_type == _BPE
        and bool(byte_fallback)
        and not spaces_behind
        and is_identity
        and bool(add_prefix)
        and not squeeze
        and bool(escape)
    )


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of a serialized protocol buffer, in order."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        value: int | bytes
        if kind == 0:
            value, at = _varint(message, at)
        else:
            size = {1: 8, 5: 4}.get(kind)
            if size is None:
                size, at = _varint(message, at)
            value, at = message[at : at + size], at + size
        yield key >> 3, value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, lowest first, and the index behind it."""
    value = shift = 0
    while message[at] & 0x80:
        value |= (message[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return value | message[at] << shift, at + 1
