"""Measure this machine: seconds per token of a model, and FLOP per second of matrix products.

Time is linear in the number of layers, so one and two layers of random weights give the time of the
whole model. Its weights need not exist, nor fit in memory.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from time import perf_counter
from typing import Final

import torch

from mistral_eval.model.config import ModelConfig
from mistral_eval.model.load.layout import expected_shapes
from mistral_eval.model.products import Way, multiplied, packed, possible_ways
from mistral_eval.native.requests import GenerateRequest, ScoreRequest
from mistral_eval.native.runner import ModelRunner
from mistral_eval.native.tree import build_tree
from mistral_eval.native.work import Place, Work

_SCORED = 1024  # tokens of the scoring sample, about
_PROMPT = 512  # tokens of a prompt in the decoding sample
_PASSES = 4  # the first warms up
_STEPS = 3  # decoding steps timed with all rows, and then with one
_SMALLEST: Final = 256
_LARGEST: Final = {"cpu": 2048, "cuda": 8192}


@dataclass(frozen=True, slots=True)
class Rates:
    """Seconds of the model's work.

    Attributes:
        score: per token computed while scoring or prefilling.
        step: per decoding step, however many rows it has.
        decode: per token generated, beside its step.
    """

    score: float
    step: float
    decode: float

    def seconds(self, work: Work, decoded: float, steps: float) -> float:
        """Estimate the seconds `work` takes if so many tokens are generated in so many steps."""
        return work.unique * self.score + steps * self.step + decoded * self.decode

    def token(self, rows: int) -> float:
        """Return the seconds per token generated in steps of so many rows."""
        return self.decode + self.step / rows


def random_weights(
    config: ModelConfig, dtype: torch.dtype, device: torch.device, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Return random weights of a model's shape: norms of one, small normal matrices."""
    generator = torch.Generator(device).manual_seed(seed)
    weights = {}
    for name, shape in expected_shapes(config).items():
        if len(shape) == 1:
            weights[name] = torch.ones(shape, dtype=dtype, device=device)
        else:
            blank = torch.empty(shape, dtype=dtype, device=device)
            weights[name] = blank.normal_(0.0, 0.02, generator=generator)
    return weights


def calibrate(
    scores: Sequence[ScoreRequest],
    generations: Sequence[GenerateRequest],
    place: Place,
    n_words: int,
) -> Rates:
    """Time some of the run's own requests with one layer, then with two."""
    sample = _score_sample(scores)
    replies = _decode_sample(generations, place)
    timed = []
    for layers in (1, 2):
        config = replace(
            place.config, n_layers=layers, sliding_window=place.config.sliding_window[:1] * layers
        )
        runner = ModelRunner(
            config,
            random_weights(config, place.dtype, place.device),
            n_words=n_words,
            eos_ids=(),
            batch_tokens=place.budget.tokens,
            ways=place.ways,
        )
        timed.append((_score_seconds(runner, sample), *_decode_seconds(runner, replies)))
    more = place.config.n_layers - 1
    pairs = zip(*timed, strict=True)
    return Rates(*(one + more * max(0.0, two - one) for one, two in pairs))


def _score_sample(requests: Sequence[ScoreRequest]) -> list[ScoreRequest]:
    """Pick requests evenly from the run until they have `_SCORED` tokens."""
    sample: list[ScoreRequest] = []
    size = 0
    step = max(1, len(requests) // 7)
    for start in range(step):
        for request in requests[start::step]:
            if size >= _SCORED:
                return sample
            sample.append(request)
            size += len(request.context) + len(request.continuation)
    return sample


def _decode_sample(requests: Sequence[GenerateRequest], place: Place) -> list[GenerateRequest]:
    """Return as many samples of the longest prompt as are decoded in one step, at least two.

    The first ends with the prefill, the last takes twice as many steps as the others.
    """
    longest = max(requests, key=lambda request: len(request.prompt), default=None)
    if longest is None:
        return []
    prompt = longest.prompt[-_PROMPT:]
    others = max(0, min(place.budget.rows, len(requests)) - 2)
    limits = [1, *[1 + _STEPS] * others, 1 + 2 * _STEPS]
    return [
        replace(longest, prompt=prompt, key=f"{n}", is_done=None, max_tokens=limit)
        for n, limit in enumerate(limits)
    ]


def _score_seconds(runner: ModelRunner, sample: list[ScoreRequest]) -> float:
    """Return seconds per token computed, in the second of two passes (the first warms up)."""
    if not sample:
        prompt = tuple(range(3, 3 + min(_SCORED, runner.model.config.context_len - 1)))
        sample = [ScoreRequest(prompt, (3,))]
    tokens = len(build_tree(sample).tokens)
    for _ in range(2):
        seconds = _timed(runner, runner.score(sample))
    return seconds / tokens


def _decode_seconds(runner: ModelRunner, sample: list[GenerateRequest]) -> tuple[float, float]:
    """Return seconds per decoding step, and on top per token drawn.

    Between the first reply and the last but one all other rows are decoded, then the last alone.
    The shortest times of several passes count, behind a first one that warms up.
    """
    if not sample:
        return 0.0, 0.0
    rows = len(sample) - 1
    alone = together = math.inf
    for n in range(_PASSES):
        came = [perf_counter() for _ in runner.generate(sample)]
        if n:
            alone = min(alone, (came[-1] - came[-2]) / (_STEPS if rows > 1 else 2 * _STEPS))
            together = min(together, (came[-2] - came[0]) / _STEPS)
    token = max(0.0, together - alone) / max(1, rows - 1)
    return max(alone - token, 0.0), token


def _timed(runner: ModelRunner, replies: Iterator[object]) -> float:
    """Return the seconds it takes to compute all replies, which are generated lazily."""
    if runner.model.device.type == "cuda":
        torch.cuda.synchronize(runner.model.device)
    started = perf_counter()
    list(replies)
    if runner.model.device.type == "cuda":
        torch.cuda.synchronize(runner.model.device)
    return perf_counter() - started


def matrix_rate(
    dtype: torch.dtype,
    device: torch.device,
    *,
    seconds: float = 0.5,
    clock: Callable[[], float] = perf_counter,
) -> float:
    """Return the best FLOP per second of square matrix products, by any way, within a time limit.

    Sizes start small and double, so that a slow machine exceeds `seconds` by at most one product of
    the smallest size.

    Return 0.0 if the smallest matrices do not fit in the device's memory.
    """
    size, best, begin = _SMALLEST, 0.0, clock()
    largest = _LARGEST.get(device.type, _SMALLEST)
    while True:
        try:
            left = torch.randn(size, size, device=device).to(dtype)
        except torch.OutOfMemoryError:  # the model fills the device
            return best
        spent = float("inf")
        for way in cycle(possible_ways(dtype, device)):  # the plain one first
            right = packed(left) if way is Way.PACKED else left
            start = clock()
            multiplied(left, right, way)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            spent = min(spent, clock() - start)
            rest = seconds - (clock() - begin)
            grows = size < largest and 16 * spent < rest  # 8 times the work, and a new matrix
            if grows or spent > rest:
                break
        best = max(best, 2 * size**3 / max(spent, 1e-9))
        if not grows:
            return best
        size *= 2
