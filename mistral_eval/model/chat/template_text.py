r"""Encode a rendered chat template, so that only what the template itself wrote is a control token.

A template writes control tokens such as `<|im_end|>` as text, and a message may hold the same text
(test sets hold `</s>`). Before rendering, the first character of each control token in a message is
replaced by a private one, so that the rendered text has the control tokens of the template alone.
The text is cut at these, and what lies between them is encoded as plain text, with the characters
put back. A message that begins or ends with a part of a control token cannot complete one either:
that part loses its first character too.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from tokenizers import Tokenizer as Backend

from mistral_eval.errors import EngineError
from mistral_eval.model.chat.messages import Messages
from mistral_eval.model.tokenizers.tokenizer import Tokenizer
from mistral_eval.model.tokenizers.tokenizer_json import JsonTokenizer

_PLANES: Final = (0xF0000, 0x100000)  # private use: no text of the world has these characters
_KEPT_TEXTS: Final = 1 << 14  # encoded texts that are remembered: solved examples return


@dataclass(frozen=True, slots=True)
class Shield:
    """Private characters that stand for the first ones of control tokens in messages."""

    by_text: Mapping[str, str]

    def lift(self, text: str) -> str:
        """Put the replaced characters back."""
        return text.translate({ord(mark): first for first, mark in self.by_text.items()})


class TemplateText:
    """Encodes rendered templates.

    Args:
        tokenizer: the checkpoint's tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._control = tokenizer.control_tokens
        self._n_words = tokenizer.n_words
        names = sorted(self._control, key=len, reverse=True)  # the longest that matches counts
        self._longest = len(names[0]) if names else 0
        self._takes_left, self._takes_right = _spaced(tokenizer)
        any_name = "|".join(map(re.escape, names))
        firsts = "".join(sorted({re.escape(name[0]) for name in names}))  # for speed alone
        self._cut = re.compile(f"(?=[{firsts}])(?:{any_name})" if names else "(?!)")
        self._starts = re.compile(f"(?=[{firsts}])(?={any_name})" if names else "(?!)")
        self._heads = {name[:n] for name in names for n in range(1, len(name))}
        self._tails = {name[n:] for name in names for n in range(1, len(name))}
        self._first_text = lru_cache(_KEPT_TEXTS)(_plain_encoder(tokenizer))
        self._later_text = lru_cache(_KEPT_TEXTS)(_later_encoder(tokenizer))

    def shield(self, texts: Sequence[str]) -> tuple[list[str], Shield]:
        """Return texts without control tokens, and what puts them back.

        Raises:
            EngineError: the texts use all private characters.
        """
        marks: dict[str, str] = {}
        plane = next(
            (p for p in _PLANES if not any(p <= ord(c) < p + 0xFFFE for t in texts for c in t)),
            None,
        )
        if plane is None:
            raise EngineError(
                "a message has characters of both private planes of Unicode, which mark control "
                "tokens here; leave the question out"
            )

        def marked(text: str) -> str:
            places = {found.start() for found in self._starts.finditer(text)} | self._edges(text)
            if not places:
                return text
            for place in places:
                marks.setdefault(text[place], chr(plane + len(marks)))
            return "".join(marks[c] if n in places else c for n, c in enumerate(text))

        return [marked(text) for text in texts], Shield(marks)

    def _edges(self, text: str) -> set[int]:
        """Return where a text begins or ends with a part of a control token.

        Templates strip messages, so white space around a text does not count.
        """
        end = len(text.rstrip())
        start = len(text) - len(text.lstrip())
        core = text[start:end]
        places = set()
        for n in range(1, min(len(core), self._longest) + 1):
            if core[:n] in self._tails:
                places.add(start)
            if core[-n:] in self._heads:
                places.add(end - n)
        return places

    def encode(self, rendered: str, shield: Shield) -> list[int]:
        """Return the ids of a rendered template.

        Raises:
            EngineError: the template wrote a control token without an embedding row.
        """
        ids: list[int] = []
        at, before = 0, ""
        for found in self._cut.finditer(rendered):
            name = found[0]
            ids += self._plain(rendered[at : found.start()], shield, before, name)
            ids.append(self._control[name])
            if ids[-1] >= self._n_words:
                raise EngineError(
                    f"the chat template writes {name}, whose id {ids[-1]} has no row in the "
                    "model's embedding; give the model's own template with `--chat-template FILE`"
                )
            at, before = found.end(), name
        return ids + list(self._plain(rendered[at:], shield, before, ""))

    def _plain(self, text: str, shield: Shield, before: str, behind: str) -> tuple[int, ...]:
        """Encode what lies between two control tokens; "" stands for an end of the whole text."""
        if before in self._takes_right:
            text = text.lstrip()
        if behind in self._takes_left:
            text = text.rstrip()
        if not text:
            return ()
        return (self._later_text if before else self._first_text)(shield.lift(text))


def shielded(
    text: TemplateText, messages: Messages, *more: str
) -> tuple[Messages, list[str], Shield]:
    """Return a conversation and further texts without control tokens, and what puts them back."""
    texts = [messages.system or "", *(one for _, one in messages.turns), *more]
    (system, *rest), shield = text.shield(texts)
    roles = [role for role, _ in messages.turns]
    turns = tuple(zip(roles, rest[: len(roles)], strict=True))
    return (
        Messages(turns, None if messages.system is None else system),
        rest[len(roles) :],
        shield,
    )


def _spaced(tokenizer: Tokenizer) -> tuple[frozenset[str], frozenset[str]]:
    """Return the control tokens of a tokenizer.json that take in white space before and behind."""
    if not isinstance(tokenizer, JsonTokenizer):
        return frozenset(), frozenset()
    added: list[Any] = list(tokenizer.backend.get_added_tokens_decoder().values())
    return (
        frozenset(token.content for token in added if token.lstrip),
        frozenset(token.content for token in added if token.rstrip),
    )


def _plain_encoder(tokenizer: Tokenizer) -> Callable[[str], tuple[int, ...]]:
    return lambda text: tuple(tokenizer.encode(text, bos=False))


def _later_encoder(tokenizer: Tokenizer) -> Callable[[str], tuple[int, ...]]:
    """Return the encoder of texts after a control token.

    The pre-tokenizer Metaspace may prepend its mark to the beginning of a whole text only.
    """
    if not isinstance(tokenizer, JsonTokenizer):
        return _plain_encoder(tokenizer)
    content = json.loads(tokenizer.backend.to_str())
    if not _without_prefix(content.get("pre_tokenizer")):
        return _plain_encoder(tokenizer)
    backend = Backend.from_str(json.dumps(content))
    backend.encode_special_tokens = True
    return lambda text: tuple(backend.encode(text, add_special_tokens=False).ids)


def _without_prefix(steps: Any) -> bool:
    """Take the mark before a whole text from every Metaspace; return whether there was one."""
    if not isinstance(steps, dict):
        return False
    if steps.get("type") == "Metaspace" and steps.get("prepend_scheme") == "first":
        steps["prepend_scheme"] = "never"
        return True
    changed = [_without_prefix(step) for step in steps.get("pretokenizers") or []]
    return any(changed)
