"""A chat template of transformers as a format: rendered as transformers renders it.

Source: transformers' `apply_chat_template` with `add_generation_prompt`, or with
`continue_final_message` where the conversation ends with the beginning of the reply.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from mistral_eval.errors import EngineError, TokenizerError
from mistral_eval.model.chat.messages import ASSISTANT, USER, Messages
from mistral_eval.model.chat.template_text import TemplateText, shielded
from mistral_eval.model.load.fields import read_json
from mistral_eval.model.load.gguf_file import find_gguf, read_metadata
from mistral_eval.model.tokenizers.tokenizer import Tokenizer

_FILE: Final = "chat_template.jinja"
# Names that transformers gives a template besides the conversation.
_NAMED: Final = tuple(
    f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
)
_SYSTEM, _USER, _REPLY = "Be brief.", "Hello.", "Hi."  # a conversation to try a template on
_FAULTS: Final = (TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError)


@dataclass(frozen=True, slots=True)
class Template:
    """A chat template: its text, where it stands, and the special tokens that it can name."""

    text: str
    place: str
    tokens: Mapping[str, str]


class TemplateFormat:
    """Conversations in a chat template's format.

    A system prompt that the template refuses is put before the user's first message, after which
    follows a blank line.

    Args:
        tokenizer: the checkpoint's tokenizer.
        template: the template.

    Raises:
        TokenizerError: the template is not Jinja, or cannot render even one message.
    """

    def __init__(self, tokenizer: Tokenizer, template: Template) -> None:
        self.template = template
        self.label = "the chat template"
        self.by = template.place
        self._text = TemplateText(tokenizer)
        self._tokens = {**_token_texts(tokenizer), **template.tokens}
        plain = Messages(((USER, _USER),))
        try:
            rendered = self._rendered(plain)
        except _FAULTS as error:
            raise TokenizerError(
                f"The chat template of {template.place} cannot be rendered "
                f"({type(error).__name__}: {str(error)[:120]}): give another one with "
                "`--chat-template FILE`."
            ) from error
        self._joins_system = False
        notes = []
        asked = Messages(plain.turns, _SYSTEM)
        try:
            takes = _SYSTEM in self._rendered(asked)
        except _FAULTS:
            self._joins_system = takes = True
            notes.append(
                "it refuses a system prompt, which stands before the user's first message instead"
            )
        if not takes:
            notes.append("it leaves out a system prompt")
        elif not self._joins_system and self._writes_system(asked, rendered):
            notes.append("it writes a system prompt of its own where none is given")
        if takes and self._loses_system_before_prefix(asked):
            notes.append("it leaves out the system prompt where it continues a reply's beginning")
        if "strftime_now" in template.text:
            notes.append("it can write today's date into a prompt")
        ids = self._text.encode(*self._ready(plain))
        if tokenizer.adds_bos and ids[:1] != [tokenizer.bos_id] and rendered:
            notes.append("it writes no BOS, which the tokenizer adds to other texts")
        self.notes = tuple(notes)

    def _writes_system(self, asked: Messages, rendered: str) -> bool:
        """Return whether more is written without a system prompt than around a given one."""
        return len(rendered) > len(self._rendered(asked)) - len(_SYSTEM)

    def _loses_system_before_prefix(self, asked: Messages) -> bool:
        try:
            return _SYSTEM not in self._rendered(asked.replied(_REPLY))
        except _FAULTS:
            return False  # refused when a conversation needs it

    def encode(self, messages: Messages) -> list[int]:
        """Return the ids of a conversation up to where the reply or its rest begins.

        Raises:
            EngineError: the template refuses the conversation.
        """
        return self._text.encode(*self._ready(messages))

    def encode_pair(self, messages: Messages, continuation: str) -> tuple[list[int], list[int]]:
        """Return the ids of a conversation, and of all of it with a continuation of the reply.

        As in lm-eval, white space at the end of the rendered template belongs to the continuation.
        """
        rendered, shield, (more,) = self._shielded(messages, continuation)
        head = self._text.encode(rendered.rstrip(), shield)
        return head, self._text.encode(rendered + more, shield)

    def render(self, messages: Messages) -> str:
        """Return the conversation as the template writes it."""
        return self._rendered(self._joined(messages))

    def _ready(self, messages: Messages) -> tuple[str, Any]:
        rendered, shield, _ = self._shielded(messages)
        return rendered, shield

    def _shielded(self, messages: Messages, *more: str) -> tuple[str, Any, list[str]]:
        safe, rest, shield = shielded(self._text, self._joined(messages), *more)
        try:
            return self._rendered(safe), shield, rest
        except _FAULTS as error:
            raise EngineError(
                f"the chat template of {self.template.place} refuses the conversation "
                f"({str(error)[:120]}); give another one with `--chat-template`"
            ) from error

    def _joined(self, messages: Messages) -> Messages:
        """Return the conversation without a system prompt if the template refuses one."""
        if not self._joins_system or messages.system is None:
            return messages
        turns = list(messages.turns)
        first = next(n for n, (role, _) in enumerate(turns) if role == USER)
        turns[first] = (USER, f"{messages.system}\n\n{turns[first][1]}")
        return replace(messages, turns=tuple(turns), system=None)

    def _rendered(self, messages: Messages) -> str:
        continues = messages.turns[-1][0] == ASSISTANT
        (rendered,), _ = render_jinja_template(
            conversations=[messages.as_dicts()],
            chat_template=self.template.text,
            add_generation_prompt=not continues,
            continue_final_message=continues,
            **self._tokens,
        )
        return str(rendered)


def file_template(file: Path) -> Template:
    """Return the chat template that a file holds.

    Raises:
        TokenizerError: the file cannot be read as text.
    """
    try:
        return Template(file.read_text(encoding="utf-8"), file.name, {})
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(
            f"{file} should hold a chat template and cannot be read ({error}): give a Jinja file, "
            "mistral or folder."
        ) from error


def own_template(place: Path) -> Template | None:
    """Return a checkpoint's own chat template; None if it has none.

    Args:
        place: the folder with the tokenizer's files, or a file in it; or a GGUF file.
    """
    gguf = find_gguf(place)
    if gguf is not None:
        return _gguf_template(gguf)
    folder = place if place.is_dir() else place.parent
    config, tokens = folder / "tokenizer_config.json", {}
    fields = read_json(config, TokenizerError) if config.is_file() else {}
    names = folder / "special_tokens_map.json"
    for source in (read_json(names, TokenizerError) if names.is_file() else {}, fields):
        for name in _NAMED:
            value = source.get(name)
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str):
                tokens[name] = text
    if (folder / _FILE).is_file():
        return replace(file_template(folder / _FILE), tokens=tokens)
    legacy = folder / "chat_template.json"
    for file, values in (
        (config, fields),
        (legacy, read_json(legacy, TokenizerError) if legacy.is_file() else {}),
    ):
        text = _default(values.get("chat_template"))
        if text is not None:
            return Template(text, file.name, tokens)
    return None


def _default(value: Any) -> str | None:
    """Return a template, or of several named ones the default one, as transformers does."""
    if isinstance(value, list):
        named = {one.get("name"): one.get("template") for one in value if isinstance(one, dict)}
        value = named.get("default")
    return value if isinstance(value, str) and value else None


def _gguf_template(file: Path) -> Template | None:
    metadata = read_metadata(file)
    text = metadata.get("tokenizer.chat_template")
    if not isinstance(text, str) or not text:
        return None
    words = metadata.get("tokenizer.ggml.tokens") or []
    keys = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    tokens = {}
    for name, key in keys.items():
        number = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if isinstance(number, int) and 0 <= number < len(words):
            tokens[f"{name}_token"] = words[number]
    return Template(text, f"{file.name}'s metadata", tokens)


def _token_texts(tokenizer: Tokenizer) -> dict[str, str]:
    """Return the texts of BOS and EOS, for templates beside which no file names them."""
    by_id = {number: text for text, number in tokenizer.control_tokens.items()}
    ids = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id}
    return {name: by_id[number] for name, number in ids.items() if number in by_id}
