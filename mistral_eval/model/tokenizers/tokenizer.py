"""Text <-> ids with the model's own tokenizer, and which of a folder's files is read for it.

BOS is never left to a file's post-processor: it is there exactly when it is asked for.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from mistral_eval.errors import TokenizerError
from mistral_eval.model.tokenizers.tokenizer_json import JsonTokenizer
from mistral_eval.model.tokenizers.tokenizer_sentencepiece import SentencePieceTokenizer
from mistral_eval.model.tokenizers.tokenizer_tekken import TekkenTokenizer


class Tokenizer(Protocol):
    """What every kind of tokenizer offers.

    `n_words` counts the ids it can give or read; rows of the embedding beyond are padding, and
    their logits must be masked. `fingerprint` is a sha256 over the file and the special ids.
    """

    @property
    def kind(self) -> str:
        """sentencepiece, tokenizers or tekken."""
        ...

    @property
    def bos_id(self) -> int:
        """The id that opens every sequence."""
        ...

    @property
    def eos_id(self) -> int:
        """The id that ends a generation."""
        ...

    @property
    def n_words(self) -> int:
        """How many ids there are, special ones included."""
        ...

    @property
    def fingerprint(self) -> str:
        """sha256 of file and special ids."""
        ...

    def encode(self, text: str, bos: bool) -> list[int]:  # noqa: FBT001 - as mistral-common has it
        """Ids of a whole text, with BOS in front if asked; nothing in the text is special."""
        ...

    def last_cut(self, text: str, end: int) -> int:
        """The last index from 1 to `end` at which the text can be cut, 0 where there is none.

        At a cut, encode(text) = encode(text[:cut]) + encode_rest(text[cut:]), whatever follows.
        """
        ...

    def encode_rest(self, text: str) -> list[int]:
        """Ids of what begins at a cut of a text; it is not empty."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; control ids give none, broken UTF-8 gives U+FFFD."""
        ...

    def starts_afresh(self, token: int) -> bool:
        """Whether what comes from `token` on can be decoded without what came before it.

        True of an id that begins a character: then, for any ids a and b,
        decode(a + [token] + b) = decode(a) + (a text that depends on [token] + b alone), but for
        a space that the very first id of a text loses.
        """
        ...


def load_tokenizer(path: Path, *, expected_vocab: int) -> Tokenizer:
    """The tokenizer of a model folder, or of one file.

    Of several files in a folder the first of these is read: tokenizer.model, tokenizer.model.v*
    (the highest version), tekken.json, tokenizer.json. The first three are what Mistral trained
    with, and tokenizer.json is a conversion of them that gives the same ids. One exception: where a
    fine-tune added ordinary (not special) tokens, tokenizer.json alone knows them and is read.

    Args:
        path: the folder or the file.
        expected_vocab: rows of the model's embedding.

    Raises:
        TokenizerError: no file, a broken one, or ids beyond the embedding's rows.
    """
    tokenizer = _open(_choose_file(path))
    if tokenizer.n_words > expected_vocab:
        raise TokenizerError(
            f"{path}: the tokenizer has {tokenizer.n_words} ids and the model's embedding "
            f"{expected_vocab} rows, so some ids have no embedding: "
            "tokenizer and weights are of different models."
        )
    return tokenizer


def _choose_file(path: Path) -> Path:
    """The tokenizer file to read."""
    if path.is_file():
        return path
    names = ["tokenizer.model", *_versions(path), "tekken.json", "tokenizer.json"]
    found = [path / name for name in names if (path / name).is_file()]
    if not found:
        raise TokenizerError(
            f"{path} should hold tokenizer.model, tekken.json or tokenizer.json and holds none: "
            "copy the tokenizer of the model there."
        )
    return found[0]


def _versions(path: Path) -> list[str]:
    """Names of versioned SentencePiece files, the highest version first."""
    names = [file.name for file in path.glob("tokenizer.model.v*")]
    return sorted(names, key=lambda name: (len(name), name), reverse=True)


def _open(file: Path) -> Tokenizer:
    """The tokenizer of one file, by its name."""
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
            f"{file.parent} adds ordinary tokens to {file.name}, which only a tokenizer.json can "
            "describe, and holds none: save the tokenizer with transformers there."
        )
    return JsonTokenizer.from_file(converted)
