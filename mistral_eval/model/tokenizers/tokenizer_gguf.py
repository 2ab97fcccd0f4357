"""Build the tokenizer that a GGUF file's metadata describe.

SentencePiece (`llama`) and byte-level BPE (`gpt2`) are written in their libraries' own formats and
read by them. Sources: ggml's docs/gguf.md for the keys; sentencepiece_model.proto; llama.cpp's
llama-vocab.cpp for the names of pre-tokenizers and the defaults of each kind.
"""

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypedDict

import sentencepiece
from tokenizers import Tokenizer as Backend

from mistral_eval.errors import TokenizerError
from mistral_eval.model.load.gguf_file import read_metadata
from mistral_eval.model.tokenizers.cuts import GPT2_SPLIT, LLAMA_SPLIT, TEKKEN_SPLIT
from mistral_eval.model.tokenizers.tokenizer_json import JsonTokenizer
from mistral_eval.model.tokenizers.tokenizer_sentencepiece import (
    SentencePieceTokenizer,
    control_pieces,
    space_mark,
)

# token types, as SentencePiece numbers them
_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 2, 3, 4, 5, 6
_BPE = 2  # TrainerSpec.ModelType
_PREFIX: Final = "tokenizer.ggml."
_END_KEYS: Final = ("eos_token_id", "eot_token_id", "eom_token_id")


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """How a byte-level BPE splits a text into words before it merges.

    Attributes:
        split: regular expression of the original tokenizer.json or tekken.json.
        each_digit: whether digits are first isolated.
        whole_words: whether a word of the vocabulary is taken without merging.
        adds_bos: whether llama.cpp adds BOS where the file does not say.
    """

    split: str
    each_digit: bool = False
    whole_words: bool = False
    adds_bos: bool = False


_LLAMA_3: Final = PreTokenizer(LLAMA_SPLIT, whole_words=True, adds_bos=True)
PRE_TOKENIZERS: Final = {
    "llama3": _LLAMA_3,
    "llama-v3": _LLAMA_3,
    "llama-bpe": _LLAMA_3,
    "tekken": PreTokenizer(TEKKEN_SPLIT, whole_words=True, adds_bos=True),
    "gpt-2": PreTokenizer(GPT2_SPLIT),
    "smollm": PreTokenizer(GPT2_SPLIT, each_digit=True),
}


def gguf_tokenizer(file: Path) -> JsonTokenizer | SentencePieceTokenizer:
    """Read the tokenizer of a GGUF file, with the special ids that its metadata name.

    Raises:
        CheckpointError: the file's header cannot be read.
        TokenizerError: it has no tokenizer, or one that is damaged or not known.
    """
    fields = {
        key.removeprefix(_PREFIX): value
        for key, value in read_metadata(file).items()
        if key.startswith(_PREFIX)
    }
    return _Vocabulary(file, fields).build()


class _Special(TypedDict):
    """The fields of a tokenizer that do not depend on its library."""

    bos_id: int | None
    eos_id: int
    eos_ids: tuple[int, ...]
    n_words: int
    n_ordinary: int
    adds_bos: bool
    bos_rule: str
    fingerprint: str
    notes: tuple[str, ...]


