"""Measure requests that share a prompt: the prompt computed once, or for each request."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from mistral_eval.bench.cases import BenchSettings
from mistral_eval.bench.measure import Clock
from mistral_eval.model.attention import Attend
from mistral_eval.model.transformer import Transformer
from mistral_eval.native.generate_shared import SharedGenerator
from mistral_eval.native.plain import PlainGenerator, score_plain
from mistral_eval.native.requests import Counters, GenerateRequest, Sampling, ScoreRequest
from mistral_eval.native.runner import default_batch_tokens, generation_budget
from mistral_eval.native.score_tree import score_tree

PROMPT = 1024  # tokens: about a few-shot prompt of the paper's suite
REQUESTS = 8
CONTINUATION = 16  # tokens of each scored continuation
_PASSES = 3


@dataclass(frozen=True, slots=True)
class Shared:
    """One kind of request (`score` or `generate`), with or without sharing the prefix.

    `prompt` is the length of the common prompt in tokens, `computed` the tokens that ran through
    the model, `seconds` the median over the passes.
    """

    what: str
    shared: bool
    prompt: int
    requests: int
    computed: int
    seconds: float


class Counted(Transformer):
    """A transformer that counts the tokens that run through it."""

    computed = 0

    def hidden(
        self, tokens: Tensor, positions: Tensor, attend: Attend, rows: Tensor | None = None
    ) -> Tensor:
        """Count the tokens and call `Transformer.hidden`."""
        self.computed += len(tokens)
        return super().hidden(tokens, positions, attend, rows)


def prompt_tokens(settings: BenchSettings) -> int:
    """Return the prompt's length: prompt and continuation stay within the shortest context."""
    following = max(CONTINUATION, min(settings.decode_tokens, settings.contexts[0] // 2))
    return max(1, min(PROMPT, settings.contexts[0] - following))


def measure_prefix(model: Counted, settings: BenchSettings) -> list[Shared]:
    """Score and generate for `REQUESTS` requests with one prompt, with and without sharing it."""
    ids = _ids(model, settings)
    prompt = tuple(ids[: prompt_tokens(settings)])
    tails = [tuple(ids[-CONTINUATION * (n + 1) :][:CONTINUATION]) for n in range(REQUESTS)]
    scores = [ScoreRequest(prompt, tail) for tail in tails]
    steps = min(settings.decode_tokens, settings.contexts[0] // 2)
    drawn = [
        GenerateRequest(prompt, steps, Sampling(temperature=1.0), f"{settings.seed}|bench|0|{n}")
        for n in range(REQUESTS)
    ]
    budget = default_batch_tokens(model.config, model.dtype, model.device)
    room = generation_budget(model.config, model.dtype, model.device, budget)
    plain = PlainGenerator(model, (), rows=REQUESTS, chunk=settings.chunk)
    fast = SharedGenerator(model, (), room, Counters())
    ways: list[tuple[str, bool, Callable[[], object]]] = [
        ("score", False, lambda: list(score_plain(model, scores, budget))),
        ("score", True, lambda: list(score_tree(model, scores, budget, Counters()))),
        ("generate", False, lambda: list(plain.run(drawn))),
        ("generate", True, lambda: list(fast.run(drawn))),
    ]
    return [
        Shared(what, shared, len(prompt), REQUESTS, *_timed(model, call, settings))
        for what, shared, call in ways
    ]


def _timed(
    model: Counted, call: Callable[[], object], settings: BenchSettings
) -> tuple[int, float]:
    """Return the tokens computed by one call, and its median seconds after a warm-up call."""
    clock = Clock(model.device, processor=settings.clock == "cpu")
    seconds = []
    for _ in range(1 + min(settings.repeats, _PASSES)):
        model.computed = 0
        started = clock.now()
        call()
        seconds.append(clock.now() - started)
    return model.computed, median(seconds[1:])


def _ids(model: Transformer, settings: BenchSettings) -> list[int]:
    """Return random ids: the prompt, then the continuations."""
    count = prompt_tokens(settings) + REQUESTS * CONTINUATION
    generator = torch.Generator().manual_seed(settings.seed)
    found: list[int] = torch.randint(model.n_words, (count,), generator=generator).tolist()
    return found
