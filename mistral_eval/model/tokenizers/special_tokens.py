"""Read which special tokens the files beside a tokenizer name: BOS, EOS and added tokens.

Source: transformers' tokenizer_config.json, special_tokens_map.json, added_tokens.json and the
added_tokens of tokenizer.json.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mistral_eval.errors import TokenizerError
from mistral_eval.model.load.fields import read_json


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Texts of BOS and EOS, None if no file names them; added tokens by id, (text, is special)."""

    bos: str | None = None
    eos: str | None = None
    added: Mapping[int, tuple[str, bool]] = field(default_factory=dict)


def read_special_tokens(folder: Path) -> SpecialTokens:
    """Read the files that exist; what they leave open is the tokenizer file's.

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
