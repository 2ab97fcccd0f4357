r"""Find where a text may be split so that its parts, encoded alone, give the ids of the whole.

Such a place is a *cut*: the index of a space after a non-space, where the tokenizer provably never
merges the two. Why this holds:

SentencePiece's BPE merges neighbours into pieces of its vocabulary and matches user-defined
symbols. If no piece has a space mark after another character, none can cross a cut; with an
identity normalizer, text before a cut cannot influence text after it.

A byte-level BPE merges only within the words of its regular expression. In `SPLITS` every
alternative takes a space only as its first character or among white space, so each cut is a word
boundary. The one look-ahead, `\s+(?!\S)`, inspects the character after white space; a cut has a
non-space before it, so it never separates the two.
"""

from collections.abc import Iterable, Iterator

SPACE = "\u2581"  # SentencePiece's mark for a space

# Regular expressions for which this holds: those of tekken.json and Llama 3's tokenizer.json.
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
    """Return the last cut at or before `end`; 0 if there is none.

    Python's white space and U+2581 include all that these tokenizers treat as white space.
    """
    at = text.rfind(" ", 0, end + 1)
    while at > 0 and (text[at - 1].isspace() or text[at - 1] == SPACE):
        at = text.rfind(" ", 0, at)
    return max(at, 0)


def joins_across_spaces(pieces: Iterable[str]) -> bool:
    """Return whether a piece has a space, or its mark, after another character."""
    return any(SPACE in piece.lstrip(SPACE) or " " in piece for piece in pieces)


def is_plain_bpe(model: bytes) -> bool:
    """Return whether a SentencePiece model is a BPE whose normalizer only adds and marks spaces.

    Args:
        model: a serialized ModelProto.
    """
    parts = {number: value for number, value in _fields(model) if isinstance(value, bytes)}
    trainer = dict(_fields(parts.get(_TRAINER, b"")))
    normalizer = dict(_fields(parts.get(_NORMALIZER, b"")))
    model_type, byte_fallback, spaces_behind = (trainer.get(n, 0) for n in (3, 35, 24))
    # add_dummy_prefix, remove_extra_whitespaces and escape_whitespaces default to true
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
    """Yield field numbers and values of a serialized protocol buffer, in order."""
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
    """Decode a varint (seven bits per byte, lowest first); return it and the next index."""
    value = shift = 0
    while message[at] & 0x80:
        value |= (message[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return value | message[at] << shift, at + 1
