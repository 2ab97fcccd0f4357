"""Conversations as token ids, for every engine that takes ids.

The format is chosen with the first conversation: a run without one reads no template.
"""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from mistral_eval.engines.interface import Request
from mistral_eval.errors import EngineError
from mistral_eval.model.chat.messages import Messages
from mistral_eval.model.tokenizers.tokenizer import Tokenizer

if TYPE_CHECKING:  # mistral-common and transformers take seconds to import
    from mistral_eval.model.chat.choose_format import Chat

Ids: TypeAlias = tuple[int, ...]


class ChatIds:
    """Encodes conversations.

    Args:
        tokenizer: the checkpoint's tokenizer.
        asked: `--chat-template`.
        model: the model's folder or file.
        place: the folder or file with the tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer, asked: str, model: Path, place: Path) -> None:
        self._tokenizer = tokenizer
        self._asked = asked
        self._model = model
        self._place = place
        self._last: tuple[Messages, Ids] | None = None

    @cached_property
    def _chat(self) -> "Chat":
        from mistral_eval.model.chat.choose_format import choose_format

        return choose_format(self._asked, self._tokenizer, self._model, self._place)

    @property
    def remark(self) -> str:
        """What a table says about benchmarks that are asked in this format."""
        return self._chat.remark

    def prompt(self, request: Request, messages: Messages) -> Ids:
        """Return a conversation's ids, up to where the reply or its rest begins.

        Raises:
            TokenizerError: the checkpoint has no format, or not the one asked for.
            EngineError: the format refuses the conversation; names the question.
        """
        if self._last and self._last[0] == messages:  # the samples of a question share it
            return self._last[1]
        try:
            ids = tuple(self._chat.format.encode(messages))
        except EngineError as error:
            raise _about(request, error) from error
        self._last = (messages, ids)
        return ids

    def pair(self, request: Request, messages: Messages) -> tuple[Ids, Ids]:
        """Return the ids of a conversation and of the request's continuation.

        Where the tokenizer merges the beginning of the continuation into the conversation's last
        token, the split is before that token.

        Raises:
            TokenizerError, EngineError: see `prompt`.
        """
        try:
            first, whole = self._chat.format.encode_pair(messages, request.continuation)
        except EngineError as error:
            raise _about(request, error) from error
        split = min(len(first), len(whole) - 1)
        head = tuple(whole[:split])
        if self._last and self._last[1] == head:  # one tuple for all choices of a question
            head = self._last[1]
        else:
            self._last = (messages, head)
        return head, tuple(whole[split:])


def _about(request: Request, error: EngineError) -> EngineError:
    return EngineError(f"{request}: {str(error).rstrip('.')}.")


def begins_reply(request: Request) -> bool:
    """Return whether a generated reply begins a text of its own, as a message of a chat does.

    A SentencePiece tokenizer then marks a space before its first word, which is none.
    """
    return isinstance(request.context, Messages) and not request.context.prefix
