"""The only currency between the adapter and an engine: requests and replies in token ids.

An engine is anything with the two methods of `Engine`. It yields `(index, reply)` pairs as soon
as they are known, in any order, each index of the input exactly once; the caller writes each
reply to the journal before it counts.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """How likely is `continuation` after `context`? Both non-empty; BOS is in `context`."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ScoreReply:
    """Sum of natural-log probabilities (float32), and whether each token is the argmax."""

    logprob: float
    is_greedy: bool


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw: `temperature` 0 is greedy; `top_p` 1.0 and `top_k` 0 switch the cuts off."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """Continue `prompt` (with its BOS) for at most `max_tokens` tokens.

    `key` names the draw ("<seed>|<benchmark>|<question id>|<sample index>"): the noise depends on
    it, on the step and on the token id, and on nothing else. `is_done` sees the ids generated so
    far after each step (EOS excluded) and says whether to stop: stop strings are text, and text is
    the adapter's business.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling = Sampling()
    key: str = ""
    is_done: Callable[[Sequence[int]], bool] | None = None


@dataclass(frozen=True, slots=True)
class GenerateReply:
    """The generated ids, EOS excluded, and why generation ended."""

    ids: tuple[int, ...]
    finish: Literal["eos", "stop", "length"]


class Engine(Protocol):
    """Answers requests. Replies come in any order; each index of the input comes once."""

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, ScoreReply]]:
        """Log-likelihoods of continuations."""
        ...

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, GenerateReply]]:
        """Continuations of prompts."""
        ...
