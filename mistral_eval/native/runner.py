"""Run score and generate requests on our transformer, in token ids.

Replies do not depend on which requests are known, nor, beyond the last bits of a float, on the
requests' order, on other requests, or on `batch_tokens`.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from mistral_eval.errors import EngineError, ResourceError
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.load.by_layer import LayerReader, streamed_bytes
from mistral_eval.model.load.layout import expected_shapes
from mistral_eval.model.memory import free_bytes, peak_bytes, sharing_processes, total_bytes
from mistral_eval.model.products import NO_WAYS, Ways
from mistral_eval.model.transformer import Transformer
from mistral_eval.native.admission import Budget
from mistral_eval.native.clusters import unique_tokens
from mistral_eval.native.generate_shared import SharedGenerator
from mistral_eval.native.pack_batches import CPU_COSTS
from mistral_eval.native.requests import (
    Counters,
    GenerateReply,
    GenerateRequest,
    ScoreReply,
    ScoreRequest,
    Stop,
    Turn,
    check_generate_requests,
    check_score_requests,
    never,
)
from mistral_eval.native.score_tree import score_tree
from mistral_eval.native.stream import Forecast, forecast

Request_contra = TypeVar("Request_contra", contravariant=True)
Reply_co = TypeVar("Reply_co", covariant=True)
Item = TypeVar("Item")

_CACHED_A_TOKEN = 48  # tokens whose keys and values generation may cache, per token of the budget
_TOKENS_A_ROW = 8  # a decoding step needs few tokens but much memory: one row per 8 tokens
_STREAMED_TOKENS_A_ROW = 2  # with streamed layers every step reads all weights, for any rows
# Fastest where memory is ample: enough rows for full-speed products, few enough for the CPU's
# caches. Products in half precision are faster and need more rows.
_FAST_TOKENS = {"cpu": 1024, "cuda": 8192}
_FEWEST_TOKENS = 64
_HALVES = (torch.bfloat16, torch.float16)
_SHARE = 0.4  # of the free memory; the rest is for activations, logits and other processes
_PASS_SHARE = 0.2  # of the memory beside the weights
_LONG_PATH = 8192  # tokens


def default_batch_tokens(
    config: ModelConfig, dtype: torch.dtype, device: torch.device, *, is_streamed: bool = False
) -> int:
    """Return the default number of tokens per forward pass: the fastest that fits in memory.

    It depends on the machine's total memory rather than on what is free, so that a resumed run
    uses the same packs.
    """
    tokens = _FAST_TOKENS.get(device.type, 1024)
    if device.type == "cpu" and dtype in _HALVES:
        tokens *= 2
    fitting = pass_tokens(config, dtype, device, is_streamed=is_streamed)
    while tokens > max(_FEWEST_TOKENS, fitting):
        tokens //= 2
    return tokens


def bytes_per_token(config: ModelConfig, dtype: torch.dtype) -> int:
    """Return the bytes of one token's keys and values in all layers (Mistral 7B, bf16: 128 KiB)."""
    return 2 * config.n_layers * config.n_kv_heads * config.head_dim * dtype.itemsize


def pass_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Return an upper bound, in bytes, of what one token of a pass needs.

    It covers the workspace (in a mixture, all tokens may choose one expert), attention's copies of
    queries and outputs, and a mask row (one for each query head that shares keys) over a path
    longer than any benchmark's; not weights, cache and gathered keys.
    """
    heads = 8 * config.n_heads + 4 * config.n_kv_heads
    repeats = config.n_heads // config.n_kv_heads
    values = 3 * config.dim + heads * config.head_dim + 3 * config.hidden_dim
    if config.experts is not None:  # gathered rows and an expert's output; the router in float32
        values += 2 * config.dim + 6 * config.experts.num_experts
    path = min(config.context_len, _LONG_PATH)
    wide = max(config.dim, (config.n_heads + config.n_kv_heads) * config.head_dim)
    return (values + repeats * path) * dtype.itemsize + 4 * wide


def pass_tokens(
    config: ModelConfig, dtype: torch.dtype, device: torch.device, *, is_streamed: bool = False
) -> int:
    """Return the tokens of a pass that fit in `_PASS_SHARE` of the memory beside the weights."""
    if is_streamed:
        weights = streamed_bytes(config, dtype)
    else:
        values = sum(math.prod(shape) for shape in expected_shapes(config).values())
        weights = values * dtype.itemsize
    room = int(_PASS_SHARE * max(0, total_bytes(device) - weights)) // sharing_processes(device)
    gathered = 2 * CPU_COSTS.gathered * bytes_per_token(config, dtype) // config.n_layers  # packed
    return max(0, room - gathered) // pass_bytes(config, dtype)


def cached_tokens(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> int:
    """Return the number of tokens whose keys and values fit in `_SHARE` of the free memory."""
    free = int(_SHARE * free_bytes(device)) // sharing_processes(device)
    return free // bytes_per_token(config, dtype)


def generation_budget(
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    batch_tokens: int,
    *,
    is_streamed: bool = False,
) -> Budget:
    """Return how much generation holds at once, bounded by `batch_tokens` and free memory.

    With streamed layers it is as much as memory allows.
    """
    cached = cached_tokens(config, dtype, device)
    if is_streamed:
        return Budget(max(1, batch_tokens // _STREAMED_TOKENS_A_ROW), batch_tokens, cached)
    return Budget(
        rows=max(1, batch_tokens // _TOKENS_A_ROW),
        tokens=batch_tokens,
        cached=min(batch_tokens * _CACHED_A_TOKEN, cached),
    )


class _Answer(Protocol[Request_contra, Reply_co]):
    """Answers the unknown requests within the runner's current budget."""

    def __call__(
        self, requests: Sequence[Request_contra], turn: Turn
    ) -> Iterator[tuple[int, Reply_co]]: ...


