"""The only currency between the adapter and an engine: requests and replies in token ids.

An engine is anything with the two methods of `Engine`. It yields `(index, reply)` pairs as soon
as they are known, in any order, each index of the input exactly once, save those the caller says it
knows; the caller writes each reply to the replies log before it counts. An engine that is told to
stop ends after the pass in flight, with what that answers.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol

from mistral_eval.errors import EngineError
from mistral_eval.native.counters import Stats


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


class Stopping(Protocol):
    """Says whether an engine is to end before its next pass."""

    def __call__(self) -> bool:
        """Asked again and again; once it is yes it stays so."""
        ...


def never() -> bool:
    """Nobody wants the engine to stop."""
    return False


@dataclass(frozen=True, slots=True)
class Turn:
    """How an engine is to answer its requests, apart from what they ask.

    Attributes:
        known: indices that are not answered; they shape how the work is cut.
        again: these requests were counted before, and memory ran out.
        stopping: asked before each pass; once it says yes, what was computed is read and the turn
            ends early.
    """

    known: Collection[int] = ()
    again: bool = False
    stopping: Stopping = never


WHOLE: Final = Turn()  # all is answered


class Engine(Protocol):
    """Answers requests. Replies come in any order; each index of the input comes once.

    `known` holds the indices that the caller has a reply to: they shape how the work is cut, so
    that a run that goes on computes what it would have computed undisturbed, and are not answered.
    `stopping` is asked before each pass: once it says yes, the engine ends with what it has.
    """

    stopping: Stopping

    @property
    def stats(self) -> Stats:
        """What was computed so far."""
        ...

    def score(
        self, requests: Sequence[ScoreRequest], known: Collection[int] = ()
    ) -> Iterator[tuple[int, ScoreReply]]:
        """Log-likelihoods of continuations."""
        ...

    def generate(
        self, requests: Sequence[GenerateRequest], known: Collection[int] = ()
    ) -> Iterator[tuple[int, GenerateReply]]:
        """Continuations of prompts."""
        ...


def truncate_left(request: ScoreRequest, max_length: int) -> tuple[ScoreRequest, bool]:
    """A score request cut on the left as lm-eval cuts it, and whether it was cut.

    A model is fed `(context + continuation)[-(max_length + 1):][:-1]`: at most `max_length`
    tokens, the last of which predicts the continuation's last token.

    Raises:
        EngineError: the continuation alone is longer than `max_length`.
    """
    room = max_length + 1 - len(request.continuation)
    if room < 1:
        raise EngineError(
            f"a continuation of {len(request.continuation)} tokens does not fit a context of "
            f"{max_length}: use a model with a longer context"
        )
    if len(request.context) <= room:
        return request, False
    return replace(request, context=request.context[-room:]), True


def truncate_prompt(request: GenerateRequest, max_length: int) -> tuple[GenerateRequest, bool]:
    """A generate request whose prompt leaves room for `max_tokens`, as lm-eval cuts it.

    Raises:
        EngineError: `max_tokens` alone fills the context.
    """
    room = max_length - request.max_tokens
    if room < 1:
        raise EngineError(
            f"{request.max_tokens} new tokens leave no room for a prompt in a context of "
            f"{max_length}: ask for fewer"
        )
    if len(request.prompt) <= room:
        return request, False
    return replace(request, prompt=request.prompt[-room:]), True
