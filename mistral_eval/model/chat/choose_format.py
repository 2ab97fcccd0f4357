"""Choose the format of a checkpoint's conversations, and compare the two that it may have.

mistral-common is the reference for Mistral's own models, the checkpoint's chat template for all
others: also for a fine-tune of a Mistral whose template writes no `[INST]`.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from mistral_eval.errors import EngineError, TokenizerError
from mistral_eval.model.chat.messages import ASSISTANT, USER, Messages
from mistral_eval.model.chat.mistral_format import (
    BEGIN_INST,
    MistralFormat,
    Version,
    file_version,
    vocabulary_version,
)
from mistral_eval.model.chat.template_format import (
    Template,
    TemplateFormat,
    file_template,
    own_template,
)
from mistral_eval.model.load.fields import read_json
from mistral_eval.model.load.gguf_file import find_gguf
from mistral_eval.model.tokenizers.special import CONFIG
from mistral_eval.model.tokenizers.tokenizer import Tokenizer
from mistral_eval.model.tokenizers.tokenizer_json import MISTRALS, JsonTokenizer
from mistral_eval.model.tokenizers.tokenizer_sentencepiece import SentencePieceTokenizer
from mistral_eval.settings import AUTO

MISTRAL: Final = "mistral"
FOLDER: Final = "folder"
_LLAMA_2: Final = "<<SYS>>"  # its template writes [INST] too
_TURNS: Final = (
    (USER, "What is 2 + 2?"),
    (ASSISTANT, "It is 4."),
    (USER, "And 3 + 3?"),
    (ASSISTANT, "It is 6."),
    (USER, "Thanks. Bye!"),
)
_SYSTEM: Final = "Answer briefly."
PROBES: Final = {
    f"{name}{also}": Messages(turns, system)
    for name, turns in (
        ("a question", _TURNS[:1]),
        ("two questions", _TURNS[:3]),
        ("three questions", _TURNS),
        ("a question and the reply's beginning", (*_TURNS[:1], (ASSISTANT, "It is"))),
    )
    for also, system in (("", None), (" with a system prompt", _SYSTEM))
}


class ChatFormat(Protocol):
    """How conversations become token ids.

    Attributes:
        label: what the format is called.
        by: what says that the checkpoint has it.
        notes: what is particular about it, as sentences about "it".
    """

    label: str
    by: str
    notes: tuple[str, ...]

    def encode(self, messages: Messages) -> list[int]:
        """Return the ids of a conversation up to where the reply or its rest begins.

        Raises:
            EngineError: the format has no such conversation.
        """

    def encode_pair(self, messages: Messages, continuation: str) -> tuple[list[int], list[int]]:
        """Return the ids of a conversation, and of all of it with a continuation of the reply."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A checkpoint's format, and what a table says about it (the end of a sentence)."""

    format: ChatFormat
    remark: str


def choose_format(asked: str, tokenizer: Tokenizer, model: Path, place: Path) -> Chat:
    """Choose the format of a checkpoint's conversations.

    Args:
        asked: `--chat-template`: auto, mistral, folder, or a file with a Jinja template.
        tokenizer: the checkpoint's tokenizer.
        model: the model's folder or GGUF file, whose config.json names its family.
        place: the folder or file with the tokenizer.

    Raises:
        TokenizerError: the checkpoint has no such format, or a template is broken or not there.
    """
    chosen, other = _formats(asked, tokenizer, model, place)
    notes = (*chosen.notes, *_difference(tokenizer, chosen, other))
    return Chat(chosen, "; ".join((f"asked in {chosen.label} (by {chosen.by})", *notes)))


