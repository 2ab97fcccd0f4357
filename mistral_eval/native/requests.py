"""Requests and replies in token ids, their validation, and counts of what they cost.

A runner yields `(index, reply)` pairs as soon as they are known, in any order: each index of the
input exactly once, except those the caller already knows. When told to stop, it ends after the
current forward pass and yields the replies that pass completes.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mistral_eval.errors import EngineError, RequestError
from mistral_eval.model.config import ModelConfig

Stop: TypeAlias = Callable[[], bool]  # asked before each forward pass; once True, it stays True


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Ask how likely `continuation` is after `context`; neither is empty, BOS is in `context`."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ScoreReply:
    """Sum of natural-log probabilities of the tokens, and whether each one is the argmax."""

    logprob: float
    is_greedy: bool


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling settings; `temperature` 0 is greedy, `top_p` 1.0 and `top_k` 0 are off."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """Ask to continue `prompt` (with its BOS) for at most `max_tokens` tokens.

    Attributes:
        key: "<seed>|<benchmark>|<question id>|<sample index>"; sampling noise depends only on it,
            on the step and on the token id.
        is_done: called after each step with the ids generated so far, EOS excluded; True ends the
            generation. Stop strings are text, so the caller checks for them.
        first: ids that the first token is drawn from; empty for all.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling = Sampling()
    key: str = ""
    is_done: Callable[[Sequence[int]], bool] | None = None
    first: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerateReply:
    """The generated ids, EOS excluded, and why generation ended."""

    ids: tuple[int, ...]
    finish: Literal["eos", "stop", "length"]


def never() -> bool:
    """Never stop: a `Stop`."""
    return False


@dataclass(frozen=True, slots=True)
class Turn:
    """How to answer a list of requests.

    Attributes:
        known: indices not to answer; they still take part in batching.
        again: whether this is a retry after running out of memory, whose requests are already
            counted as unique and naive tokens.
        stopping: called before each pass; once True, computed results are read and the turn ends.
    """

    known: Collection[int] = ()
    again: bool = False
    stopping: Stop = never


WHOLE: Final = Turn()  # answer everything


@dataclass(slots=True)
class Counters:
    """What a runner has computed, summed over its calls.

    Attributes:
        score_computed: tokens run through the model for scoring.
        score_unique: tokens in the prefix trees of the score requests.
        score_naive: tokens of the distinct sequences `(context + continuation)[:-1]`, which
            lm-eval's `hf` model feeds; it merges requests that differ only in the last token.
        prompt_computed: prompt tokens run through the model for generation.
        prompt_unique: tokens in the prefix trees of the prompts.
        prompt_naive: tokens of all prompts, one prompt per request, as `hf` feeds them.
        generated: tokens drawn, EOS included.
        decode_steps: forward passes that computed the next token of some samples, or several.
        decode_rows: the most samples in one of them.
        draft_tokens: tokens that were proposed and computed beside the next one (see `drafts`).
        accepted_tokens: those of them that were then drawn.
        score_flop: useful arithmetic of the computed scoring (see `Flops`).
        generate_flop: useful arithmetic of prompts and finished generations.
        score_seconds: wall time spent scoring.
        generate_seconds: wall time spent generating.
        halvings: how often the device ran out of memory and the token budget was halved. Work lost
            that way is repeated and counts twice as computed, once as unique.
        peak_bytes: peak resident memory of the process.
        peak_device_bytes: peak memory of tensors on a CUDA device; else 0.
    """

    score_computed: int = 0
    score_unique: int = 0
    score_naive: int = 0
    prompt_computed: int = 0
    prompt_unique: int = 0
    prompt_naive: int = 0
    generated: int = 0
    decode_steps: int = 0
    decode_rows: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    score_flop: int = 0
    generate_flop: int = 0
    score_seconds: float = 0.0
    generate_seconds: float = 0.0
    halvings: int = 0
    peak_bytes: int = 0
    peak_device_bytes: int = 0


# The counters that are peaks: of several processes the largest counts, not the sum.
PEAKS: Final = ("decode_rows", "peak_bytes", "peak_device_bytes")


