"""Load a model's own tokenizer: the interface of all kinds, and what a folder's files say.

BOS is added exactly when `encode` is asked to, never by a file's post-processor.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mistral_eval.errors import TokenizerError
from mistral_eval.model.load.fields import read_json
from mistral_eval.model.load.gguf_file import SUFFIX, find_gguf


class Tokenizer(Protocol):
    """What every kind of tokenizer offers."""

    @property
    def kind(self) -> str:
        """Library: sentencepiece, tokenizers or tekken."""

    @property
    def bos_id(self) -> int:
        """Id that begins every sequence."""

    @property
    def eos_id(self) -> int:
        """Id that ends a generation."""

    @property
    def n_words(self) -> int:
        """Number of ids, special ones included; further rows of the LM head are padding."""

    @property
    def fingerprint(self) -> str:
        """Digest (sha256) of the file and the special ids."""

    def encode(self, text: str, bos: bool) -> list[int]:  # noqa: FBT001 - as mistral-common has it
        """Encode a text, after BOS if asked; special tokens in the text are plain characters."""

    def last_cut(self, text: str, end: int) -> int:
        """Return the last index in 1 ... `end` at which the text can be cut; 0 if there is none.

        At a cut, encode(text) = encode(text[:cut]) + encode_rest(text[cut:]) for any rest.
        """

    def encode_rest(self, text: str) -> list[int]:
        """Encode the non-empty part of a text that begins at a cut."""

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids; control ids add no text, broken UTF-8 becomes U+FFFD."""

    def starts_afresh(self, token: int) -> bool:
        """Return whether text from `token` on can be decoded without the ids before it.

        True if the id begins a character. Then decode(a + [token] + b) is decode(a) and a text
        that depends only on [token] + b, for any ids a and b, except for one space that the first
        id of a text loses.
        """


def load_tokenizer(path: Path, *, expected_vocab: int) -> Tokenizer:
    """Load the tokenizer of a model folder, or of one file.

    In a folder, read the first of tokenizer.model, tokenizer.model.v* (highest version),
    tekken.json and tokenizer.json. The first three are those Mistral trained with; tokenizer.json
    is a conversion that gives the same ids. Exception: if a fine-tune added ordinary (not special)
    tokens, only tokenizer.json has them, so it is read. A GGUF file, or a folder whose only weights
    are one, has its own tokenizer.

    Args:
        path: the folder or the file.
        expected_vocab: rows of the model's embedding.

    Raises:
        TokenizerError: there is no file, it is broken, or its ids exceed the embedding's rows.
    """
    tokenizer = _open(_choose_file(path))
    if tokenizer.n_words > expected_vocab:
        raise TokenizerError(
            f"{path}: the tokenizer has {tokenizer.n_words} ids and the model's embedding only "
            f"{expected_vocab} rows: tokenizer and weights are of different models."
        )
    return tokenizer


def _choose_file(path: Path) -> Path:
    """Return the tokenizer file to read."""
    if path.is_file():
        return path
    gguf_file = find_gguf(path)
    if gguf_file is not None:
        return gguf_file
    versions = sorted(
        (file.name for file in path.glob("tokenizer.model.v*")),
        key=lambda name: (len(name), name),
        reverse=True,
    )
    names = ["tokenizer.model", *versions, "tekken.json", "tokenizer.json"]
    found = [path / name for name in names if (path / name).is_file()]
    if not found:
        raise TokenizerError(
            f"{path} should hold tokenizer.model, tekken.json or tokenizer.json and holds none: "
            "copy the tokenizer of the model there."
        )
    return found[0]


def _open(file: Path) -> Tokenizer:
    """Load one file; its name says of which kind it is."""
    # each kind is imported when it is used: their libraries take long to load
    from mistral_eval.model.tokenizers.tokenizer_gguf import GGUFTokenizer
    from mistral_eval.model.tokenizers.tokenizer_json import JsonTokenizer
    from mistral_eval.model.tokenizers.tokenizer_sentencepiece import SentencePieceTokenizer
    from mistral_eval.model.tokenizers.tokenizer_tekken import TekkenTokenizer

    if file.suffix == SUFFIX:
        return GGUFTokenizer.from_file(file)
    if file.name.startswith("tekken") and file.suffix == ".json":
        return TekkenTokenizer.from_file(file)
    if file.suffix == ".json":
        return JsonTokenizer.from_file(file)
    tokenizer = SentencePieceTokenizer.from_file(file)
    if not tokenizer.has_ordinary_additions:
        return tokenizer
    converted = file.parent / "tokenizer.json"
    if not converted.is_file():
        raise TokenizerError(
            f"{file.parent} adds ordinary tokens to {file.name}, which needs a tokenizer.json, and "
            "holds none: save the tokenizer with transformers there."
        )
    return JsonTokenizer.from_file(converted)


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Texts of BOS and EOS, None if no file names them; added tokens by id, (text, is special)."""

    bos: str | None = None
    eos: str | None = None
    added: Mapping[int, tuple[str, bool]] = field(default_factory=dict)


def read_special_tokens(folder: Path) -> SpecialTokens:
    """Read transformers' files beside a tokenizer; what they leave open is the tokenizer file's.

    Raises:
        TokenizerError: a file is not a JSON object.
    """
    config = _read(folder / "tokenizer_config.json")
    names = _read(folder / "special_tokens_map.json")
    special_texts = {_text(value) for value in names.values()} | {
        _text(value) for value in names.get("additional_special_tokens") or []
    }
    added = {
        int(number): (text, text in special_texts)
        for text, number in _read(folder / "added_tokens.json").items()
    }
    for number, token in (config.get("added_tokens_decoder") or {}).items():
        added[int(number)] = (str(token["content"]), bool(token.get("special")))
    for token in _read(folder / "tokenizer.json").get("added_tokens") or []:
        added[int(token["id"])] = (str(token["content"]), bool(token.get("special")))
    return SpecialTokens(
        bos=_text(config.get("bos_token") or names.get("bos_token")),
        eos=_text(config.get("eos_token") or names.get("eos_token")),
        added=added,
    )


def tokenizer_fingerprint(file: Path, *numbers: int) -> str:
    """Return sha256 over the file's bytes and numbers that decide how it is used."""
    digest = hashlib.sha256(file.read_bytes())
    digest.update(json.dumps(numbers).encode())
    return digest.hexdigest()


def _text(value: Any) -> str | None:
    """Return a token's text, which files store as a string or as an object with `content`."""
    if isinstance(value, dict):
        return str(value.get("content"))
    return value if isinstance(value, str) else None


def _read(file: Path) -> dict[str, Any]:
    """Return the JSON object of a file; an empty one if there is none."""
    return read_json(file, TokenizerError) if file.is_file() else {}
