"""Read tekken.json, the byte-level tokenizer of Mistral Nemo and later, with mistral-common."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mistral_eval.errors import TokenizerError
from mistral_eval.model.load.fields import read_json
from mistral_eval.model.tokenizers.cuts import are_cuttable
from mistral_eval.model.tokenizers.incremental import cut_before_space
from mistral_eval.model.tokenizers.special import tokenizer_fingerprint


@dataclass(frozen=True, slots=True)
class TekkenTokenizer:
    """mistral-common's Tekkenizer, which never encodes text to special ids.

    `has_cuts` says whether its regular expression allows cuts (see `cuts`).
    """

    tekkenizer: Any
    bos_id: int | None
    eos_id: int
    n_words: int
    fingerprint: str
    has_cuts: bool
    n_ordinary: int
    eos_ids: tuple[int, ...]
    adds_bos: bool = True  # as mistral-common and transformers' MistralCommonBackend do
    bos_rule: str = "Mistral's own format, tekken.json"
    notes: tuple[str, ...] = ()
    kind: ClassVar[str] = "tekken"

    @classmethod
    def from_file(cls, file: Path) -> "TekkenTokenizer":
        """Read a tekken.json.

        Raises:
            TokenizerError: mistral-common cannot read the file.
        """
        # this import takes half a second, and no other tokenizer needs it
        from mistral_common.tokens.tokenizers.base import TokenizerVersion
        from mistral_common.tokens.tokenizers.tekken import Tekkenizer

        named = (read_json(file, TokenizerError).get("config") or {}).get("version")
        known = TokenizerVersion.__members__
        if isinstance(named, str) and _number(named) > max(map(_number, known)):
            raise TokenizerError(
                f"{file} has version {named}, and the mistral-common installed here reads versions "
                f"up to {max(known, key=_number)}: run `pip install --upgrade mistral-common`."
            )
        try:
            tekkenizer = Tekkenizer.from_file(file)
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            raise TokenizerError(
                f"{file} is not a tekken.json that mistral-common can read "
                f"({type(error).__name__}: {str(error)[:120]}): copy or download it again."
            ) from error
        numbers = (tekkenizer.bos_id, tekkenizer.eos_id, tekkenizer.n_words)
        digest = tokenizer_fingerprint(file, *numbers)
        # mistral-common has no public name for the model; without it texts are encoded whole
        model = getattr(tekkenizer, "_model", None)
        return cls(
            tekkenizer,
            *numbers,
            digest,
            are_cuttable([getattr(model, "_pat_str", "")]),
            n_ordinary=tekkenizer.n_words,  # special ids come first
            eos_ids=(tekkenizer.eos_id,),
        )

    @property
    def control_tokens(self) -> dict[str, int]:
        """Ids of the special tokens, which come first, by their texts."""
        special = range(self.tekkenizer.num_special_tokens)
        return {self.tekkenizer.id_to_piece(number): number for number in special}

    def encode(self, text: str, bos: bool) -> list[int]:  # noqa: FBT001 - the protocol's form
        """Encode a text; tekken prepends nothing to it."""
        ids: list[int] = self.tekkenizer.encode(text, bos=bos, eos=False)
        return ids

    def last_cut(self, text: str, end: int) -> int:
        """Return the last space after a non-space, if the expression allows cuts; else 0."""
        return cut_before_space(text, end) if self.has_cuts else 0

    def encode_rest(self, text: str) -> list[int]:
        """Encode from a cut on."""
        return self.encode(text, bos=False)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids; special ids add no text and end a run of bytes."""
        text: str = self.tekkenizer.decode(list(ids))
        return text

    def piece(self, token: int) -> str:
        """Return an id's piece, e.g. "▁Hello", for messages."""
        return str(self.tekkenizer.id_to_piece(token))

    def starts_afresh(self, token: int) -> bool:
        """Return whether the token's first byte is not a UTF-8 continuation byte (10xxxxxx)."""
        if token < self.tekkenizer.num_special_tokens:
            return False
        word: bytes = self.tekkenizer.id_to_byte_piece(token)
        return word[0] & 0xC0 != 0x80


def _number(version: str) -> int:
    """Return the number in a version such as v13; -1 where there is none."""
    digits = version.removeprefix("v")
    return int(digits) if digits.isdecimal() else -1