class _Vocabulary:
    """The tokens of a file and the kind of tokenizer they belong to."""

    def __init__(self, file: Path, fields: Mapping[str, Any]) -> None:
        self.file = file
        self.fields = fields
        self.model = fields.get("model")
        self.tokens: list[str] = fields.get("tokens") or []
        self.types: list[int] = fields.get("token_type") or []
        if self.model not in ("llama", "gpt2"):
            raise TokenizerError(
                f"{file}: tokenizer.ggml.model should be llama (SentencePiece) or gpt2 "
                f"(byte-level BPE) and is {self.model!r}: take the model's Hugging Face folder."
            )
        self._require("tokens", self.tokens)
        self._require("token_type", self.types)
        self.pre = self._pre_tokenizer() if self.model == "gpt2" else None
        # tokens that only fill the embedding up can never be predicted
        self.n_words = self._last(_UNUSED) + 1

    def build(self) -> JsonTokenizer | SentencePieceTokenizer:
        """Return the library's tokenizer."""
        if self.pre is None:
            return self._sentencepiece()
        return self._byte_level(self.pre)

    def _special(self) -> _Special:
        """Return what both kinds hold, after a check of the special ids.

        Raises:
            TokenizerError: no end token is named, or an id is no token's.
        """
        if "eos_token_id" not in self.fields:
            raise TokenizerError(
                f"{self.file} names no eos_token_id in its metadata, which ends a reply: "
                "take a file that a current llama.cpp converted."
            )
        named: dict[int, str] = {}  # the first key of each end token
        for key in _END_KEYS:
            if key in self.fields:
                named.setdefault(self.fields[key], key)
        bos_id = self.fields.get("bos_token_id")
        wrong = [number for number in (bos_id or 0, *named) if not 0 <= number < self.n_words]
        if wrong:
            raise TokenizerError(
                f"{self.file}: special ids should be below {self.n_words}, the number of tokens, "
                f"and one is {wrong[0]}: the file is damaged; copy or download it again."
            )
        adds_bos, rule = self._adds_bos(bos_id)
        content = json.dumps(self.fields, sort_keys=True).encode()
        return _Special(
            bos_id=bos_id,
            eos_id=self.fields["eos_token_id"],
            eos_ids=tuple(named),
            n_words=self.n_words,
            n_ordinary=self._last(_UNUSED, _CONTROL, _UNKNOWN) + 1,
            adds_bos=adds_bos,
            bos_rule=rule,
            fingerprint=hashlib.sha256(content).hexdigest(),
            notes=tuple(
                f"generation also ends at token {number} (by {key} of the metadata)"
                for number, key in list(named.items())[1:]
            ),
        )

    def _adds_bos(self, bos_id: int | None) -> tuple[bool, str]:
        """Return whether every text begins with BOS, and what says so."""
        if bos_id is None:
            return False, "the GGUF file, which names no BOS"
        if "add_bos_token" in self.fields:
            return self.fields["add_bos_token"], "the GGUF file's add_bos_token"
        usual = self.pre is None or self.pre.adds_bos
        return usual, "llama.cpp's rule for this kind of tokenizer"

    def _last(self, *kinds: int) -> int:
        """Return the last id that has none of these types."""
        found = (number for number, kind in enumerate(self.types) if kind not in kinds)
        return max(found, default=-1)

    def _require(self, name: str, values: Sequence[Any]) -> None:
        """Raise if an array does not have one value per token."""
        if not values or len(values) != len(self.tokens):
            raise TokenizerError(
                f"{self.file}: tokenizer.ggml.{name} should have a value for each of the "
                f"{len(self.tokens)} tokens and has {len(values)}: copy or download the file again."
            )

    def _pre_tokenizer(self) -> PreTokenizer:
        name = self.fields.get("pre")
        if name not in PRE_TOKENIZERS:
            found = "is missing" if name is None else f"is {name!r}"
            raise TokenizerError(
                f"{self.file}: tokenizer.ggml.pre, which says how a text is split into words, "
                f"should be one of {', '.join(PRE_TOKENIZERS)} and {found}: "
                "give the original tokenizer with `--model-args tokenizer=FILE`."
            )
        return PRE_TOKENIZERS[name]

    def _sentencepiece(self) -> SentencePieceTokenizer:
        scores = self.fields.get("scores") or []
        self._require("scores", scores)
        merged = {score for score, kind in zip(scores, self.types, strict=True) if kind == 1}
        if len(merged) == 1:
            raise TokenizerError(
                f"{self.file}: all tokens have the score {merged.pop()}, which orders no merges: "
                "convert the model again with its tokenizer.model."
            )
        prefix = self.fields.get("add_space_prefix", True)
        model = _model_proto(self.tokens, scores, self.types, adds_prefix=prefix)
        processor = sentencepiece.SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise self._damaged(error) from error
        return SentencePieceTokenizer(
            processor=processor,
            has_ordinary_additions=False,
            space_id=space_mark(processor, model),
            control_tokens=control_pieces(processor),
            **self._special(),
        )

    def _byte_level(self, pre: PreTokenizer) -> JsonTokenizer:
        content = _tokenizer_json(self.tokens, self.types, self.fields.get("merges") or [], pre)
        try:
            backend = Backend.from_str(json.dumps(content))
        except Exception as error:  # the library raises bare Exception
            raise self._damaged(error) from error
        # `<s>` in a question is three characters, not BOS
        backend.encode_special_tokens = True
        added = content["added_tokens"]
        return JsonTokenizer(
            backend=backend,
            decoding="bytes",
            # an added word of ordinary text could have a space inside: then no text is cut
            front="nothing" if all(token["special"] for token in added) else None,
            special_ids=frozenset(token["id"] for token in added if token["special"]),
            **self._special(),
        )

    def _damaged(self, error: Exception) -> TokenizerError:
        return TokenizerError(
            f"{self.file}: its tokenizer cannot be built ({str(error)[:120]}): "
            "copy or download the file again."
        )


def _tokenizer_json(
    tokens: Sequence[str], types: Sequence[int], merges: Sequence[str], pre: PreTokenizer
) -> dict[str, Any]:
    """Return the content of a tokenizer.json; its vocabulary keeps special tokens at their ids."""
    added = [
        {
            "id": number,
            "content": tokens[number],
            "special": kind != _USER_DEFINED,
            **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
        }
        for number, kind in enumerate(types)
        if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED)
    ]
    split = {"pattern": {"Regex": pre.split}, "behavior": "Isolated", "invert": False}
    letters = {"add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    digits = [{"type": "Digits", "individual_digits": True}] if pre.each_digit else []
    return {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                *digits,
                {"type": "Split", **split},
                {"type": "ByteLevel", **letters},
            ],
        },
        "decoder": {"type": "ByteLevel", **letters},
        "model": {
            "type": "BPE",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre.whole_words,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": list(merges),
        },
    }


def _model_proto(
    tokens: Sequence[str], scores: Sequence[float], types: Sequence[int], *, adds_prefix: bool
) -> bytes:
    """Return a serialized SentencePiece ModelProto: BPE that only adds and marks spaces."""
    pieces = (
        _field(1, _field(1, token.encode()) + _number(2, score) + _field(3, kind))
        for token, score, kind in zip(tokens, scores, types, strict=True)
    )
    trainer = _field(3, _BPE) + _field(35, int(_BYTE in types))
    normalizer = _field(3, int(adds_prefix)) + _field(4, 0) + _field(5, 1)
    return b"".join(pieces) + _field(2, trainer) + _field(3, normalizer)


def _field(number: int, value: int | bytes) -> bytes:
    """Return a field of a protocol buffer: a varint, or bytes after their length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _number(number: int, value: float) -> bytes:
    """Return a float field of a protocol buffer."""
    return _varint(number << 3 | 5) + struct.pack("<f", value)


def _varint(value: int) -> bytes:
    """Encode a number of at least 0 in groups of seven bits, the lowest first."""
    return bytes(_groups(value))


def _groups(value: int) -> Iterator[int]:
    while value > 0x7F:
        yield value & 0x7F | 0x80
        value >>= 7
    yield value
