"""Count what requests would cost, without a model: tokens, sharing, and memory of caches."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import torch

from mistral_eval.model.config import ModelConfig
from mistral_eval.model.load.by_layer import streamed_bytes
from mistral_eval.model.load.weights import weight_bytes
from mistral_eval.model.products import NO_WAYS, Ways
from mistral_eval.model.shared_cache import cache_bytes, row_slots, tail_size
from mistral_eval.native.admission import Budget
from mistral_eval.native.clusters import cluster_prompts, unique_tokens
from mistral_eval.native.pack_attention import stack_bytes
from mistral_eval.native.requests import GenerateRequest, ScoreRequest
from mistral_eval.native.stream import room_on, super_pack_bytes
from mistral_eval.native.tree import build_tree


@dataclass(frozen=True, slots=True)
class Place:
    """The model and machine on which requests would be computed.

    `is_streamed` tells whether the model's layers would be read on demand, `ways` how matrices
    would be multiplied.
    """

    config: ModelConfig
    dtype: torch.dtype
    device: torch.device
    budget: Budget
    is_streamed: bool = False
    ways: Ways = field(default_factory=lambda: NO_WAYS)

    @property
    def weight_bytes(self) -> int:
        """The most bytes of weights in memory at once."""
        size = streamed_bytes if self.is_streamed else weight_bytes
        return size(self.config, self.dtype)


@dataclass(frozen=True, slots=True)
class Work:
    """What a set of requests costs.

    Attributes:
        score_requests: continuations to score.
        score_naive: tokens that lm-eval's `hf` model feeds for them.
        score_unique: tokens that the native engine computes for them.
        generate_requests: replies to generate, counting samples.
        prompt_naive: tokens of their prompts, one prompt per reply, as `hf` feeds them.
        prompt_unique: tokens in the prompts' prefix tree. The engine shares equal prompts and the
            block with which a benchmark's prompts begin; what questions share beyond the block is
            computed for each.
        decode_most: tokens generated if every reply reaches its limit.
        cache_bytes: maximum bytes of keys and values held at once.
        states_bytes: maximum bytes of hidden states and masks between streamed layers.
    """

    score_requests: int
    score_naive: int
    score_unique: int
    generate_requests: int
    prompt_naive: int
    prompt_unique: int
    decode_most: int
    cache_bytes: int
    states_bytes: int = 0

    @property
    def naive(self) -> int:
        """Tokens that `hf` would be fed, without generated ones."""
        return self.score_naive + self.prompt_naive

    @property
    def unique(self) -> int:
        """Tokens when each shared one is computed once, without generated ones."""
        return self.score_unique + self.prompt_unique

    def repeated(self, again: "Work", times: int) -> "Work":
        """Return the cost of this work and then, `times` times, of other work; nothing is kept."""
        most = ("cache_bytes", "states_bytes")
        both = asdict(self)
        for name, value in asdict(again).items() if times else ():
            both[name] = max(both[name], value) if name in most else both[name] + times * value
        return Work(**both)


def decoding_steps(work: Work, decoded: float, budget: Budget) -> float:
    """Estimate the steps in which a work's replies are decoded, `decoded` tokens in all.

    All rows are busy until no reply waits for one; then the longest replies decide. Lengths are
    taken to be distributed exponentially, as far as their limit allows: those of trained SmolLM2 to
    word problems have a median of 35 and a mean of 41, and a few are beyond 450. Of n such lengths
    the longest is the mean times the n-th harmonic number, on average.
    """
    replies = work.generate_requests
    if not replies:
        return 0.0
    limit, mean = work.decode_most / replies, decoded / replies
    fitting = max(1, budget.cached // max(1, row_slots(round(limit))))
    rows = min(replies, budget.rows, fitting)
    harmonic = sum(1 / n for n in range(1, rows + 1))
    return (replies - rows) * mean / rows + min(limit, mean * harmonic)


def count_work(
    scores: Sequence[ScoreRequest], generations: Sequence[GenerateRequest], place: Place
) -> Work:
    """Count what requests cost together on the native engine."""
    tree = build_tree(scores)
    size = min(place.budget.tokens, len(tree.tokens))
    states, stack = 0, stack_bytes(place.config, place.dtype, tree.height, size)
    if place.is_streamed:
        room = room_on(place.device)
        states, stack = super_pack_bytes(place.config, place.dtype, tree, size, room)
    wanted = [request for request in generations if request.max_tokens > 0]
    return Work(
        score_requests=len(scores),
        score_naive=tree.naive_tokens,
        score_unique=len(tree.tokens),
        generate_requests=len(generations),
        prompt_naive=sum(len(request.prompt) for request in generations),
        prompt_unique=unique_tokens(generations),
        decode_most=sum(request.max_tokens for request in generations),
        cache_bytes=max(stack, _generation_bytes(wanted, place)),
        states_bytes=states,
    )


def _generation_bytes(requests: Sequence[GenerateRequest], place: Place) -> int:
    """Return the most bytes of keys and values that generation can hold at once.

    That is with the longest replies in all rows, each behind a prompt of its own, with prompts
    computed ahead, and with the longest block and the next one.
    """
    rows = sorted((request.max_tokens for request in requests), reverse=True)[: place.budget.rows]
    clusters = cluster_prompts(requests)
    tails = (tail_size(len(asked.tail)) for cluster in clusters for asked in cluster.prompts)
    roots = sorted((len(cluster.root) for cluster in clusters), reverse=True)
    shared = sum(roots[:2]) + sum(sorted(tails, reverse=True)[: place.budget.prompts])
    most = cache_bytes(place.config, shared, rows, place.dtype)
    allowed = cache_bytes(place.config, place.budget.cached, (), place.dtype)
    alone = cache_bytes(place.config, shared, rows[:1], place.dtype)
    return max(min(most, allowed), min(most, alone))
