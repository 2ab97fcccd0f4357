"""tokenizer.json, read by the tokenizers library; its BOS and EOS are named in files beside it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from tokenizers import Tokenizer as Backend

from mistral_eval.errors import TokenizerError
from mistral_eval.model.fields import read_json
from mistral_eval.model.special_tokens import read_special_tokens, tokenizer_fingerprint

Decoding = Literal["bytes", "pieces", "other"]
_BYTE_PIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


@dataclass(frozen=True, slots=True)
class JsonTokenizer:
    """A tokenizers.Tokenizer; `decoding` is how its decoder puts a text together."""

    backend: Any
    bos_id: int
    eos_id: int
    n_words: int
    fingerprint: str
    decoding: Decoding
    special_ids: frozenset[int]
    kind: ClassVar[str] = "tokenizers"

    @classmethod
    def from_file(cls, file: Path) -> "JsonTokenizer":
        """Read a tokenizer.json, with tokenizer_config.json or config.json beside it.

        Raises:
            TokenizerError: the file is broken, or nothing says which ids are BOS and EOS.
        """
        try:
            backend = Backend.from_file(str(file))
        except Exception as error:  # the library raises bare Exception
            raise TokenizerError(
                f"{file} is not a tokenizer.json that the tokenizers library reads "
                f"({str(error)[:120]}): copy or download it again."
            ) from error
        # a fine-tune may have left its training's limits in the file
        backend.no_truncation()
        backend.no_padding()
        # `<s>` in a question is three characters, not BOS
        backend.encode_special_tokens = True
        names = read_special_tokens(file.parent)
        bos_id = _named_id(backend, file, "bos", names.bos)
        eos_id = _named_id(backend, file, "eos", names.eos)
        content = read_json(file)
        special = frozenset(t["id"] for t in content.get("added_tokens") or [] if t.get("special"))
        # the highest id, not a count: vocabularies with holes exist
        n_words = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        digest = tokenizer_fingerprint(file, bos_id, eos_id, n_words)
        decoding = _decoding(content.get("decoder"))
        return cls(backend, bos_id, eos_id, n_words, digest, decoding, special)

    def encode(self, text: str, bos: bool) -> list[int]:  # noqa: FBT001 - the protocol's form
        """Ids of a text; the file's own post-processor, which may add BOS, is left out."""
        ids: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        return [self.bos_id, *ids] if bos else ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special ids give none."""
        text: str = self.backend.decode(list(ids), skip_special_tokens=True)
        return text

    def starts_afresh(self, token: int) -> bool:
        """As the decoder goes: a whole character first, or a piece that is no byte of a run."""
        if self.decoding == "other" or token in self.special_ids:
            return False
        if self.decoding == "pieces":
            piece = self.backend.id_to_token(token)
            return bool(piece) and not _BYTE_PIECE.fullmatch(piece)
        text = self.backend.decode([token], skip_special_tokens=True)
        return bool(text) and not text.startswith("\ufffd")


def _named_id(backend: Any, file: Path, which: str, text: str | None) -> int:
    """The id of BOS or EOS: by its text, else by the number in config.json."""
    number: int | None = None if text is None else backend.token_to_id(text)
    if number is None and (file.parent / "config.json").is_file():
        value = read_json(file.parent / "config.json").get(f"{which}_token_id")
        first = value[0] if isinstance(value, list) and value else value
        number = first if isinstance(first, int) else None
    if number is None:
        raise TokenizerError(
            f"{file}: nothing says which id is {which.upper()}: put a tokenizer_config.json with "
            f"{which}_token beside it."
        )
    return number


def _decoding(decoder: Any) -> Decoding:
    """Whether a decoder joins bytes, joins pieces with runs of bytes, or does something else."""
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
