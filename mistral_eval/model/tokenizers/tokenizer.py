"""Load a model's own tokenizer: the interface of all kinds, and which file decides what.

A checkpoint states BOS, end tokens and even the vocabulary in several files. The order in which
they count is transformers' where it has one; docs/adding-a-model.md has the table.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from mistral_eval.errors import TokenizerError
from mistral_eval.lfs import pointer_sentence
from mistral_eval.model.load.gguf_file import find_gguf, is_gguf
from mistral_eval.model.tokenizers.special import (
    ADD_BOS,
    CONFIG,
    GENERATION,
    TOKENIZER,
    TokenizerArgs,
    read_add_bos,
    read_token_ids,
)

if TYPE_CHECKING:
    from mistral_eval.model.tokenizers.tokenizer_json import JsonTokenizer
    from mistral_eval.model.tokenizers.tokenizer_sentencepiece import SentencePieceTokenizer
    from mistral_eval.model.tokenizers.tokenizer_tekken import TekkenTokenizer

    Kind: TypeAlias = JsonTokenizer | SentencePieceTokenizer | TekkenTokenizer

NO_ARGS = TokenizerArgs()
# The files of a folder that decide about its tokenizer.
READ: Final = re.compile(
    r"tokenizer.*|tekken.*|(special_tokens_map|added_tokens|config|generation_config)\.json"
)
_last: dict[bytes, "Kind"] = {}  # the last folder's tokenizer, by a digest of these files
ANY_VOCAB = 1 << 30  # rows of an embedding that is not known


class Tokenizer(Protocol):
    """What every kind of tokenizer offers."""

    @property
    def kind(self) -> str:
        """Library: sentencepiece, tokenizers or tekken."""

    @property
    def bos_id(self) -> int | None:
        """Id that may begin a sequence; None if the tokenizer has none."""

    @property
    def adds_bos(self) -> bool:
        """Whether every text begins with BOS."""

    @property
    def eos_id(self) -> int:
        """The tokenizer's own EOS."""

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Every id that ends a generation, `eos_id` first."""

    @property
    def n_words(self) -> int:
        """Number of ids, special ones included; further rows of the LM head are padding."""

    @property
    def n_ordinary(self) -> int:
        """Number of ids up to the last one that is not special."""

    @property
    def fingerprint(self) -> str:
        """Digest (sha256) of the file and the special ids."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user about which file decided what."""

    @property
    def control_tokens(self) -> Mapping[str, int]:
        """Ids of the special tokens by their texts; `encode` gives none of them for a text."""

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

    def piece(self, token: int) -> str:
        """Return an id's piece, e.g. "▁Hello", for messages."""

    def starts_afresh(self, token: int) -> bool:
        """Return whether text from `token` on can be decoded without the ids before it.

        True if the id begins a character. Then decode(a + [token] + b) is decode(a) and a text
        that depends only on [token] + b, for any ids a and b, except for one space that the first
        id of a text loses.
        """


def prefix_id(tokenizer: Tokenizer) -> int:
    """Return the id before a text that nothing precedes, as lm-eval chooses it: BOS, else EOS.

    Source: lm-eval's HFLM.prefix_token_id.
    """
    return tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id


def load_tokenizer(path: Path, *, expected_vocab: int, args: TokenizerArgs = NO_ARGS) -> Tokenizer:
    """Load the tokenizer of a model folder, or of one file.

    In a folder, read the first of tokenizer.model, tokenizer.model.v* (highest version),
    tekken.json and tokenizer.json. Where a tokenizer.json lies beside a tokenizer.model, it decides
    whether BOS is added, and it is read instead if the two disagree. A GGUF file, or
    a folder whose only weights are one, has its own tokenizer.

    Args:
        path: the folder or the file.
        expected_vocab: rows of the model's embedding.
        args: what `--model-args` says about the tokenizer.

    Raises:
        TokenizerError: there is no file, it is broken, or its ids exceed the embedding's rows.
    """
    tokenizer = _with_bos(_choose_once(args.file or path), args, path)
    if find_gguf(path) is None:  # a GGUF file names its own
        tokenizer = _with_end_tokens(tokenizer, path if path.is_dir() else path.parent)
    return _fitted(tokenizer, expected_vocab, args.file or path)


def _choose_once(path: Path) -> "Kind":
    """Return what `_choose` does; a folder with the last one's files is not read again.

    So the checkpoints of a training, whose tokenizers are copies, share one.
    """
    if not path.is_dir() or find_gguf(path) is not None:
        return _choose(path)
    files = sorted(file for file in path.iterdir() if READ.fullmatch(file.name) and file.is_file())
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        digest.update(file.read_bytes())
    key = digest.digest()
    if key not in _last:
        found = _choose(path)
        _last.clear()
        _last[key] = found
    return _last[key]


def _choose(path: Path) -> "Kind":
    """Load the file of a folder that decides, or the one that is given."""
    file = _first_file(path)
    converted = path / "tokenizer.json"
    is_alone = path.is_file() or file == converted or not converted.is_file()
    if is_alone or is_gguf(file):
        return _open(file)
    # each kind is imported when it is used: their libraries take long to load
    from mistral_eval.model.tokenizers.agreement import agreed
    from mistral_eval.model.tokenizers.tokenizer_json import JsonTokenizer
    from mistral_eval.model.tokenizers.tokenizer_sentencepiece import is_tiktoken

    if file.name.startswith("tokenizer.model") and is_tiktoken(file):
        return JsonTokenizer.from_file(converted)
    tokenizer = _open(file)
    if isinstance(tokenizer, JsonTokenizer):
        return tokenizer
    other = JsonTokenizer.from_file(converted, eos_id=tokenizer.eos_id)
    return agreed(tokenizer, other, file)


