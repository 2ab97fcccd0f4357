"""The only currency between the adapter and an engine: requests and replies in token ids.

An engine is anything with the two methods of `Engine`. It yields `(index, reply)` pairs as soon
as they are known, in any order, each index of the input exactly once, save those the caller says it
knows; the caller writes each reply to the journal before it counts. An engine that is told to stop
ends after the pass in flight, with what that answers.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol

from mistral_eval.errors import EngineError, RequestError


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


@dataclass(slots=True)
class Counters:
    """Counters of one engine, added up over its calls.

    Attributes:
        score_computed: tokens that scoring ran through the model.
        score_unique: tokens of the prefix trees of the score requests.
        score_naive: tokens of the distinct sequences `(context + continuation)[:-1]`: what
            lm-eval's `hf` model feeds, which merges requests that differ in the last token only.
        prompt_computed: prompt tokens that generation ran through the model.
        prompt_unique: tokens of the prefix trees of the prompts.
        prompt_naive: tokens of all prompts, one prompt a request, as `hf` feeds them.
        generated: tokens drawn, EOS included.
        score_flop: useful arithmetic of scoring (see `flops`), of what was computed.
        generate_flop: useful arithmetic of generation, prompts and replies that ended.
        score_seconds: wall time spent scoring.
        generate_seconds: wall time spent generating.
        halvings: how often the device's memory ran out and the token budget was halved; what had
            been computed for requests without a reply was then computed again, and counts twice as
            computed, once as unique.
        peak_bytes: the process's largest resident memory so far.
        peak_device_bytes: the largest memory held by tensors on a CUDA device so far; else 0.
    """

    score_computed: int = 0
    score_unique: int = 0
    score_naive: int = 0
    prompt_computed: int = 0
    prompt_unique: int = 0
    prompt_naive: int = 0
    generated: int = 0
    score_flop: int = 0
    generate_flop: int = 0
    score_seconds: float = 0.0
    generate_seconds: float = 0.0
    halvings: int = 0
    peak_bytes: int = 0
    peak_device_bytes: int = 0


class Runner(Protocol):
    """Answers requests. Replies come in any order; each index of the input comes once.

    `known` holds the indices that the caller has a reply to: they shape how the work is cut, so
    that a run that goes on computes what it would have computed undisturbed, and are not answered.
    `stopping` is asked before each pass: once it says yes, the engine ends with what it has.
    """

    stopping: Stopping

    @property
    def stats(self) -> Counters:
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


def check_score_requests(requests: Sequence[ScoreRequest], context_len: int, n_words: int) -> None:
    """Refuse what cannot be scored.

    Raises:
        EngineError: an empty context or continuation, a sequence longer than the model's context,
            or an id that the tokenizer does not have.
    """
    checked = None  # neighbours are choices of one question, with one tuple of ids
    for n, request in enumerate(requests):
        where = f"score request {n}"
        if not request.context:
            raise EngineError(f"{where} has an empty context: begin it with BOS")
        if not request.continuation:
            raise EngineError(f"{where} has an empty continuation: there is nothing to score")
        fed = len(request.context) + len(request.continuation) - 1
        if fed > context_len:
            raise EngineError(
                f"{where} feeds {fed} tokens, the model's context has {context_len}: "
                "cut it with truncate_left first"
            )
        if request.context is not checked:
            _check_ids(request.context, n_words, where)
            checked = request.context
        _check_ids(request.continuation, n_words, where)


def check_generate_requests(
    requests: Sequence[GenerateRequest], context_len: int, n_words: int
) -> None:
    """Refuse what cannot be generated.

    Raises:
        EngineError: an empty prompt, a negative number of tokens, a sequence longer than the
            model's context, an unknown id, or impossible sampling settings.
    """
    for n, request in enumerate(requests):
        where = f"generate request {n}"
        if not request.prompt:
            raise EngineError(f"{where} has an empty prompt: begin it with BOS")
        if request.max_tokens < 0:
            raise EngineError(f"{where} asks for {request.max_tokens} tokens; expected 0 or more")
        if len(request.prompt) + request.max_tokens > context_len:
            raise EngineError(
                f"{where}: a prompt of {len(request.prompt)} and {request.max_tokens} new tokens "
                f"exceed the model's context of {context_len}: cut it with truncate_prompt first"
            )
        _check_ids(request.prompt, n_words, where)
        check_sampling(request.sampling)


def check_sampling(sampling: Sampling) -> None:
    """Refuse settings that draw from nothing.

    Raises:
        EngineError: temperature below 0, top_p outside (0, 1], or top_k below 0.
    """
    if sampling.temperature < 0 or not 0 < sampling.top_p <= 1 or sampling.top_k < 0:
        raise EngineError(
            "expected temperature >= 0, 0 < top_p <= 1 and top_k >= 0, found "
            f"{sampling.temperature}, {sampling.top_p} and {sampling.top_k}"
        )


NOT_FINITE = (
    "the model's logits are not finite; check the checkpoint's weights, or use a dtype with more "
    "range (bfloat16 or float32 instead of float16)"
)


def not_finite(kind: str, index: int) -> RequestError:
    """The error for a logit that is NaN or infinite."""
    return RequestError(kind, index, NOT_FINITE)


def _check_ids(ids: Sequence[int], n_words: int, where: str) -> None:
    lowest, highest = min(ids), max(ids)
    if lowest < 0 or highest >= n_words:
        raise EngineError(
            f"{where}: expected ids in 0 ... {n_words - 1}, found {lowest} ... {highest}"
        )