def _formats(
    asked: str, tokenizer: Tokenizer, model: Path, place: Path
) -> tuple[ChatFormat, ChatFormat | None]:
    """Return the chosen format, and the checkpoint's other one if it has two."""
    own = own_template(place)
    version = _version(tokenizer, model, place, own, is_asked=asked == MISTRAL)
    is_mistrals = version is not None and (own is None or _writes_inst(own))
    if asked not in (AUTO, MISTRAL, FOLDER):
        return TemplateFormat(tokenizer, _given(asked, own)), None
    if version is not None and (asked == MISTRAL or (asked == AUTO and is_mistrals)):
        return MistralFormat(tokenizer, version), _own_format(tokenizer, own)
    if asked == MISTRAL:
        raise TokenizerError(
            f"{place} is not a tokenizer of Mistral's, whose conversations mistral-common "
            "could encode: give `--chat-template folder`, or a file."
        )
    if own is None:
        raise TokenizerError(
            f"{place} has no chat template (chat_template.jinja, or chat_template in "
            "tokenizer_config.json or in a GGUF file's metadata): give one with `--chat-template "
            "FILE`."
        )
    other = MistralFormat(tokenizer, version) if version is not None and is_mistrals else None
    return TemplateFormat(tokenizer, own), other


def _own_format(tokenizer: Tokenizer, own: Template | None) -> TemplateFormat | None:
    try:
        return None if own is None else TemplateFormat(tokenizer, own)
    except TokenizerError:  # a broken template that nobody asked for
        return None


def _given(asked: str, own: Template | None) -> Template:
    """Return the template of a file, with the special tokens that the checkpoint's files name."""
    return replace(
        file_template(Path(asked).expanduser()), tokens=own.tokens if own is not None else {}
    )


def _writes_inst(template: Template) -> bool:
    """Return whether a template is one for Mistral's formats."""
    return BEGIN_INST in template.text and _LLAMA_2 not in template.text


def _version(
    tokenizer: Tokenizer, model: Path, place: Path, own: Template | None, *, is_asked: bool
) -> Version | None:
    """Return the version of Mistral's format that the checkpoint's files or vocabulary show."""
    is_gguf = find_gguf(place) is not None
    stated = None if is_gguf else file_version(place)
    has_pieces = isinstance(tokenizer, SentencePieceTokenizer) or (
        isinstance(tokenizer, JsonTokenizer) and tokenizer.decoding == "pieces"
    )
    is_mistrals = _has_mistral_config(model) or (is_gguf and own is not None and _writes_inst(own))
    is_first = has_pieces and (is_asked or is_mistrals)
    return stated or vocabulary_version(tokenizer, is_first=is_first)


def _has_mistral_config(model: Path) -> bool:
    """Return whether a model's folder is of Mistral's family.

    params.json names no family; Meta's lacks head_dim, which mistral-inference's has.
    """
    folder = model if model.is_dir() else model.parent
    if (folder / CONFIG).is_file():
        return str(read_json(folder / CONFIG).get("model_type")).startswith(MISTRALS)
    params = folder / "params.json"
    return params.is_file() and "head_dim" in read_json(params)


def _difference(
    tokenizer: Tokenizer, chosen: ChatFormat, other: ChatFormat | None
) -> tuple[str, ...]:
    """Return a note about the first of `PROBES` that the two formats give other ids; else none."""
    if other is None:
        return ()
    for name, probe in PROBES.items():
        try:
            ours, theirs = chosen.encode(probe), other.encode(probe)
        except EngineError as error:
            return (f"{other.label} (by {other.by}) cannot be compared: {error}",)
        if ours != theirs:
            pairs = enumerate(zip(ours, theirs, strict=False))
            at = next((n for n, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
            here, there = (_shown(tokenizer, ids[at : at + 1]) for ids in (ours, theirs))
            what = f"{other.label} (by {other.by}) gives {name} other ids, first token {at}"
            return (f"{what}: {there} there, {here} here",)
    return ()


def _shown(tokenizer: Tokenizer, ids: list[int]) -> str:
    return f"{ids[0]} {tokenizer.piece(ids[0])!r}" if ids else "none"