def _first_file(path: Path) -> Path:
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


def _open(file: Path) -> "Kind":
    """Load one file; its name says of which kind it is."""
    if sentence := pointer_sentence(file):
        raise TokenizerError(sentence)
    from mistral_eval.model.tokenizers.tokenizer_gguf import gguf_tokenizer
    from mistral_eval.model.tokenizers.tokenizer_json import JsonTokenizer
    from mistral_eval.model.tokenizers.tokenizer_sentencepiece import SentencePieceTokenizer
    from mistral_eval.model.tokenizers.tokenizer_tekken import TekkenTokenizer

    if is_gguf(file):
        return gguf_tokenizer(file)
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


def _with_bos(tokenizer: "Kind", args: TokenizerArgs, path: Path) -> "Kind":
    """Apply `--model-args add_bos_token`, and note who decided."""
    where = args.file or path
    folder = where if where.is_dir() else where.parent
    asked = read_add_bos(folder)
    if args.adds_bos is None:
        note = _bos_sentence(tokenizer.adds_bos, tokenizer.bos_rule)
        if asked is not None and asked != tokenizer.adds_bos:
            note += (
                f"; {ADD_BOS}={str(asked).lower()} in tokenizer_config.json has no effect, as in "
                f"transformers (`--model-args {ADD_BOS}=...` has)"
            )
        return replace(tokenizer, notes=(*tokenizer.notes, note))
    bos_id = tokenizer.bos_id
    if args.adds_bos and bos_id is None:
        bos_id = next(iter(read_token_ids(folder, CONFIG, "bos_token_id")), None)
        if bos_id is None:
            raise TokenizerError(
                f"{where}: `--model-args {ADD_BOS}=true` needs BOS, and no file names one: put a "
                "tokenizer_config.json with bos_token there, or leave the argument out."
            )
    note = _bos_sentence(args.adds_bos, f"--model-args {ADD_BOS}")
    return replace(tokenizer, bos_id=bos_id, adds_bos=args.adds_bos, notes=(*tokenizer.notes, note))


def _bos_sentence(adds_bos: bool, decides: str) -> str:  # noqa: FBT001 - a value, not a mode
    """Return the note about BOS."""
    return f"{'every text begins with BOS' if adds_bos else 'no BOS is added'} (by {decides})"


def _with_end_tokens(tokenizer: "Kind", folder: Path) -> "Kind":
    """Add the end tokens that the model folder's files name.

    transformers stops at those of generation_config.json or, without it, of config.json, and
    lm-eval at the tokenizer's EOS. Chat models name their end of turn in any of the three, so each
    counts. An ordinary word in config.json is no end token if generation_config.json names others:
    it is a default that was saved with the file.
    """
    by_file = {name: read_token_ids(folder, name, "eos_token_id") for name in (GENERATION, CONFIG)}
    ends = {tokenizer.eos_id: ""}
    notes = []
    for name, ids in by_file.items():
        for number in dict.fromkeys(ids):
            if number in ends:
                continue
            word = tokenizer.decode([number]) if number < tokenizer.n_words else ""
            shown = f"{number} ({word!r})" if word else str(number)
            if word and name == CONFIG and by_file[GENERATION]:
                notes.append(
                    f"config.json names {shown} as an end token, an ordinary word that "
                    f"{GENERATION} does not name; generation does not end at it, as in transformers"
                )
                continue
            ends[number] = name
            ordinary = ", an ordinary word of the tokenizer" if word else ""
            notes.append(f"generation also ends at token {shown}{ordinary} (by {name})")
    return replace(tokenizer, eos_ids=tuple(ends), notes=(*tokenizer.notes, *notes))


def _fitted(tokenizer: "Kind", rows: int, path: Path) -> "Kind":
    """Return the tokenizer without special ids beyond the embedding's rows.

    Such ids are legal (Code Llama's infilling tokens in a vocabulary of 32000): no text has them.
    """
    if tokenizer.n_words <= rows:
        return tokenizer
    if tokenizer.n_ordinary > rows:
        raise TokenizerError(
            f"{path}: the tokenizer has {tokenizer.n_ordinary} ids and the model's embedding only "
            f"{rows} rows: tokenizer and weights are of different models."
        )
    if tokenizer.adds_bos and tokenizer.bos_id is not None and tokenizer.bos_id >= rows:
        raise TokenizerError(
            f"{path}: BOS has the id {tokenizer.bos_id} and the model's embedding only {rows} "
            f"rows: give the model's own tokenizer with `--model-args {TOKENIZER}=FILE`."
        )
    lost = tokenizer.n_words - rows
    some = "1 special token has" if lost == 1 else f"{lost} special tokens have"
    note = f"{some} no embedding row; no text needs {'it' if lost == 1 else 'them'}"
    # a BOS without a row can precede nothing: EOS takes its place
    bos_id = None if tokenizer.bos_id is None or tokenizer.bos_id >= rows else tokenizer.bos_id
    return replace(tokenizer, n_words=rows, bos_id=bos_id, notes=(*tokenizer.notes, note))
