"""A conversation: what a chat model is asked, before any format turns it into token ids."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Self

from mistral_eval.errors import EngineError

SYSTEM: Final = "system"
USER: Final = "user"
ASSISTANT: Final = "assistant"


@dataclass(frozen=True, slots=True)
class Messages:
    """A conversation that a model continues.

    Attributes:
        turns: (role, text) of each message; roles are "user" and "assistant". If the last message
            is the assistant's, the model continues its text, else it writes the next message.
        system: the system prompt; None for none.
    """

    turns: tuple[tuple[str, str], ...]
    system: str | None = None

    def __post_init__(self) -> None:
        roles = [role for role, _ in self.turns]
        if USER not in roles or not {USER, ASSISTANT}.issuperset(roles):
            raise EngineError(
                "A conversation should have messages of user and assistant, at least one of the "
                f"user's, and has {', '.join(roles) or 'none'}."
            )

    @classmethod
    def of(cls, history: Iterable[Mapping[str, str]]) -> Self:
        """Create a conversation from messages as OpenAI's interface and lm-eval write them.

        Several system messages are joined by a blank line.
        """
        messages = [(one["role"], one["content"]) for one in history]
        system = "\n\n".join(text for role, text in messages if role == SYSTEM)
        return cls(tuple(one for one in messages if one[0] != SYSTEM), system or None)

    @property
    def prefix(self) -> str:
        """The beginning of the reply that the model continues; "" where it writes all of it."""
        role, text = self.turns[-1]
        return text if role == ASSISTANT else ""

    def replied(self, text: str) -> Self:
        """Return the conversation with a reply, or with more of the reply that it ends with."""
        if self.turns[-1][0] == ASSISTANT:
            return replace(self, turns=(*self.turns[:-1], (ASSISTANT, self.prefix + text)))
        return replace(self, turns=(*self.turns, (ASSISTANT, text)))

    def asked(self, text: str) -> Self:
        """Return the conversation with another message of the user."""
        return replace(self, turns=(*self.turns, (USER, text)))

    def as_dicts(self) -> list[dict[str, str]]:
        """Return the messages, the system prompt first, as OpenAI's interface writes them."""
        first = [] if self.system is None else [{"role": SYSTEM, "content": self.system}]
        return first + [{"role": role, "content": text} for role, text in self.turns]

    def __len__(self) -> int:
        """Return the number of characters, for progress and for sorting by length."""
        return len(self.system or "") + sum(len(text) for _, text in self.turns)

    def __str__(self) -> str:
        """Return the conversation for people: each message after its role."""
        return "\n\n".join(f"[{one['role']}]\n{one['content']}" for one in self.as_dicts())
