"""Read tokenizer.json with the tokenizers library; files beside it name BOS and EOS.

Only its post-processor says whether BOS is added: transformers ignores `add_bos_token` in
tokenizer_config.json where there is a tokenizer.json (5.23).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from tokenizers import Tokenizer as Backend

from mistral_eval.errors import TokenizerError
from mistral_eval.model.load.fields import read_json
from mistral_eval.model.tokenizers.cuts import TEKKEN_SPLIT, allows_cuts
from mistral_eval.model.tokenizers.incremental import (
    SPACE,
    cut_before_space,
    joins_across_spaces,
)
from mistral_eval.model.tokenizers.special import (
    CONFIG,
    GENERATION,
    SpecialTokens,
    read_special_tokens,
    read_token_ids,
    tokenizer_fingerprint,
)

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
_PLAIN = "a"  # a text without special tokens, to see what a post-processor adds to it
_TEKKEN_WORDS, _TEKKEN_SLACK = 131072, 2048
MISTRALS = ("mistral", "ministral", "mixtral", "pixtral")
_OTHER_SPLIT = (
    "tokenizer.json splits words by another expression than Mistral's tekken, so its ids may not "
    "be those of the training; compare with `--model-args tokenizer=FILE` and the tekken.json of "
    "Mistral's own repository"
)
_BYTE_PIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>")

_NO_DROPOUT = "tokenizer.json has BPE dropout, which is for training: it is switched off"


@dataclass(frozen=True, slots=True)
class JsonTokenizer:
    """A tokenizers.Tokenizer.

    `decoding` is how its decoder joins a text, `front` what its encoder prepends to one.
    """

    backend: Any
    bos_id: int | None
    eos_id: int
    n_words: int
    fingerprint: str
    decoding: Decoding
    front: Front
    special_ids: frozenset[int]
    n_ordinary: int
    eos_ids: tuple[int, ...]
    adds_bos: bool
    bos_rule: str = "tokenizer.json's post-processor"
    notes: tuple[str, ...] = ()
    kind: ClassVar[str] = "tokenizers"

    @classmethod
    def from_file(cls, file: Path, *, eos_id: int | None = None) -> "JsonTokenizer":
        """Read a tokenizer.json; files beside it name BOS and EOS.

        Args:
            file: the tokenizer.json.
            eos_id: EOS where no file names it.

        Raises:
            TokenizerError: the file is broken, no file names EOS, or its post-processor puts other
                ids than one BOS before a text.
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
        content = read_json(file)
        has_dropout = bool(getattr(backend.model, "dropout", None))
        if has_dropout:  # it would draw the ids of a text at random
            backend.model.dropout = None
        added, notes = _post_processed(backend, file)
        if has_dropout:
            notes = (*notes, _NO_DROPOUT)
        bos_id = added[0] if added else _token_id(backend, names.bos)
        eos_id = _eos_id(backend, file, names, eos_id)
        # the library's ids: where the file leaves a gap, it numbers added tokens without one
        added_tokens = backend.get_added_tokens_decoder().items()
        special = frozenset(number for number, token in added_tokens if token.special)
        # the highest id, not a count: some vocabularies have gaps
        numbers = backend.get_vocab(with_added_tokens=True).values()
        n_words = max(numbers) + 1
        digest = tokenizer_fingerprint(file, -1 if bos_id is None else bos_id, eos_id, n_words)
        if _has_other_split(content, file, n_words):
            notes = (*notes, _OTHER_SPLIT)
        return cls(
            backend,
            bos_id,
            eos_id,
            n_words,
            digest,
            _decoding(content.get("decoder")),
            _front(content),
            special,
            n_ordinary=max((n for n in numbers if n not in special), default=-1) + 1,
            eos_ids=(eos_id,),
            adds_bos=bool(added),
            notes=notes,
        )

    @property
    def control_tokens(self) -> dict[str, int]:
        """Ids of the special added tokens by their texts."""
        added = self.backend.get_added_tokens_decoder().items()
        return {token.content: number for number, token in added if token.special}

    def encode(self, text: str, bos: bool) -> list[int]:  # noqa: FBT001 - the protocol's form
        """Encode a text without the file's post-processor, which may add BOS."""
        ids: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        return ids if self.bos_id is None or not bos else [self.bos_id, *ids]

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

    def piece(self, token: int) -> str:
        """Return an id's piece, e.g. "▁Hello", for messages."""
        return str(self.backend.id_to_token(token))

    def starts_afresh(self, token: int) -> bool:
        """Return whether the token begins with a whole character, or is a piece but not a byte."""
        if self.decoding == "other" or token in self.special_ids:
            return False
        if self.decoding == "pieces":
            piece = self.backend.id_to_token(token)
            return bool(piece) and not _BYTE_PIECE.fullmatch(piece)
        text = self.backend.decode([token], skip_special_tokens=True)
        return bool(text) and not text.startswith("\ufffd")


