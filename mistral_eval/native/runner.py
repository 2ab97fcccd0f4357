"""The native engine: our transformer behind the `Engine` protocol.

Replies do not depend on the order of the requests, on what stands beside them, or on
`batch_tokens`, beyond the last bits of a float; and not at all on which of them are known.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from mistral_eval.errors import EngineError, ResourceError
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.transformer import Transformer
from mistral_eval.native.budget import cached_tokens, pass_tokens, peak_bytes
from mistral_eval.native.generate_shared import Budget, SharedGenerator
from mistral_eval.native.prompts import unique_tokens
from mistral_eval.native.requests import (
    Counters,
    GenerateReply,
    GenerateRequest,
    ScoreReply,
    ScoreRequest,
    Stopping,
    Turn,
    check_generate_requests,
    check_score_requests,
    never,
)
from mistral_eval.native.score_tree import score_tree

Request_contra = TypeVar("Request_contra", contravariant=True)
Reply_co = TypeVar("Reply_co", covariant=True)

_CACHED_A_TOKEN = 64  # keys and values that samples may hold, per token of the budget
_TOKENS_A_ROW = 8  # a decoding step is cheap in tokens but not in memory: one row per 8 tokens
# What is fastest where memory is no matter: enough rows for full-speed products, few enough for
# the caches. Products in the half formats are faster and want more rows.
_FAST_TOKENS = {"cpu": 1024, "cuda": 8192}
_FEWEST_TOKENS = 64
_HALVES = (torch.bfloat16, torch.float16)


def default_batch_tokens(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> int:
    """Tokens of one forward pass, where nobody chooses: what is fast, fewer where memory is short.

    The memory is the machine's, not what is free now: a run that goes on cuts the same packs.
    """
    tokens = _FAST_TOKENS.get(device.type, 1024)
    if device.type == "cpu" and dtype in _HALVES:
        tokens *= 2
    fitting = pass_tokens(config, dtype, device)
    while tokens > max(_FEWEST_TOKENS, fitting):
        tokens //= 2
    return tokens


def generation_budget(
    config: ModelConfig, dtype: torch.dtype, device: torch.device, batch_tokens: int
) -> Budget:
    """What generation may hold at once: bounded by the token budget and by the free memory."""
    return Budget(
        rows=max(1, batch_tokens // _TOKENS_A_ROW),
        tokens=batch_tokens,
        cached=min(batch_tokens * _CACHED_A_TOKEN, cached_tokens(config, dtype, device)),
    )


class _Answer(Protocol[Request_contra, Reply_co]):
    """Answers what is not known under the engine's budget."""

    def __call__(
        self, requests: Sequence[Request_contra], turn: Turn
    ) -> Iterator[tuple[int, Reply_co]]: ...


class ModelRunner:
    """Scores and generates with our transformer, on the device and in the dtype of its weights.

    `stopping` is asked before each forward pass; once it says yes, replies that are complete come,
    and no more.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, Tensor],
        *,
        n_words: int,
        eos_id: int,
        batch_tokens: int | None = None,
    ) -> None:
        """Take the weights as they are.

        Args:
            config: the model's shape.
            weights: by Mistral's names, rotary layers in the half-split layout.
            n_words: ids the tokenizer has; further rows of the LM head are never predicted.
            eos_id: ends a generation.
            batch_tokens: tokens of one forward pass; None chooses by device and memory.

        Raises:
            CheckpointError: a tensor is missing or has the wrong shape.
            EngineError: `batch_tokens` is not positive.
        """
        self.model = Transformer(config, weights, n_words)
        if batch_tokens is None:
            batch_tokens = default_batch_tokens(config, self.model.dtype, self.model.device)
        if batch_tokens < 1:
            raise EngineError(
                f"expected a budget of 1 or more tokens a batch, found {batch_tokens}"
            )
        self.batch_tokens = batch_tokens
        self.eos_id = eos_id
        self.stats = Counters()
        self.stopping: Stopping = never

    def score(
        self, requests: Sequence[ScoreRequest], known: Collection[int] = ()
    ) -> Iterator[tuple[int, ScoreReply]]:
        """Log-likelihoods of continuations, save of `known` requests, which shape the packs.

        Raises:
            EngineError: a request that cannot be scored (all are checked first), or logits that
                are not finite.
        """
        check_score_requests(requests, self.model.config.context_len, self.model.n_words)
        replies = self._sturdy(requests, known, self._scores)
        started = perf_counter()
        for reply in replies:
            self.stats.score_seconds += perf_counter() - started
            yield reply
            started = perf_counter()
        self._note_peak()

    def generate(
        self, requests: Sequence[GenerateRequest], known: Collection[int] = ()
    ) -> Iterator[tuple[int, GenerateReply]]:
        """Continuations of prompts, save of `known` requests, which shape the clusters.

        Raises:
            EngineError: a request that cannot be served (all are checked first), or logits that
                are not finite.
        """
        check_generate_requests(requests, self.model.config.context_len, self.model.n_words)
        replies = self._sturdy(requests, known, self._generations)
        started = perf_counter()
        for reply in replies:
            self.stats.generate_seconds += perf_counter() - started
            yield reply
            started = perf_counter()
        self._note_peak()

    def _scores(
        self, requests: Sequence[ScoreRequest], turn: Turn
    ) -> Iterator[tuple[int, ScoreReply]]:
        return score_tree(self.model, requests, self.batch_tokens, self.stats, turn=turn)

    def _generations(
        self, requests: Sequence[GenerateRequest], turn: Turn
    ) -> Iterator[tuple[int, GenerateReply]]:
        if not turn.again:
            asked = [request for n, request in enumerate(requests) if n not in turn.known]
            self.stats.prompt_unique += unique_tokens(asked)
            self.stats.prompt_naive += sum(len(request.prompt) for request in asked)
        model = self.model
        budget = generation_budget(model.config, model.dtype, model.device, self.batch_tokens)
        return SharedGenerator(model, self.eos_id, budget, self.stats).run(requests, turn)

    def _sturdy(
        self,
        requests: Sequence[Request_contra],
        known: Collection[int],
        answer: "_Answer[Request_contra, Reply_co]",
    ) -> Iterator[tuple[int, Reply_co]]:
        """Replies; what is missing when the device's memory runs out is asked again, by halves.

        Replies do not depend on the budget, so those that are out already stay.
        """
        done, again = set(known), False
        while len(done) < len(requests):
            reason = None
            try:
                for n, reply in answer(requests, Turn(frozenset(done), again, self.stopping)):
                    done.add(n)
                    yield n, reply
            except torch.OutOfMemoryError as error:
                reason = str(error).partition("\n")[0]
            if reason is None:
                return  # all is answered, or it was told to stop
            if len(done) < len(requests):
                self._halve(reason)
                again = True

    def _note_peak(self) -> None:
        self.stats.peak_bytes = peak_bytes()
        if self.model.device.type == "cuda":
            self.stats.peak_device_bytes = torch.cuda.max_memory_allocated(self.model.device)

    def _halve(self, reason: str) -> None:
        """Half the budget from now on, once the failed pass has let go of its memory.

        Raises:
            ResourceError: there is nothing to halve.
        """
        if self.batch_tokens == 1:
            raise ResourceError(
                f"{self.model.device} cannot hold a single token beside the weights ({reason}): "
                "free its memory, or take a smaller --dtype or another --device."
            )
        self.batch_tokens = max(1, self.batch_tokens // 2)
        self.stats.halvings += 1
        self.model.release()
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
