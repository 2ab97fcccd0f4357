"""Read what a folder's files say about BOS, end tokens and added tokens.

Files of transformers: tokenizer_config.json, special_tokens_map.json, added_tokens.json and
tokenizer.json beside the tokenizer; generation_config.json and config.json beside the weights.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mistral_eval.errors import TokenizerError, UsageError
from mistral_eval.model.load.fields import read_json

GENERATION, CONFIG = "generation_config.json", "config.json"
TOKENIZER, ADD_BOS = "tokenizer", "add_bos_token"  # names in `--model-args`


@dataclass(frozen=True, slots=True)
class TokenizerArgs:
    """What `--model-args` says about the tokenizer.

    Attributes:
        file: `tokenizer=`, a tokenizer's file or folder; None reads the model folder's.
        adds_bos: `add_bos_token=`; None leaves it to the tokenizer.
    """

    file: Path | None = None
    adds_bos: bool | None = None

    def beside(self, place: Path) -> "TokenizerArgs":
        """Return the arguments with a file or folder to read where none is given."""
        return self if self.file is not None else replace(self, file=place)


def split_tokenizer_args(
    model_args: Mapping[str, Any],
) -> tuple[TokenizerArgs, dict[str, Any]]:
    """Split `--model-args` into the tokenizer's and the rest.

    Raises:
        UsageError: `add_bos_token` is not a boolean, or `tokenizer` is no file or folder.
    """
    rest = {k: v for k, v in model_args.items() if k not in (TOKENIZER, ADD_BOS)}
    file, adds_bos = model_args.get(TOKENIZER), model_args.get(ADD_BOS)
    path = None if file is None else Path(str(file)).expanduser()
    if path is not None and not path.exists():
        raise UsageError(
            f"--model-args {TOKENIZER}={file} should name a tokenizer's file or folder and nothing "
            "is there: give its path."
        )
    return TokenizerArgs(path, None if adds_bos is None else _flag(adds_bos)), rest


def _flag(value: object) -> bool:
    """Return a boolean that `--model-args` gives as text or as a value."""
    known = {"true": True, "1": True, "false": False, "0": False}
    text = str(value).strip().lower()
    if text not in known:
        raise UsageError(f"--model-args {ADD_BOS} should be true or false and is {value!r}.")
    return known[text]


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """What transformers' files beside a tokenizer say about special tokens.

    Attributes:
        bos, eos: texts of BOS and EOS; None if no file names them.
        added: added tokens by id, (text, is special).
    """

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


def read_add_bos(folder: Path) -> bool | None:
    """Return tokenizer_config.json's `add_bos_token`; None if it has none."""
    value = _read(folder / "tokenizer_config.json").get(ADD_BOS)
    return value if isinstance(value, bool) else None


def read_token_ids(folder: Path, file: str, name: str) -> tuple[int, ...]:
    """Return the ids that a field of config.json or generation_config.json names.

    The field is absent, null, a number or a list. A multimodal config.json has it in `text_config`.

    Args:
        folder: where the file may be.
        file: `CONFIG` or `GENERATION`.
        name: the field, e.g. eos_token_id.

    Raises:
        TokenizerError: the file is not a JSON object, or the field is none of these.
    """
    values = _read(folder / file)
    text = values.get("text_config")
    value = values.get(name)
    if value is None and isinstance(text, dict):
        value = text.get(name)
    found = value if isinstance(value, list) else [] if value is None else [value]
    if any(isinstance(one, bool) or not isinstance(one, int) for one in found):
        raise TokenizerError(
            f"{folder / file}: {name} should be null, a token id or a list of these and is "
            f"{value!r}: correct the file."
        )
    # -1 is how some files say that there is none
    return tuple(one for one in found if one >= 0)


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
