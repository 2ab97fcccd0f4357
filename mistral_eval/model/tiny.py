"""`--model tiny`: a Mistral of a few million random parameters, the same on every machine.

The numbers are the raw stream of the Philox generator (Salmon et al. 2011), whose bits NumPy
guarantees, turned to uniform floats by exact arithmetic; normal deviates would pass through
library functions that may change. Its tokenizer is Mistral's real v1, out of mistral-common.
"""

from importlib.resources import files
from pathlib import Path

import numpy as np
import torch

from mistral_eval.errors import TokenizerError
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.load.checkpoint import Checkpoint
from mistral_eval.model.load.layout import expected_shapes
from mistral_eval.model.load.weights import model_fingerprint, tensor_digest

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
# Standard deviation of a projection's output for inputs of unit variance. Above 1 in attention, so
# that a query prefers some keys; the logits' 2.5 makes choices differ by several nats.
_GAIN = {"wq": 2.0, "wk": 2.0, "output": 2.5}
# The row of EOS is longer than the others, so that a reply ends after some 80 tokens, not at the
# limit: a demo is quick, and the end of a text is exercised.
_EOS_ID, _EOS_GAIN = 2, np.float32(2.0)


def make_tiny(seed: int = 0) -> Checkpoint:
    """The tiny model of this seed, in float32 on the CPU; takes a fraction of a second."""
    stream = np.random.Philox(key=seed)
    weights = {
        name: _draw(stream, name, shape) for name, shape in expected_shapes(TINY_CONFIG).items()
    }
    digests = {name: tensor_digest(tensor) for name, tensor in weights.items()}
    note = f"random weights of seed {seed}: its scores are chance"
    return Checkpoint(TINY_CONFIG, weights, model_fingerprint(TINY_CONFIG, digests), (), (note,))


def tiny_tokenizer_file() -> Path:
    """Mistral's v1 tokenizer.model, as mistral-common ships it.

    Raises:
        TokenizerError: mistral-common no longer ships it.
    """
    path = Path(str(files("mistral_common") / "data" / "tokenizer.model.v1"))
    if not path.is_file():
        raise TokenizerError(
            f"mistral-common should ship {path.name} in {path.parent} and does not: "
            "install mistral-common 1.8 or later again."
        )
    return path


def _draw(stream: np.random.Philox, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """One tensor: ones for a norm, else uniform with the gain of its kind."""
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
