"""What a bench needs, from shapes alone, and the refusal of what does not fit."""

from collections.abc import Iterable

import torch

from mistral_eval.bench.cases import BenchSettings, Case
from mistral_eval.bench.shapes import Subject
from mistral_eval.bench.shared_prefix import CONTINUATION, PROMPT, REQUESTS
from mistral_eval.errors import ResourceError
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.memory import GIB, available_memory

_SLACK = 64 << 20  # what torch, its threads and the allocator take beside tensors
_FLOAT = 4  # bytes


def cache_bytes(case: Case, config: ModelConfig, dtype: torch.dtype) -> int:
    """Keys and values of one sequence in all layers: 2 * layers * KV heads * head_dim * slots."""
    rolls = case.rolling and case.window is not None
    slots = min(case.window, case.context) if rolls and case.window else case.context
    return 2 * config.n_layers * case.n_kv_heads * config.head_dim * slots * dtype.itemsize


def working_bytes(case: Case, config: ModelConfig, dtype: torch.dtype) -> int:
    """A generous bound of what one prefill pass holds beside weights and cache."""
    item, rows = dtype.itemsize, case.chunk
    seen = min(case.context, case.context if case.window is None else case.window + rows)
    heads = (config.n_heads + 2 * case.n_kv_heads) * config.head_dim
    states = rows * (item * (4 * config.dim + 3 * config.hidden_dim) + 2 * _FLOAT * config.dim)
    turned = rows * heads * (item + 3 * _FLOAT)
    masks = rows * seen * (item + 4)  # the mask itself, and booleans while it is made
    joined = 2 * case.n_kv_heads * config.head_dim * seen * item
    angles = 3 * case.context * config.head_dim * _FLOAT
    return states + turned + masks + joined + angles + 3 * _FLOAT * config.vocab_size


def prefix_bytes(config: ModelConfig, dtype: torch.dtype, settings: BenchSettings) -> int:
    """What the requests behind one prompt hold on the plain path, which holds the most."""
    context = min(settings.contexts[0], PROMPT + max(CONTINUATION, settings.decode_tokens))
    one = Case(context, None, config.n_kv_heads, False, context, 1)
    logits = 2 * _FLOAT * REQUESTS * CONTINUATION * config.vocab_size
    cached = REQUESTS * cache_bytes(one, config, dtype)
    return cached + working_bytes(one, config, dtype) + logits


def require(
    subject: Subject, cases: Iterable[Case], device: torch.device, settings: BenchSettings
) -> int:
    """Stop before anything is allocated, if the largest case does not fit.

    Returns:
        What the bench needs at most, in bytes.

    Raises:
        ResourceError: the device has less.
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
            f"{free / GIB:.2f} GiB are free: take smaller --contexts or a smaller --shape "
            f"(tiny, mini, small){half}."
        )
    return needed


def joined_bytes(config: ModelConfig, n_kv_heads: int, dtype: torch.dtype) -> int:
    """The model's own copy of wq, wk and wv, whose originals the bench keeps."""
    rows = (config.n_heads + 2 * n_kv_heads) * config.head_dim
    return config.n_layers * rows * config.dim * dtype.itemsize


def _needed(subject: Subject, case: Case) -> int:
    """Weights, those of other KV heads beside them, what the model joins, cache and work."""
    config = subject.config
    more = 0 if case.n_kv_heads == config.n_kv_heads else subject.key_value_bytes(case.n_kv_heads)
    more += joined_bytes(config, case.n_kv_heads, subject.dtype)
    held = subject.weight_bytes + more + cache_bytes(case, config, subject.dtype)
    return held + working_bytes(case, config, subject.dtype)
