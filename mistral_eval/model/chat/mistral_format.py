"""Mistral's instruct formats, computed by mistral-common over the checkpoint's own tokenizer.

mistral-common validates, normalises and lays out a conversation, and asks a tokenizer for the ids
of each text. Here that tokenizer is the one that the model was loaded with, whatever its file: a
tokenizer.model, a tokenizer.json or a GGUF file of the same vocabulary gives the same ids. Each
text is encoded by itself, so that a question's `[INST]` stays text.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from mistral_common.exceptions import MistralCommonException
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
from mistral_common.protocol.instruct.normalize import get_normalizer
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.validator import ValidationMode, get_validator
from mistral_common.tokens.tokenizers import instruct
from mistral_common.tokens.tokenizers.base import TokenizerVersion
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

from mistral_eval.errors import EngineError, TokenizerError
from mistral_eval.model.chat.messages import ASSISTANT, Messages
from mistral_eval.model.load.fields import read_json
from mistral_eval.model.tokenizers.incremental import SPACE
from mistral_eval.model.tokenizers.tokenizer import Tokenizer
from mistral_eval.model.tokenizers.tokenizer_tekken import TekkenTokenizer

BEGIN_INST: Final = "[INST]"
BEGIN_SYSTEM: Final = "[SYSTEM_PROMPT]"
_LAYOUTS: Final[Mapping[str, Any]] = {
    "v1": instruct.InstructTokenizerV1,
    "v2": instruct.InstructTokenizerV2,
    "v3": instruct.InstructTokenizerV3,
    "v7": instruct.InstructTokenizerV7,
    "v11": instruct.InstructTokenizerV11,
    "v13": instruct.InstructTokenizerV13,
    "v15": instruct.InstructTokenizerV15,
}
_TEKKEN_ONLY: Final = ("v11", "v13", "v15")  # for plain conversations their ids are those of v7
_NAME: Final = re.compile(r".*\.model\.(?P<version>v\d+)(m\d+)?")
_SHORT: Final = Messages((("user", "a"),))
_KEPT_REPLIES: Final = 4096  # encoded replies that are remembered: choices such as "A" return
_ABSENT: Final = -1  # id of a control token that the vocabulary lacks


@dataclass(frozen=True, slots=True)
class Version:
    """A version of Mistral's instruct format, e.g. "v3", and what says so."""

    name: str
    by: str


class _Vocabulary:
    """One of our tokenizers in the form that mistral-common's layouts ask for ids."""

    def __init__(self, tokenizer: Tokenizer, version: str) -> None:
        self._tokenizer = tokenizer
        self._control = tokenizer.control_tokens
        self.version = TokenizerVersion(version)
        self.model_settings_builder = None
        self.bos_id = tokenizer.bos_id
        self.eos_id = tokenizer.eos_id
        # Metaspace puts no mark before a text that begins with a space, as SentencePiece does
        self._swallows = tokenizer.encode(" a", bos=False) == tokenizer.encode("a", bos=False)

    def get_special_token(self, text: str) -> int:
        return self._control.get(text, _ABSENT)  # most are for tools, which no conversation has

    def encode(self, text: str, bos: bool, eos: bool) -> list[int]:  # noqa: FBT001 - its form
        del bos, eos  # both are always false
        lost = " " if self._swallows and text.startswith((" ", SPACE)) else ""
        return self._tokenizer.encode(lost + text, bos=False)

    def decode(self, ids: list[int], **_options: object) -> str:
        del ids
        return ""  # for a text that only debugging shows