def _post_processed(backend: Any, file: Path) -> tuple[list[int], tuple[str, ...]]:
    """Return the ids that the post-processor puts before a text: none or one; and notes.

    Raises:
        TokenizerError: it puts several there.
    """
    plain = backend.encode(_PLAIN, add_special_tokens=False).ids
    whole = backend.encode(_PLAIN, add_special_tokens=True).ids
    starts = (n for n in range(len(whole)) if whole[n : n + len(plain)] == plain)
    start = next(starts, len(whole))
    if start > 1:
        raise TokenizerError(
            f"{file}: its post-processor puts the ids {whole[:start]} before a text; expected "
            "none or BOS: run it with `--engine hf`."
        )
    behind = whole[start + len(plain) :]
    note = f"tokenizer.json's post-processor appends {behind} to a text, which prompts do without"
    return whole[:start], (note,) if behind else ()


def _token_id(backend: Any, text: str | None) -> int | None:
    """Return the id of a token's text; None if there is no such token."""
    number: int | None = None if text is None else backend.token_to_id(text)
    return number


def _eos_id(backend: Any, file: Path, names: SpecialTokens, other: int | None) -> int:
    """Return the id of EOS: by its text, else the first number of the model's files, else `other`.

    Raises:
        TokenizerError: there is none.
    """
    number = _token_id(backend, names.eos)
    if number is not None:
        return number
    named = (read_token_ids(file.parent, name, "eos_token_id") for name in (GENERATION, CONFIG))
    found = next((ids[0] for ids in named if ids), other)
    if found is None:
        raise TokenizerError(
            f"{file}: no file names EOS: put a tokenizer_config.json with eos_token beside it."
        )
    return found


def _has_other_split(content: Mapping[str, Any], file: Path, n_words: int) -> bool:
    """Return whether a tekken-sized tokenizer.json of a Mistral splits words by another rule."""
    config = file.parent / CONFIG
    if abs(n_words - _TEKKEN_WORDS) > _TEKKEN_SLACK or not config.is_file():
        return False
    if not str(read_json(config).get("model_type")).startswith(MISTRALS):
        return False
    steps = content.get("pre_tokenizer") or {}
    parts = steps.get("pretokenizers") or [steps]
    splits = [
        (part.get("pattern") or {}).get("Regex") for part in parts if part.get("type") == "Split"
    ]
    return splits != [TEKKEN_SPLIT]


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
    added = content.get("added_tokens") or []
    if model.get("type") != "BPE" or any(model.get(key) for key in unusual):
        return None
    if allows_cuts(steps, normalizer) and not _has_open_words(added):
        return "nothing"
    if not all(token.get("special") for token in added):
        return None
    vocabulary = model.get("vocab") or {}
    is_closed = model.get("byte_fallback") and not model.get("ignore_merges")
    if not is_closed or SPACE not in vocabulary or joins_across_spaces(vocabulary):
        return None
    if normalizer == _MARKS and steps is None:
        return "mark"
    return "mark if none" if normalizer is None and _is_metaspace(steps) else None


def _has_open_words(tokens: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether an added token of ordinary text could be found across a cut.

    Special tokens are not searched for in a text.
    """
    options = ("single_word", "lstrip", "rstrip", "normalized")
    return any(
        any(token.get(option) for option in options) or any(map(str.isspace, token["content"]))
        for token in tokens
        if not token.get("special")
    )


def _is_metaspace(steps: Any) -> bool:
    """Return whether the pre-tokenizer only marks spaces and prepends a mark."""
    return isinstance(steps, dict) and (
        steps.get("type") == "Metaspace"
        and steps.get("replacement") == SPACE
        and steps.get("prepend_scheme") == "always"
        and steps.get("split") is False
    )
