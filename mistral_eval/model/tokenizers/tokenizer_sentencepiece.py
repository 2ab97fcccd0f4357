"""Read tokenizer.model and tokenizer.model.v1 to .v7: Mistral's and Llama's SentencePiece."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import sentencepiece

from mistral_eval.errors import TokenizerError
from mistral_eval.model.tokenizers.incremental import SPACE, cut_before_space, joins_across_spaces
from mistral_eval.model.tokenizers.special import (
    SpecialTokens,
    read_add_bos,
    read_special_tokens,
    tokenizer_fingerprint,
)

_BPE = 2
_TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")
_TRAINER, _NORMALIZER = 2, 3  # fields of sentencepiece_model.proto


@dataclass(frozen=True, slots=True)
class SentencePieceTokenizer:
    """A SentencePieceProcessor with the BOS, EOS and added ids that the folder's files name.

    `space_id` is the id of a single space mark; None if no text can be cut (see `incremental`).
    `control_tokens` are the model's control pieces and the special tokens that files beside it add.
    """

    processor: Any
    bos_id: int | None
    eos_id: int
    n_words: int
    fingerprint: str
    has_ordinary_additions: bool
    space_id: int | None
    n_ordinary: int
    eos_ids: tuple[int, ...]
    adds_bos: bool
    bos_rule: str
    control_tokens: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    kind: ClassVar[str] = "sentencepiece"

    @classmethod
    def from_file(cls, file: Path) -> "SentencePieceTokenizer":
        """Read a SentencePiece model.

        Raises:
            TokenizerError: the file is not a SentencePiece model, or has no BOS or EOS.
        """
        try:
            processor = sentencepiece.SentencePieceProcessor(model_file=str(file))
        except (RuntimeError, OSError) as error:
            raise _not_sentencepiece(file) from error
        special, add_bos = read_special_tokens(file.parent), read_add_bos(file.parent)
        n_pieces = processor.vocab_size()
        bos_id = _control_id(processor.bos_id(), special.bos, special, processor, file)
        eos_id = _control_id(processor.eos_id(), special.eos, special, processor, file)
        if eos_id is None:
            raise TokenizerError(
                f"{file} should have EOS and has none: copy the model's tokenizer."
            )
        n_words = max([n_pieces, *(number + 1 for number in special.added)])
        ordinary = any(
            number >= n_pieces and not is_special
            for number, (_, is_special) in special.added.items()
        )
        digest = tokenizer_fingerprint(file, -1 if bos_id is None else bos_id, eos_id, n_words)
        return cls(
            processor,
            bos_id,
            eos_id,
            n_words,
            digest,
            ordinary,
            space_mark(processor, file.read_bytes()),
            n_ordinary=_count_ordinary(processor),
            eos_ids=(eos_id,),
            # the format has no post-processor; Mistral's and Meta's code add BOS
            adds_bos=bos_id is not None and add_bos is not False,
            bos_rule=f"{file.name}, which has no BOS"
            if bos_id is None
            else f"{file.name}, as Mistral's and Meta's code read it"
            if add_bos is None
            else "tokenizer_config.json's add_bos_token",
            control_tokens=control_pieces(processor)
            | {text: n for n, (text, is_special) in special.added.items() if is_special},
        )

    def is_text(self, token: int) -> bool:
        """Return whether the id is a piece of text that is not a single byte."""
        is_other = (
            self.processor.is_control(token)
            or self.processor.is_unknown(token)
            or self.processor.is_unused(token)
            or self.processor.is_byte(token)
        )
        return not is_other

    def encode(self, text: str, bos: bool) -> list[int]:  # noqa: FBT001 - the protocol's form
        """Encode a text; SentencePiece prepends a space, and `<s>` in it is plain text."""
        ids: list[int] = self.processor.encode(text)
        return ids if self.bos_id is None or not bos else [self.bos_id, *ids]

    def last_cut(self, text: str, end: int) -> int:
        """Return the last space after a non-space, if the vocabulary allows cuts; else 0."""
        return 0 if self.space_id is None else cut_before_space(text, end)

    def encode_rest(self, text: str) -> list[int]:
        """Encode from a cut on; its space is the one that SentencePiece prepends."""
        if text == " ":  # SentencePiece returns no ids for an empty text
            return [] if self.space_id is None else [self.space_id]
        ids: list[int] = self.processor.encode(text[1:])
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids; control ids and added special ids add no text."""
        n_pieces = self.processor.vocab_size()
        text: str = self.processor.decode([number for number in ids if number < n_pieces])
        return text

    def piece(self, token: int) -> str:
        """Return an id's piece, e.g. "▁Hello", for messages."""
        if token < self.processor.vocab_size():
            return str(self.processor.id_to_piece(token))
        return next((text for text, n in self.control_tokens.items() if n == token), "")

    def starts_afresh(self, token: int) -> bool:
        """Return whether the token is a piece of text; bytes of a run belong together."""
        return token < self.processor.vocab_size() and not (
            self.processor.is_byte(token)
            or self.processor.is_control(token)
            or self.processor.is_unknown(token)
        )


