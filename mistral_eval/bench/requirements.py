"""Memory and time that a bench needs, from shapes alone; refuses what does not fit."""

from collections.abc import Iterable

import torch

from mistral_eval.bench.cases import BenchSettings, Case
from mistral_eval.bench.measure import ENOUGH_SECONDS
from mistral_eval.bench.shapes import Subject
from mistral_eval.bench.shared_prefix import CONTINUATION, PROMPT, REQUESTS
from mistral_eval.errors import ResourceError
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.memory import GIB, available_memory
from mistral_eval.native.calibrate import matrix_rate
from mistral_eval.native.requests import Flops

_SLACK = 64 << 20  # torch, its threads and the allocator, besides tensors
_FLOAT = 4  # bytes
_SHARE = 0.5  # of the matrix rate that a whole pass reaches
_TRIAL_SECONDS = 0.2


def cache_bytes(case: Case, config: ModelConfig, dtype: torch.dtype) -> int:
    """Return the cache's bytes for one sequence: 2 * layers * KV heads * head_dim * slots."""
    rolls = case.rolling and case.window is not None
    slots = min(case.window, case.context) if rolls and case.window else case.context
    return 2 * config.n_layers * case.n_kv_heads * config.head_dim * slots * dtype.itemsize


def working_bytes(case: Case, config: ModelConfig, dtype: torch.dtype) -> int:
    """Return an upper bound of what one prefill pass allocates besides weights and cache."""
    item, rows = dtype.itemsize, case.chunk
    seen = min(case.context, case.context if case.window is None else case.window + rows)
    heads = (config.n_heads + 2 * case.n_kv_heads) * config.head_dim
    states = rows * (item * (4 * config.dim + 3 * config.hidden_dim) + 2 * _FLOAT * config.dim)
    turned = rows * heads * (item + 3 * _FLOAT)
    masks = rows * seen * (item + 4)  # the mask, and the booleans it is made from
    joined = 2 * case.n_kv_heads * config.head_dim * seen * item
    angles = 3 * case.context * config.head_dim * _FLOAT
    return states + turned + masks + joined + angles + 3 * _FLOAT * config.vocab_size


def prefix_bytes(config: ModelConfig, dtype: torch.dtype, settings: BenchSettings) -> int:
    """Return the bytes of the shared-prefix part on the plain path, its largest."""
    context = min(settings.contexts[0], PROMPT + max(CONTINUATION, settings.decode_tokens))
    one = Case(context, None, config.n_kv_heads, False, context, 1)
    logits = 2 * _FLOAT * REQUESTS * CONTINUATION * config.vocab_size
    cached = REQUESTS * cache_bytes(one, config, dtype)
    return cached + working_bytes(one, config, dtype) + logits


def require(
    subject: Subject, cases: Iterable[Case], device: torch.device, settings: BenchSettings
) -> int:
    """Return the bytes that the largest case needs; called before anything is allocated.

    Raises:
        ResourceError: The device has less memory available.
    """
    needs = {case: _needed(subject, case) for case in cases}
    largest = max(needs, key=lambda case: needs[case], default=None)
    cached = 0 if largest is None else cache_bytes(largest, subject.config, subject.dtype)
    needed = subject.weight_bytes if largest is None else needs[largest]
    if "prefix" in settings.parts:
        beside = prefix_bytes(subject.config, subject.dtype, settings)
        joined = joined_bytes(subject.config, subject.config.n_kv_heads, subject.dtype)
        needed = max(needed, subject.weight_bytes + joined + beside)
    needed += _SLACK
    free = available_memory(device)
    if free is not None and needed > free:
        half = ", or --dtype bfloat16" if subject.dtype.itemsize > 2 else ""
        where = "" if largest is None else f" at a context of {largest.context:,} tokens"
        raise ResourceError(
            f"bench needs {needed / GIB:.2f} GiB on {device}{where} "
            f"({subject.weight_bytes / GIB:.2f} of weights, {cached / GIB:.2f} of cache) and "
            f"{free / GIB:.2f} GiB are free: use smaller --contexts or a smaller --shape "
            f"(tiny, mini, small){half}."
        )
    return needed


def joined_bytes(config: ModelConfig, n_kv_heads: int, dtype: torch.dtype) -> int:
    """Return the bytes of the fused copy of wq, wk and wv; the bench keeps the originals too."""
    rows = (config.n_heads + 2 * n_kv_heads) * config.head_dim
    return config.n_layers * rows * config.dim * dtype.itemsize


def _needed(subject: Subject, case: Case) -> int:
    """Return a case's bytes: weights, K and V for other heads, fused copies, cache, one pass."""
    config = subject.config
    more = 0 if case.n_kv_heads == config.n_kv_heads else subject.key_value_bytes(case.n_kv_heads)
    more += joined_bytes(config, case.n_kv_heads, subject.dtype)
    held = subject.weight_bytes + more + cache_bytes(case, config, subject.dtype)
    return held + working_bytes(case, config, subject.dtype)


def operations(case: Case, config: ModelConfig) -> int:
    """Return the floating-point operations of one prefill, without the LM head."""
    flops = Flops.of(case.config(config, case.context), config.vocab_size)
    return flops.span(0, case.prefilled)


def seconds_of(
    cases: Iterable[Case],
    config: ModelConfig,
    repeats: int,
    device: torch.device,
    dtype: torch.dtype,
) -> float:
    """Estimate the seconds of all cases, each repeated as in `measure`."""
    rate = _SHARE * matrix_rate(dtype, device, seconds=_TRIAL_SECONDS)
    once = [operations(case, config) / rate for case in cases]
    return sum(min(repeats * seconds, ENOUGH_SECONDS + seconds) for seconds in once)
