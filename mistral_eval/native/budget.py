"""How many tokens' keys and values the machine can hold beside the weights."""

import math
import os
import resource
import sys

import torch

from mistral_eval.model.config import ModelConfig
from mistral_eval.model.load.layout import expected_shapes
from mistral_eval.model.memory import available_memory, memory_limit
from mistral_eval.native.pack_batches import CPU_COSTS

_SHARE = 0.4  # of what is free; the rest is for activations, logits and other people
_PASS_SHARE = 0.2  # of what the weights leave
_LONG_PATH = 8192  # tokens


def bytes_per_token(config: ModelConfig, dtype: torch.dtype) -> int:
    """Keys and values of one token in all layers; 128 KiB for Mistral 7B in bfloat16."""
    return 2 * config.n_layers * config.n_kv_heads * config.head_dim * dtype.itemsize


def stack_bytes(config: ModelConfig, dtype: torch.dtype, height: int, size: int) -> int:
    """What scoring keeps of a tree of this height in packs of this size: see `Stack`, in bytes."""
    layers = config.n_layers * height + height + size
    return bytes_per_token(config, dtype) // config.n_layers * layers


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device now, in bytes; half of all where the platform is silent."""
    free = available_memory(device)
    return total_bytes(device) // 2 if free is None else free


def total_bytes(device: torch.device) -> int:
    """Memory that a device has in all, in bytes; a container has no more than its limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(machine, memory_limit() or machine)


def pass_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """What one token of a pass needs at most beside weights, cache and gathered keys, in bytes.

    Workspace, what attention copies of its queries and answers, and the mask's row over a path
    longer than any benchmark's, one for each head that shares keys.
    """
    heads = 8 * config.n_heads + 4 * config.n_kv_heads
    repeats = config.n_heads // config.n_kv_heads
    values = 3 * config.dim + heads * config.head_dim + 3 * config.hidden_dim
    path = min(config.context_len, _LONG_PATH)
    wide = max(config.dim, (config.n_heads + config.n_kv_heads) * config.head_dim)
    return (values + repeats * path) * dtype.itemsize + 4 * wide


def pass_tokens(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> int:
    """Tokens of a pass that a prudent share of the device's memory beside the weights can hold."""
    weights = sum(math.prod(shape) for shape in expected_shapes(config).values()) * dtype.itemsize
    room = int(_PASS_SHARE * max(0, total_bytes(device) - weights))
    gathered = 2 * CPU_COSTS.gathered * bytes_per_token(config, dtype) // config.n_layers  # packed
    return max(0, room - gathered) // pass_bytes(config, dtype)


def cached_tokens(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> int:
    """Tokens whose keys and values fit in a prudent share of the free memory."""
    return int(_SHARE * free_bytes(device)) // bytes_per_token(config, dtype)


def peak_bytes() -> int:
    """The largest resident memory of this process so far; Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