class MistralFormat:
    """Conversations in one version of Mistral's instruct format.

    Args:
        tokenizer: the checkpoint's tokenizer.
        version: the version and what says so.

    Raises:
        TokenizerError: mistral-common does not know the version, or the tokenizer lacks BOS or the
            control tokens of the version.
    """

    def __init__(self, tokenizer: Tokenizer, version: Version) -> None:
        if version.name not in _LAYOUTS:
            raise TokenizerError(
                f"{version.by} names version {version.name} of Mistral's instruct format, and the "
                f"mistral-common installed here has {', '.join(_LAYOUTS)}: give `--chat-template "
                "folder`, or a file."
            )
        needed = () if version.name == "v1" else (BEGIN_INST, BEGIN_INST.replace("[", "[/"))
        lacking = [text for text in needed if text not in tokenizer.control_tokens]
        if tokenizer.bos_id is None:
            lacking.append("BOS")
        if lacking:
            raise TokenizerError(
                f"Mistral's instruct format {version.name} (by {version.by}) needs the control "
                f"token {lacking[0]}, and the model's tokenizer has none: give `--chat-template "
                "folder`, or a file."
            )
        self.label = f"Mistral's instruct format {version.name.upper()} of mistral-common"
        self.by = version.by
        self.notes: tuple[str, ...] = ()
        if isinstance(tokenizer, TekkenTokenizer):
            vocabulary, name = tokenizer.tekkenizer, str(tokenizer.tekkenizer.version.value)
        else:
            name = "v7" if version.name in _TEKKEN_ONLY else version.name
            vocabulary = _Vocabulary(tokenizer, name)
        numbered = TokenizerVersion(name)
        self._mistral: Any = MistralTokenizer(
            _LAYOUTS[name](vocabulary),
            validator=get_validator(numbered, mode=ValidationMode.test),
            request_normalizer=get_normalizer(numbered, vocabulary.model_settings_builder),
        )
        self._last: tuple[Messages, list[int]] | None = None  # choices share their conversation
        self._reply = lru_cache(_KEPT_REPLIES)(self._reply_ids)

    def encode(self, messages: Messages) -> list[int]:
        """Return the ids of a conversation, BOS first, up to where the reply or its rest begins.

        Raises:
            EngineError: mistral-common refuses the conversation, e.g. for an empty reply in it.
        """
        if self._last is None or self._last[0] != messages:
            self._last = (messages, self._encode(messages))
        return self._last[1]

    def encode_pair(self, messages: Messages, continuation: str) -> tuple[list[int], list[int]]:
        """Return the ids of a conversation, and of all of it with a continuation of the reply.

        The continuation is encoded as the reply, or together with the reply's beginning, whose
        last spaces belong to it.
        """
        prefix = messages.prefix
        if not prefix:  # a reply is encoded by itself, whatever the conversation before it
            head = self.encode(messages)
            return head, [*head, *self._reply(continuation)]
        kept = messages
        if prefix != prefix.rstrip():
            turns = messages.turns[:-1]
            end = ((ASSISTANT, prefix.rstrip()),) if prefix.strip() else ()
            kept = Messages((*turns, *end), messages.system)
        return self._encode(kept), self._encode(messages.replied(continuation))

    def _reply_ids(self, text: str) -> tuple[int, ...]:
        """Return the ids of a reply, which a short conversation has behind its own."""
        start = len(self._encode(_SHORT))
        return tuple(self._encode(_SHORT.replied(text))[start:])

    def _encode(self, messages: Messages) -> list[int]:
        asked: list[Any] = []
        if messages.system:
            asked.append(SystemMessage(content=messages.system))
        last = len(messages.turns) - 1
        for place, (role, text) in enumerate(messages.turns):
            if role == ASSISTANT:
                asked.append(AssistantMessage(content=text, prefix=place == last))
            else:
                asked.append(UserMessage(content=text))
        try:
            request = ChatCompletionRequest(messages=asked)
            ids: list[int] = self._mistral.encode_chat_completion(request).tokens
        except MistralCommonException as error:
            raise EngineError(
                f"mistral-common refuses the conversation ({error}); give `--chat-template folder`"
            ) from error
        if _ABSENT in ids:
            raise EngineError(
                "the conversation needs a control token that the model's tokenizer lacks; give "
                "`--chat-template folder`"
            )
        return ids


def file_version(place: Path) -> Version | None:
    """Return the version that a tokenizer's file states: tekken.json, or tokenizer.model.vN.

    Args:
        place: the tokenizer's folder, or the file itself.
    """
    files = [place] if place.is_file() else [p for p in place.iterdir() if p.is_file()]
    named = [(found["version"], file) for file in files if (found := _NAME.fullmatch(file.name))]
    if named:
        version, file = max(named, key=lambda one: int(one[0][1:]))
        return Version(version, file.name)
    for file in files:
        if file.name.startswith("tekken") and file.suffix == ".json":
            version = (read_json(file, TokenizerError).get("config") or {}).get("version")
            if isinstance(version, str):
                return Version(version, file.name)
    return None


def vocabulary_version(tokenizer: Tokenizer, *, is_first: bool) -> Version | None:
    """Return the version that a vocabulary without a version is of; None if it is not Mistral's.

    V2 and V3 differ for tools alone, and so do V7 and later ones.

    Args:
        tokenizer: the checkpoint's tokenizer.
        is_first: whether a vocabulary without control tokens of Mistral's is taken for the first.
    """
    if BEGIN_SYSTEM in tokenizer.control_tokens:
        return Version("v7", f"the control token {BEGIN_SYSTEM}")
    if BEGIN_INST in tokenizer.control_tokens:
        return Version("v3", f"the control token {BEGIN_INST}")
    return (
        Version("v1", f"a vocabulary without the control token {BEGIN_INST}") if is_first else None
    )
