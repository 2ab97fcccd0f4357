"""Measure one case: prefill a context in chunks, decode its last tokens, record memory."""

import gc
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Self

import torch
from torch import Tensor

from mistral_eval.bench.cases import BenchSettings, Case
from mistral_eval.model.attention import Attend
from mistral_eval.model.cache import RollingCache
from mistral_eval.model.memory import status_bytes, trim_heap
from mistral_eval.model.transformer import Transformer

ENOUGH_SECONDS = 4.0  # a longer case is not repeated: it averages over many chunks already
_WARM_STEPS = 2
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


@dataclass(frozen=True, slots=True)
class Speed:
    """Speed and memory of a case; medians over its passes.

    Attributes:
        prefill: Tokens per second, all layers, without the LM head.
        attention: Prefilled tokens per second spent in attention alone.
        decode: Tokens per second of one sequence at the full context, LM head included.
        cache_bytes: Bytes of the cache's tensors, keys and values of all layers.
        peak_bytes: Peak memory beyond the weights (see `PeakWatch`); None if unknown.
        passes: Number of passes.
        cpu_share: CPU seconds / (wall seconds * threads), on the CPU; well below 1 if other
            programs used the cores, which makes the speeds unreliable.
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
    """A clock for a device that may still be working when a call returns.

    With `processor` it counts this process's CPU seconds, over all threads, not elapsed time.
    """

    device: torch.device
    processor: bool = False
    _marks: list[tuple[torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list)
    _seconds: float = 0.0

    def now(self) -> float:
        """Synchronize the device and return the time in seconds."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self._tick()

    def _tick(self) -> float:
        return process_time() if self.processor else perf_counter()

    def timed(self, attend: Attend) -> Attend:
        """Return an Attend that accumulates its own time; CUDA is not synchronized for it."""

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
        """Return the seconds accumulated since the last call."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        marked = sum(float(start.elapsed_time(end)) for start, end in self._marks) / 1000
        seconds = self._seconds + marked
        self._marks.clear()
        self._seconds = 0.0
        return seconds


@dataclass(frozen=True, slots=True)
class _Pass:
    """Seconds of a prefill, of its attention, and of each decoding step."""

    prefill: float
    attention: float
    steps: list[float]


class PeakWatch:
    """Peak memory of a `with` block beyond what was held before it: `growth`, in bytes.

    On CUDA: the memory of torch's tensors. On Linux without CUDA: the process's resident memory,
    whose high-water mark VmHWM is reset by writing 5 to /proc/self/clear_refs (proc(5)). Elsewhere
    `growth` is None.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before: int | None = None
        self.growth: int | None = None

    def __enter__(self) -> Self:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
        elif self._device.type == "cpu":
            trim_heap()
            self._before = _reset_peak()
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is None:
            return
        if self._device.type == "cuda":
            self.growth = torch.cuda.max_memory_allocated(self._device) - self._before
        else:
            self.growth = status_bytes("VmHWM") - self._before


def _reset_peak() -> int | None:
    """Reset the high-water mark and return resident bytes; None if the kernel lacks it."""
    try:
        _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
        return status_bytes("VmHWM")
    except OSError:
        return None


def measure(model: Transformer, case: Case, tokens: Tensor, settings: BenchSettings) -> Speed:
    """Measure a case.

    Args:
        model: A model of the case's configuration.
        case: The case.
        tokens: Ids of the context, (case.context,), on the model's device.
        settings: Gives the clock and the number of passes; none starts after `ENOUGH_SECONDS`.
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
    """Return the tokens to prefill in the warm-up, so that its steps stay within the context."""
    return max(1, min(case.chunk, case.prefilled, case.context - _WARM_STEPS))


def _warm_up(model: Transformer, cache: RollingCache, tokens: Tensor, clock: Clock) -> None:
    """Run once untimed: the first call starts threads, loads kernels and touches pages."""
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