def control_pieces(processor: Any) -> dict[str, int]:
    """Return the ids of pieces that no text is encoded to, by their texts."""
    return {
        processor.id_to_piece(number): number
        for number in range(processor.vocab_size())
        if processor.is_control(number) or processor.is_unknown(number)
    }


def is_tiktoken(file: Path) -> bool:
    """Return whether the file is tiktoken's list of words, as Llama 3's tokenizer.model is."""
    with file.open("rb") as lines:
        return _TIKTOKEN_LINE.fullmatch(lines.readline(4096)) is not None


def _not_sentencepiece(file: Path) -> TokenizerError:
    """Return the error for a file that SentencePiece cannot read."""
    if is_tiktoken(file):
        return TokenizerError(
            f"{file} is in tiktoken's format, as Llama 3's, and should be a SentencePiece model: "
            "copy the model's tokenizer.json there."
        )
    return TokenizerError(
        f"{file} is not a SentencePiece model ({file.stat().st_size} bytes): "
        "copy or download it again."
    )


def _count_ordinary(processor: Any) -> int:
    """Return the number of pieces up to the last one that a text can need."""
    for number in range(processor.vocab_size() - 1, -1, -1):
        if not (processor.is_control(number) or processor.is_unused(number)):
            return number + 1
    return 0


def _control_id(
    own: int, text: str | None, special: SpecialTokens, processor: Any, file: Path
) -> int | None:
    """Return the id of BOS or EOS: the one named by its text, else the model's own, else None."""
    if text is not None:
        return _special_id(text, special, processor, file)
    return own if own >= 0 else None


def space_mark(processor: Any, model: bytes) -> int | None:
    """Return the space mark's id if texts can be cut before a space, else None."""
    number: int = processor.piece_to_id(SPACE)
    pieces = map(processor.id_to_piece, range(processor.vocab_size()))
    is_text = not (processor.is_unknown(number) or processor.is_unused(number))
    if is_text and is_plain_bpe(model) and not joins_across_spaces(pieces):
        return number
    return None


def _special_id(text: str, special: SpecialTokens, processor: Any, file: Path) -> int:
    """Return the id of a special token that files beside the model name by its text.

    The model's own piece counts first: a tokenizer.json beside it may be another vocabulary's.
    """
    number: int = processor.piece_to_id(text)
    if number != processor.unk_id():
        return number
    for added, (content, _) in special.added.items():
        if content == text:
            return added
    raise TokenizerError(
        f"{file} has no token {text!r}, which the files beside it name as BOS or EOS: "
        "copy the tokenizer files of one model together."
    )


def is_plain_bpe(model: bytes) -> bool:
    """Return whether a serialized ModelProto is a BPE that only adds and marks spaces."""
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