class ModelRunner:
    """Scores and generates on the device and in the dtype of the weights."""

    def __init__(  # noqa: PLR0913 - what a model is made of, and how it runs
        self,
        config: ModelConfig,
        weights: Mapping[str, Tensor],
        *,
        n_words: int,
        eos_ids: Sequence[int],
        batch_tokens: int | None = None,
        layers: LayerReader | None = None,
        ways: Ways = NO_WAYS,
        takes: bool = False,
    ) -> None:
        """Build the transformer from weights, which are copied only if `ways` pack them.

        Args:
            config: the model's shape.
            weights: by our names, wq and wk in the half-split layout (see `load.layout`).
            n_words: number of the tokenizer's ids; further rows of the LM head are never predicted.
            eos_ids: each ends a generation.
            batch_tokens: tokens per forward pass; None chooses by device and memory.
            layers: reads the weights of layers, if those are not in memory.
            ways: how to multiply by them.
            takes: remove tensors that may be packed from `weights`, a dict, as they are built in.

        Raises:
            CheckpointError: a tensor is missing or has the wrong shape.
            EngineError: `batch_tokens` is not positive.
        """
        read_layer = None if layers is None else layers.tensors_of
        self.model = Transformer(config, weights, n_words, ways, read_layer, takes=takes)
        self._read_layer = read_layer
        if batch_tokens is None:
            batch_tokens = default_batch_tokens(
                config, self.model.dtype, self.model.device, is_streamed=layers is not None
            )
        if batch_tokens < 1:
            raise EngineError(
                f"--batch-tokens should be 1 or more and is {batch_tokens}: give a larger number."
            )
        self.batch_tokens = batch_tokens
        self.eos_ids = tuple(eos_ids)
        self.stats = Counters()
        self.stopping: Stop = never

    def score(
        self, requests: Sequence[ScoreRequest], known: Collection[int] = ()
    ) -> Iterator[tuple[int, ScoreReply]]:
        """Score every request not in `known`.

        Known requests still take part in batching, so a resumed run computes identical bits.

        Raises:
            EngineError: a request is invalid (all are checked first), or logits are not finite.
        """
        check_score_requests(requests, self.model.config.context_len, self.model.n_words)
        yield from self._timed(self._retrying(requests, known, self._scores), "score_seconds")

    def generate(
        self, requests: Sequence[GenerateRequest], known: Collection[int] = ()
    ) -> Iterator[tuple[int, GenerateReply]]:
        """Generate for every request not in `known`, which still take part in batching.

        Raises:
            EngineError: a request is invalid (all are checked first), or logits are not finite.
        """
        check_generate_requests(requests, self.model.config.context_len, self.model.n_words)
        replies = self._retrying(requests, known, self._generations)
        yield from self._timed(replies, "generate_seconds")

    def forecast(
        self, requests: Sequence[GenerateRequest], known: Collection[int] = ()
    ) -> Forecast | None:
        """Read a layer to tell how long generation will take; None if nothing is to be read."""
        asked = [request for n, request in enumerate(requests) if n not in known]
        if self._read_layer is None or not any(request.max_tokens for request in asked):
            return None
        return forecast(asked, self._generation_budget(), self.model.config, self._read_layer)

    def _generation_budget(self) -> Budget:
        model = self.model
        return generation_budget(
            model.config,
            model.dtype,
            model.device,
            self.batch_tokens,
            is_streamed=model.is_streamed,
        )

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
        generator = SharedGenerator(self.model, self.eos_ids, self._generation_budget(), self.stats)
        return generator.run(requests, turn)

    def _retrying(
        self,
        requests: Sequence[Request_contra],
        known: Collection[int],
        answer: "_Answer[Request_contra, Reply_co]",
    ) -> Iterator[tuple[int, Reply_co]]:
        """Yield replies. On out-of-memory, halve the budget and retry the unanswered requests.

        Replies do not depend on the budget, so those already yielded remain valid.
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
                return  # everything is answered, or `stopping` returned True
            if len(done) < len(requests):
                self._halve(reason)
                again = True

    def _timed(self, replies: Iterator[Item], counter: str) -> Iterator[Item]:
        """Yield replies, adding the seconds they take to a counter; then record peak memory."""
        started = perf_counter()
        for reply in replies:
            setattr(self.stats, counter, getattr(self.stats, counter) + perf_counter() - started)
            yield reply
            started = perf_counter()
        self.stats.peak_bytes = peak_bytes()
        if self.model.device.type == "cuda":
            self.stats.peak_device_bytes = torch.cuda.max_memory_allocated(self.model.device)

    def _halve(self, reason: str) -> None:
        """Halve the budget and free the memory of the failed pass.

        Raises:
            ResourceError: the budget is already one token.
        """
        if self.batch_tokens == 1:
            raise ResourceError(
                f"{self.model.device} cannot hold a single token beside the weights ({reason}): "
                "free its memory, or use a smaller --dtype or another --device."
            )
        self.batch_tokens = max(1, self.batch_tokens // 2)
        self.stats.halvings += 1
        self.model.release()
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
