"""What a language model that judges is asked."""

import hashlib
from dataclasses import dataclass
from typing import Final

JUDGE_TEMPERATURE: Final = 0.0


@dataclass(frozen=True, slots=True)
class JudgePrompt:
    """What one judgment asks: the prompt's name, the two messages, and its longest answer.

    Attributes:
        name: The name of the prompt's wording; another wording has another name.
        system: The system message.
        user: The user's message.
        max_tokens: Most tokens of the judgment.
    """

    name: str
    system: str
    user: str
    max_tokens: int

    @property
    def messages(self) -> tuple[dict[str, str], ...]:
        """The request of a chat endpoint, in OpenAI's form."""
        return (
            {"role": "system", "content": self.system},
            {"role": "user", "content": self.user},
        )

    @property
    def digest(self) -> str:
        """The digest of the user's message; see `digest_of`."""
        return digest_of(self.user)


def digest_of(user: str) -> str:
    """Return the SHA-256 of a user's message in UTF-8; half a surrogate pair becomes "?"."""
    return hashlib.sha256(user.encode("utf-8", "replace")).hexdigest()
