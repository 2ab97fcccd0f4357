"""How many tokens' keys and values the machine can hold beside the weights."""

import os
import resource
import sys
from pathlib import Path

import torch

from mistral_eval.model.config import ModelConfig

_MEMINFO = Path("/proc/meminfo")
_SHARE = 0.4  # of what is free; the rest is for activations, logits and other people


def bytes_per_token(config: ModelConfig, dtype: torch.dtype) -> int:
    """Keys and values of one token in all layers; 128 KiB for Mistral 7B in bfloat16."""
    return 2 * config.n_layers * config.n_kv_heads * config.head_dim * dtype.itemsize


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device now, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if _MEMINFO.exists():  # counts what the page cache would give back
        for line in _MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def cached_tokens(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> int:
    """Tokens whose keys and values fit in a prudent share of the free memory."""
    return int(_SHARE * free_bytes(device)) // bytes_per_token(config, dtype)


def peak_bytes() -> int:
    """The largest resident memory of this process so far; Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
