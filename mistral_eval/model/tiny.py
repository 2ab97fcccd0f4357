"""`--model tiny`: a Mistral of a few million random parameters, the same on every machine.

The numbers are the raw stream of the Philox generator (Salmon et al. 2011), whose bits NumPy
guarantees, converted to uniform floats by exact arithmetic; normal deviates would depend on library
functions that may change. Its tokenizer is Mistral's v1 from mistral-common.
"""

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch

from mistral_eval.errors import TokenizerError
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.load.checkpoint import Checkpoint
from mistral_eval.model.load.layout import expected_shapes
from mistral_eval.model.load.weights import choose_dtype, model_fingerprint, tensor_digest

TINY_CONFIG = ModelConfig(
    dim=64,
    n_layers=4,
    head_dim=16,
    hidden_dim=192,
    n_heads=4,
    n_kv_heads=2,
    norm_eps=1e-5,
    vocab_size=32000,
    rope_theta=10000.0,
    context_len=8192,
    sliding_window=(4096,) * 4,
)
# Standard deviation of a projection's output for inputs of unit variance. In attention it is above
# 1, so that a query prefers some keys; 2.5 for logits makes choices differ by several nats.
_GAIN = {"wq": 2.0, "wk": 2.0, "output": 2.5}
# The row of EOS is scaled up so that a reply ends after about 80 tokens rather than at the limit: a
# demo is quick, and EOS is tested.
_EOS_ID, _EOS_GAIN = 2, np.float32(2.0)


def make_tiny(seed: int = 0) -> Checkpoint:
    """Return the tiny model of this seed, in float32 on the CPU, within a fraction of a second."""
    stream = np.random.Philox(key=seed)
    weights = {
        name: _draw(stream, name, shape) for name, shape in expected_shapes(TINY_CONFIG).items()
    }
    digests = {name: tensor_digest(tensor) for name, tensor in weights.items()}
    note = f"random weights of seed {seed}: its scores are chance"
    return Checkpoint(TINY_CONFIG, weights, model_fingerprint(TINY_CONFIG, digests), (), (note,))


def tiny_tokenizer_file() -> Path:
    """Return the path of Mistral's v1 tokenizer.model in mistral-common.

    Raises:
        TokenizerError: mistral-common does not contain it.
    """
    path = Path(str(files("mistral_common") / "data" / "tokenizer.model.v1"))
    if not path.is_file():
        raise TokenizerError(
            f"mistral-common should contain {path.name} in {path.parent} and does not: "
            "reinstall mistral-common 1.8 or later."
        )
    return path


def _draw(stream: np.random.Philox, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return one tensor: ones for a norm, else uniform with the gain of its kind."""
    if len(shape) == 1:
        return torch.ones(shape)
    count = shape[0] * shape[1]
    words = stream.random_raw((count + 1) // 2).astype("<u8").view("<u4")[:count]
    # 24 bits -> an exact float32 in [-1, 1) of variance 1/3
    signed = (words >> 8).astype(np.int32) - (1 << 23)
    uniform = signed.astype(np.float32) / np.float32(1 << 23)
    part = name.split(".")[-2]
    fan_in = 1 if part == "tok_embeddings" else shape[1]
    scale = np.float32(_GAIN.get(part, 1.0) * (3.0 / fan_in) ** 0.5)
    matrix = (uniform * scale).reshape(shape)
    if part == "output":
        matrix[_EOS_ID] *= _EOS_GAIN
    return torch.from_numpy(matrix)


def tiny_model(dtype: str, device: torch.device) -> Checkpoint:
    """Create the tiny model on a device; dtype `auto` is float32."""
    made = make_tiny()
    kind = choose_dtype(dtype, torch.float32, None, device)
    return replace(made, weights={name: w.to(device, kind) for name, w in made.weights.items()})
