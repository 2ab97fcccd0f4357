"""Compute how many tokens fit in a machine's memory beside the weights."""

import math
import os
import resource
import sys

import torch

from mistral_eval.model.config import ModelConfig
from mistral_eval.model.load.layout import expected_shapes
from mistral_eval.model.memory import available_memory, memory_limit
from mistral_eval.native.pack_batches import CPU_COSTS

_SHARE = 0.4  # of the free memory; the rest is for activations, logits and other processes
_PASS_SHARE = 0.2  # of the memory beside the weights
_LONG_PATH = 8192  # tokens


def bytes_per_token(config: ModelConfig, dtype: torch.dtype) -> int:
    """Return the bytes of one token's keys and values in all layers (Mistral 7B, bf16: 128 KiB)."""
    return 2 * config.n_layers * config.n_kv_heads * config.head_dim * dtype.itemsize


def stack_bytes(config: ModelConfig, dtype: torch.dtype, height: int, size: int) -> int:
    """Return the bytes of a `Stack` for a tree of this height and packs of this size."""
    layers = config.n_layers * height + height + size
    return bytes_per_token(config, dtype) // config.n_layers * layers


def free_bytes(device: torch.device) -> int:
    """Return a device's free memory in bytes; half of its total if the platform does not tell."""
    free = available_memory(device)
    return total_bytes(device) // 2 if free is None else free


def total_bytes(device: torch.device) -> int:
    """Return a device's total memory in bytes, within the container's limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(machine, memory_limit() or machine)


def pass_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Return an upper bound, in bytes, of what one token of a pass needs.

    It covers the workspace, attention's copies of queries and outputs, and a mask row (one for each
    query head that shares keys) over a path longer than any benchmark's; not weights, cache and
    gathered keys.
    """
    heads = 8 * config.n_heads + 4 * config.n_kv_heads
    repeats = config.n_heads // config.n_kv_heads
    values = 3 * config.dim + heads * config.head_dim + 3 * config.hidden_dim
    path = min(config.context_len, _LONG_PATH)
    wide = max(config.dim, (config.n_heads + config.n_kv_heads) * config.head_dim)
    return (values + repeats * path) * dtype.itemsize + 4 * wide


def pass_tokens(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> int:
    """Return the tokens of a pass that fit in `_PASS_SHARE` of the memory beside the weights."""
    weights = sum(math.prod(shape) for shape in expected_shapes(config).values()) * dtype.itemsize
    room = int(_PASS_SHARE * max(0, total_bytes(device) - weights))
    gathered = 2 * CPU_COSTS.gathered * bytes_per_token(config, dtype) // config.n_layers  # packed
    return max(0, room - gathered) // pass_bytes(config, dtype)


def cached_tokens(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> int:
    """Return the number of tokens whose keys and values fit in `_SHARE` of the free memory."""
    return int(_SHARE * free_bytes(device)) // bytes_per_token(config, dtype)


def peak_bytes() -> int:
    """Return this process's peak resident memory in bytes (Linux counts KiB, macOS bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
