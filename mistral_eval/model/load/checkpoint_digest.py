"""What a model is, in 64 hexadecimal digits: its configuration and every weight's bytes.

The digest is over tensors and not over files, so that a model keeps its fingerprint when it is
resharded or converted between Hugging Face's and Mistral's format. There is no cache to go stale:
the bytes are hashed while they pass by on their way to memory (1 to 2 GB/s with SHA instructions,
some ten seconds for a 7B model).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict

import torch

from mistral_eval.model.config import ModelConfig


def tensor_digest(tensor: torch.Tensor) -> str:
    """sha256 over dtype, shape and bytes of a CPU tensor, as stored (before any conversion)."""
    header = f"{tensor.dtype}{tuple(tensor.shape)}".encode()
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    digest = hashlib.sha256(header)
    digest.update(flat.numpy().data)
    return digest.hexdigest()


def model_fingerprint(config: ModelConfig, digests: Mapping[str, str]) -> str:
    """sha256 over the configuration and the tensors' digests by our names.

    The dtype a model is run in is not part of it: that is a setting of the run.
    """
    content = {"config": asdict(config), "weights": dict(digests)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