@dataclass(frozen=True, slots=True)
class Flops:
    """FLOP of one model: useful arithmetic; a multiplication with its addition counts 2.

    Counted are linear layers (of a mixture: those of a token's own experts), attention over visible
    keys, and the LM head over asked rows. Norms, rotations and softmax are left out, as usual, and
    so are masked scores.

    Attributes:
        linear: per token, the linear layers of all blocks.
        end: the part of them that follows the last block's attention.
        key: per key that a token attends to, in one layer with all heads.
        row: per row of logits.
        windows: each attention window with the number of layers that have it.
        last_window: the last layer's.
    """

    linear: int
    end: int
    key: int
    row: int
    windows: tuple[tuple[int | None, int], ...]
    last_window: int | None

    @classmethod
    def of(cls, config: ModelConfig, n_words: int) -> "Flops":
        """Return the FLOP of a model that can predict `n_words` ids."""
        queries = config.n_heads * config.head_dim
        keys = config.n_kv_heads * config.head_dim
        end = config.dim * (queries + _feed_forward_width(config))
        weights = config.dim * (queries + 2 * keys) + end
        return cls(
            linear=2 * weights * config.n_layers,
            end=2 * end,
            key=4 * queries,  # product with the query, and sum of values
            row=2 * config.dim * n_words,
            windows=tuple(Counter(config.sliding_window).items()),
            last_window=config.sliding_window[-1],
        )

    def tokens(self, depths: NDArray[np.int64]) -> int:
        """Return the FLOP of tokens at these positions, (T,), each seeing its prefix and itself."""
        seen = depths + 1
        return self._sum(
            len(depths),
            (
                layers * int((seen if window is None else np.minimum(seen, window)).sum())
                for window, layers in self.windows
            ),
        )

    def spared(self, depths: NDArray[np.int64]) -> int:
        """Return the FLOP that tokens at these positions, (T,), of which nothing is asked spare.

        They need no attention in the last layer, nor what follows it.
        """
        seen = depths + 1
        if self.last_window is not None:
            seen = np.minimum(seen, self.last_window)
        return self.end * len(depths) + self.key * int(seen.sum())

    def span(self, start: int, stop: int) -> int:
        """Return the FLOP of positions `start` ... `stop - 1` of one sequence."""
        keys = (
            layers * (_keys(stop, window) - _keys(start, window)) for window, layers in self.windows
        )
        return self._sum(stop - start, keys)

    def _sum(self, tokens: int, keys: Iterable[int]) -> int:
        return self.linear * tokens + self.key * sum(keys)


def _feed_forward_width(config: ModelConfig) -> int:
    """Return the weights, per input of a layer, that a token is multiplied with.

    In a mixture of experts: those of its experts, and the router's.
    """
    one = 3 * config.hidden_dim
    if config.experts is None:
        return one
    return config.experts.num_experts_per_tok * one + config.experts.num_experts


def _keys(length: int, window: int | None) -> int:
    """Return how many keys the first `length` tokens of a sequence see in one layer."""
    inside = length if window is None else min(length, window)
    return inside * (inside + 1) // 2 + (length - inside) * (window or 0)


def truncate_left(request: ScoreRequest, max_length: int) -> tuple[ScoreRequest, bool]:
    """Truncate a score request on the left, as lm-eval does; return it and whether it changed.

    The model is fed `(context + continuation)[-(max_length + 1):][:-1]`, at most `max_length`
    tokens, the last of which predicts the continuation's last token.

    Raises:
        EngineError: the continuation alone is longer than `max_length`.
    """
    room = max_length + 1 - len(request.continuation)
    if room < 1:
        raise EngineError(
            f"a continuation of {len(request.continuation)} tokens does not fit a context of "
            f"{max_length}"
        )
    if len(request.context) <= room:
        return request, False
    return replace(request, context=request.context[-room:]), True


def truncate_prompt(request: GenerateRequest, max_length: int) -> tuple[GenerateRequest, bool]:
    """Truncate a prompt on the left, as lm-eval does, so that `max_tokens` fit after it.

    Return the request and whether it changed.

    Raises:
        EngineError: `max_tokens` alone fill the context.
    """
    room = max_length - request.max_tokens
    if room < 1:
        raise EngineError(
            f"{request.max_tokens} new tokens leave no room for a prompt in a context of "
            f"{max_length}"
        )
    if len(request.prompt) <= room:
        return request, False
    return replace(request, prompt=request.prompt[-room:]), True


def check_score_requests(requests: Sequence[ScoreRequest], context_len: int, n_words: int) -> None:
    """Validate score requests; errors name the index of the request.

    Raises:
        EngineError: a context or continuation is empty, a sequence is longer than the model's
            context, or an id is not in 0 ... n_words - 1.
    """
    checked = None  # the choices of a question are neighbours and share one tuple of ids
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
                "apply truncate_left first"
            )
        if request.context is not checked:
            _check_ids(request.context, n_words, where)
            checked = request.context
        _check_ids(request.continuation, n_words, where)


def check_generate_requests(
    requests: Sequence[GenerateRequest], context_len: int, n_words: int
) -> None:
    """Validate generate requests; errors name the index of the request.

    Raises:
        EngineError: a prompt is empty, a number of tokens is negative, a sequence is longer than
            the model's context, an id is unknown, or sampling settings are invalid.
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
                f"exceed the model's context of {context_len}: apply truncate_prompt first"
            )
        _check_ids(request.prompt, n_words, where)
        if request.first:
            _check_ids(request.first, n_words, f"{where}, first token")
        check_sampling(request.sampling)


def check_sampling(sampling: Sampling) -> None:
    """Validate sampling settings.

    Raises:
        EngineError: temperature is below 0, top_p outside (0, 1], or top_k below 0.
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
    """Return the error for a request with a logit that is NaN or infinite."""
    return RequestError(kind, index, NOT_FINITE)


def _check_ids(ids: Sequence[int], n_words: int, where: str) -> None:
    lowest, highest = min(ids), max(ids)
    if lowest < 0 or highest >= n_words:
        raise EngineError(
            f"{where}: expected ids in 0 ... {n_words - 1}, found {lowest} ... {highest}"
        )
