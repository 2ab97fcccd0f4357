"""One case, measured: a context prefilled in chunks, its last tokens decoded, the cache weighed."""

from dataclasses import dataclass, field
from statistics import median
from time import perf_counter, process_time

import torch
from torch import Tensor

from mistral_eval.bench.cases import BenchSettings, Case
from mistral_eval.bench.peak_memory import PeakWatch
from mistral_eval.model.attention import Attend
from mistral_eval.model.cache import RollingCache
from mistral_eval.model.transformer import Transformer

ENOUGH_SECONDS = 4.0  # a case that has taken this long is not repeated: its chunks are repeats
_WARM_STEPS = 2


@dataclass(frozen=True, slots=True)
class Speed:
    """What a case took; medians of its passes.

    Attributes:
        prefill: tokens a second, all layers, without the LM head.
        attention: tokens a second of the same prefill if attention were all of it.
        decode: tokens a second of one sequence at the full context, LM head included.
        cache_bytes: memory of the cache's tensors, keys and values of all layers.
        peak_bytes: the most memory held beyond the weights (see `resident`); None if unknown.
        passes: how often it was measured.
        cpu_share: processor seconds over wall seconds and threads, on the CPU: well below 1 where
            other programs took the cores, and then the speeds are those of a busy machine.
    """

    prefill: float
    attention: float
    decode: float
    cache_bytes: int
    peak_bytes: int | None
    passes: int
    cpu_share: float | None


@dataclass(slots=True)
class Clock:
    """Seconds on a device whose work may still be under way when a call returns.

    `processor` counts those in which this process ran, of all its threads, not those that passed.
    """

    device: torch.device
    processor: bool = False
    _marks: list[tuple[torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list)
    _seconds: float = 0.0

    def now(self) -> float:
        """Seconds, once all work is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self._tick()

    def _tick(self) -> float:
        return process_time() if self.processor else perf_counter()

    def timed(self, attend: Attend) -> Attend:
        """An Attend whose own time is added up; CUDA is not made to wait for it."""

        def timed(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if self.device.type != "cuda":
                started = self._tick()
                out = attend(layer, q, k, v)
                self._seconds += self._tick() - started
                return out
            start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            start.record()
            out = attend(layer, q, k, v)
            end.record()
            self._marks.append((start, end))
            return out

        return timed

    def attended(self) -> float:
        """Seconds that were added up since the last call."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        marked = sum(float(start.elapsed_time(end)) for start, end in self._marks) / 1000
        seconds = self._seconds + marked
        self._marks.clear()
        self._seconds = 0.0
        return seconds


@dataclass(frozen=True, slots=True)
class _Pass:
    """Seconds of a prefill, of attention in it, and of each decoding step."""

    prefill: float
    attention: float
    steps: list[float]


def measure(model: Transformer, case: Case, tokens: Tensor, settings: BenchSettings) -> Speed:
    """Measure a case.

    Args:
        model: of the case's shape.
        case: what is measured.
        tokens: ids of the context, (case.context,), on the model's device.
        settings: its clock, and passes at most; none begins after `ENOUGH_SECONDS`.
    """
    clock = Clock(model.device, processor=settings.clock == "cpu")
    with PeakWatch(model.device) as watch:
        like = torch.empty(0, dtype=model.dtype, device=model.device)
        cache = RollingCache(model.config, 1, case.context, like, rolling=case.rolling)
        _warm_up(model, cache, tokens[: _warm(case)], clock)
        passes: list[_Pass] = []
        began, started, used = clock.now(), perf_counter(), process_time()
        while not passes or (
            len(passes) < settings.repeats and clock.now() - began < ENOUGH_SECONDS
        ):
            cache.clear(0)
            passes.append(_one_pass(model, cache, case, tokens, clock))
        share = (process_time() - used) / (perf_counter() - started) / torch.get_num_threads()
        n_bytes = cache.n_bytes
    return Speed(
        prefill=case.prefilled / median(one.prefill for one in passes),
        attention=case.prefilled / median(one.attention for one in passes),
        decode=1 / median(second for one in passes for second in one.steps),
        cache_bytes=n_bytes,
        peak_bytes=watch.growth,
        passes=len(passes),
        cpu_share=share if model.device.type == "cpu" else None,
    )


def _one_pass(
    model: Transformer, cache: RollingCache, case: Case, tokens: Tensor, clock: Clock
) -> _Pass:
    started = clock.now()
    for chunk in torch.split(tokens[: case.prefilled], case.chunk):
        _prefill(model, cache, chunk, clock)
    prefill = clock.now() - started
    attention = clock.attended()
    steps = []
    for token in torch.split(tokens[case.prefilled :], 1):
        started = clock.now()
        _step(model, cache, token)
        steps.append(clock.now() - started)
    return _Pass(prefill, attention, steps)


def _warm(case: Case) -> int:
    """Tokens of the first prefill: the steps behind it stay within the context."""
    return max(1, min(case.chunk, case.prefilled, case.context - _WARM_STEPS))


def _warm_up(model: Transformer, cache: RollingCache, tokens: Tensor, clock: Clock) -> None:
    """What only the first call pays for: threads, kernels, first pages."""
    _prefill(model, cache, tokens, clock)
    for _ in range(_WARM_STEPS):
        _step(model, cache, tokens[:1])
    clock.attended()


def _prefill(model: Transformer, cache: RollingCache, tokens: Tensor, clock: Clock) -> None:
    attend = cache.prefill(0, len(tokens))
    model.hidden(tokens, attend.positions, clock.timed(attend))
    attend.finish()


def _step(model: Transformer, cache: RollingCache, token: Tensor) -> None:
    attend = cache.step([0])
    model.logits(model.hidden(token, attend.positions, attend))
    attend.finish()
