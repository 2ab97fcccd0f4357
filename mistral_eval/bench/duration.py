"""How long a bench will take, from the operations of its cases and a few products of matrices."""

from collections.abc import Iterable
from time import perf_counter

import torch

from mistral_eval.bench.cases import Case
from mistral_eval.bench.measure import ENOUGH_SECONDS, Clock
from mistral_eval.model.config import ModelConfig

_SIDE = 1024  # of the square matrices
_SHARE = 0.5  # of a matrix product's rate that a whole pass reaches
_TRIAL_SECONDS = 0.2


def operations(case: Case, config: ModelConfig) -> float:
    """Floating-point operations of one prefill: two for each weight, four for each score."""
    queries, keys = config.n_heads * config.head_dim, case.n_kv_heads * config.head_dim
    weights = config.dim * (2 * queries + 2 * keys + 3 * config.hidden_dim)
    scores = 0
    for start in range(0, case.prefilled, case.chunk):
        end = min(start + case.chunk, case.prefilled)
        low = 0 if case.window is None else max(0, start - case.window)
        scores += (end - start) * (end - low)
    return float(config.n_layers * (2 * weights * case.prefilled + 4 * queries * scores))


def seconds_of(
    cases: Iterable[Case],
    config: ModelConfig,
    repeats: int,
    device: torch.device,
    dtype: torch.dtype,
) -> float:
    """An estimate of the time of all cases, each repeated as `measure` would."""
    rate = _SHARE * _matrix_rate(device, dtype)
    total = 0.0
    for case in cases:
        once = operations(case, config) / rate
        total += min(repeats * once, ENOUGH_SECONDS + once)
    return total


def _matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of products of square matrices."""
    clock = Clock(device)
    left = torch.ones(_SIDE, _SIDE, dtype=dtype, device=device)
    out = left @ left
    count, started = 0, clock.now()
    while perf_counter() - started < _TRIAL_SECONDS:
        torch.matmul(left, left, out=out)
        count += 1
    return count * 2 * _SIDE**3 / (clock.now() - started)
