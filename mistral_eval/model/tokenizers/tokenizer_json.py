"""Read tokenizer.json with the tokenizers library; files beside it name BOS and EOS."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from tokenizers import Tokenizer as Backend

from mistral_eval.errors import TokenizerError
from mistral_eval.model.load.fields import read_json
from mistral_eval.model.tokenizers.incremental import (
    SPACE,
    SPLITS,
    cut_before_space,
    joins_across_spaces,
)
from mistral_eval.model.tokenizers.tokenizer import read_special_tokens, tokenizer_fingerprint

Decoding = Literal["bytes", "pieces", "other"]
# What the encoder prepends: nothing, a space mark, or a mark unless the text begins with a space.
# None: no text can be cut.
Front = Literal["nothing", "mark", "mark if none"] | None
_MARKS = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": SPACE},
        {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
    ],
}
_BYTE_PIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


@dataclass(frozen=True, slots=True)
class JsonTokenizer:
    """A tokenizers.Tokenizer.

    `decoding` is how its decoder joins a text, `front` what its encoder prepends to one.
    """

    backend: Any
    bos_id: int
    eos_id: int
    n_words: int
    fingerprint: str
    decoding: Decoding
    front: Front
    special_ids: frozenset[int]
    kind: ClassVar[str] = "tokenizers"

    @classmethod
    def from_file(cls, file: Path) -> "JsonTokenizer":
        """Read a tokenizer.json, with tokenizer_config.json or config.json beside it.

        Raises:
            TokenizerError: the file is broken, or no file names BOS or EOS.
        """
        try:
            backend = Backend.from_file(str(file))
        except Exception as error:  # the library raises bare Exception
            raise TokenizerError(
                f"{file} is not a tokenizer.json that the tokenizers library can read "
                f"({str(error)[:120]}): copy or download it again."
            ) from error
        # the file may contain a fine-tune's truncation and padding
        backend.no_truncation()
        backend.no_padding()
        # `<s>` in a question is three characters, not BOS
        backend.encode_special_tokens = True
        names = read_special_tokens(file.parent)
        bos_id = _named_id(backend, file, "bos", names.bos)
        eos_id = _named_id(backend, file, "eos", names.eos)
        content = read_json(file)
        special = frozenset(t["id"] for t in content.get("added_tokens") or [] if t.get("special"))
        # the highest id, not a count: some vocabularies have gaps
        n_words = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        digest = tokenizer_fingerprint(file, bos_id, eos_id, n_words)
        decoding = _decoding(content.get("decoder"))
        front = _front(content)
        return cls(backend, bos_id, eos_id, n_words, digest, decoding, front, special)

    def encode(self, text: str, bos: bool) -> list[int]:  # noqa: FBT001 - the protocol's form
        """Encode a text without the file's post-processor, which may add BOS."""
        ids: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        return [self.bos_id, *ids] if bos else ids

    def last_cut(self, text: str, end: int) -> int:
        """Return the last space after a non-space, if the file's steps allow cuts; else 0."""
        return 0 if self.front is None else cut_before_space(text, end)

    def encode_rest(self, text: str) -> list[int]:
        """Encode from a cut on; a prepended mark stands for the cut's space."""
        if self.front != "mark":
            return self.encode(text, bos=False)
        return self.encode(text[1:], bos=False) or [self.backend.token_to_id(SPACE)]

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids; special ids add no text."""
        text: str = self.backend.decode(list(ids), skip_special_tokens=True)
        return text

    def starts_afresh(self, token: int) -> bool:
        """Return whether the token begins with a whole character, or is a piece but not a byte."""
        if self.decoding == "other" or token in self.special_ids:
            return False
        if self.decoding == "pieces":
            piece = self.backend.id_to_token(token)
            return bool(piece) and not _BYTE_PIECE.fullmatch(piece)
        text = self.backend.decode([token], skip_special_tokens=True)
        return bool(text) and not text.startswith("\ufffd")


def _named_id(backend: Any, file: Path, which: str, text: str | None) -> int:
    """Return the id of BOS or EOS, by its text or else by the number in config.json."""
    number: int | None = None if text is None else backend.token_to_id(text)
    if number is None and (file.parent / "config.json").is_file():
        value = read_json(file.parent / "config.json").get(f"{which}_token_id")
        first = value[0] if isinstance(value, list) and value else value
        number = first if isinstance(first, int) else None
    if number is None:
        raise TokenizerError(
            f"{file}: no file names {which.upper()}: put a tokenizer_config.json with "
            f"{which}_token beside it."
        )
    return number


def _decoding(decoder: Any) -> Decoding:
    """Classify a decoder: it joins bytes, joins pieces with runs of bytes, or does neither."""
    if not isinstance(decoder, dict):
        return "other"
    steps = decoder.get("decoders", []) if decoder.get("type") == "Sequence" else [decoder]
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"]:
        return "bytes"
    strips = [step for step in steps if step.get("type") == "Strip"]
    is_plain = all(step.get("start", 0) <= 1 and step.get("stop", 0) == 0 for step in strips)
    if "Fuse" in kinds and is_plain and {"Replace", "ByteFallback", "Fuse", "Strip"} >= set(kinds):
        return "pieces"
    return "other"


def _front(content: dict[str, Any]) -> Front:
    """Return what the encoder prepends, if its steps allow cuts (see `incremental`); else None."""
    model, normalizer = content.get("model") or {}, content.get("normalizer")
    steps = content.get("pre_tokenizer")
    unusual = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
    has_words = any(not token.get("special") for token in content.get("added_tokens") or [])
    if model.get("type") != "BPE" or any(model.get(key) for key in unusual) or has_words:
        return None
    if normalizer is None and _splits_before_spaces(steps):
        return "nothing"
    vocabulary = model.get("vocab") or {}
    is_closed = model.get("byte_fallback") and not model.get("ignore_merges")
    if not is_closed or SPACE not in vocabulary or joins_across_spaces(vocabulary):
        return None
    if normalizer == _MARKS and steps is None:
        return "mark"
    return "mark if none" if normalizer is None and _is_metaspace(steps) else None


def _splits_before_spaces(steps: Any) -> bool:
    """Return whether the pre-tokenizer is a known split followed by a byte-level mapping.

    Digits may be isolated first: that adds word boundaries and moves no other.
    """
    if not isinstance(steps, dict) or steps.get("type") != "Sequence":
        return False
    parts = steps.get("pretokenizers") or []
    if parts and parts[0].get("type") == "Digits":
        parts = parts[1:]
    if [part.get("type") for part in parts] != ["Split", "ByteLevel"]:
        return False
    split, letters = parts
    is_known = (split.get("pattern") or {}).get("Regex") in SPLITS
    is_whole = split.get("behavior") == "Isolated" and not split.get("invert")
    return is_known and is_whole and _is_bare(letters)


def _is_bare(letters: Any) -> bool:
    """Return whether ByteLevel adds no space and no splits; both options default to true."""
    return not letters.get("add_prefix_space", True) and not letters.get("use_regex", True)


def _is_metaspace(steps: Any) -> bool:
    """Return whether the pre-tokenizer only marks spaces and prepends a mark."""
    return isinstance(steps, dict) and (
        steps.get("type") == "Metaspace"
        and steps.get("replacement") == SPACE
        and steps.get("prepend_scheme") == "always"
        and steps.get("split") is False
    )
