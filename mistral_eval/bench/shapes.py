"""The model of a bench: a named shape with random weights, or a checkpoint's folder."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from mistral_eval.errors import UsageError, nearest
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.load.adapter import is_adapter, resolve_parts
from mistral_eval.model.load.checkpoint import load_checkpoint
from mistral_eval.model.load.gguf_file import find_gguf
from mistral_eval.model.load.layout import expected_shapes
from mistral_eval.model.load.outline import folder_dtype, read_config
from mistral_eval.model.load.stored import DTYPES
from mistral_eval.model.tiny import TINY_CONFIG
from mistral_eval.native.calibrate import random_weights

# Mistral 7B: table 1 of the paper.
_MISTRAL_7B: Final = ModelConfig(
    dim=4096,
    n_layers=32,
    head_dim=128,
    hidden_dim=14336,
    n_heads=32,
    n_kv_heads=8,
    norm_eps=1e-5,
    vocab_size=32000,
    rope_theta=10000.0,
    context_len=8192,
    sliding_window=(4096,) * 32,
)
# The same proportions (four query heads per KV head), small enough for 32k on two CPU cores.
_SMALL: Final = replace(
    _MISTRAL_7B,
    dim=512,
    n_layers=8,
    head_dim=64,
    hidden_dim=1792,
    n_heads=8,
    n_kv_heads=2,
    sliding_window=(4096,) * 8,
)
SHAPES: Final = {
    "tiny": TINY_CONFIG,
    "mini": replace(_SMALL, n_layers=4, sliding_window=(4096,) * 4),
    "small": _SMALL,
    "7b": _MISTRAL_7B,
}
_USUAL_VOCABULARY: Final = 32000


@dataclass(frozen=True, slots=True)
class Subject:
    """A model's shape before its weights are loaded.

    `folder` holds the weights, None means random ones; `adapter` is merged into them; `notes` are
    printed before the bench.
    """

    name: str
    config: ModelConfig
    dtype: torch.dtype
    folder: Path | None = None
    adapter: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        shapes = expected_shapes(self.config).values()
        return self.dtype.itemsize * sum(torch.Size(shape).numel() for shape in shapes)

    def key_value_bytes(self, n_kv_heads: int) -> int:
        """Return the bytes of the K and V projections with this many heads."""
        rows = 2 * self.config.n_layers * n_kv_heads * self.config.head_dim
        return self.dtype.itemsize * rows * self.config.dim

    def load(self, device: torch.device, seed: int) -> dict[str, Tensor]:
        """Load the weights, or draw random ones.

        Raises:
            CheckpointError, ResourceError: The folder's weights cannot be read.
        """
        if self.folder is None:
            return random_weights(self.config, self.dtype, device, seed)
        loaded = load_checkpoint(self.folder, adapter=self.adapter, dtype=self.dtype, device=device)
        return loaded.weights


def read_subject(
    shape: str, dtype: str, device: torch.device, adapter: str | None = None
) -> Subject:
    """Resolve --shape and --dtype; no weights are read.

    Args:
        shape: One of `SHAPES`, a GGUF file, or a folder with config.json, params.json or one.
        dtype: `auto` or one of `DTYPES`. For a folder `auto` is the stored dtype; for a shape it is
            bfloat16 on CUDA and for 7b (as published), else float32.
        device: The device of the bench.
        adapter: A LoRA adapter of the checkpoint.

    Raises:
        UsageError: There is no such shape, folder or dtype; the sentence names the nearest. Or an
            adapter is given for a named shape.
        CheckpointError: The folder's configuration cannot be used.
    """
    if dtype != "auto" and dtype not in DTYPES:
        raise UsageError(f"--dtype has no {dtype!r}. {nearest(dtype, ['auto', *DTYPES])}")
    if shape in SHAPES and adapter is not None:
        raise UsageError(
            f"--adapter needs the model that it was trained on, and --shape {shape} has random "
            "weights. Give that model's folder as --shape."
        )
    if shape in SHAPES:
        half = device.type == "cuda" or shape == "7b"
        usual = torch.bfloat16 if half else torch.float32
        return Subject(shape, SHAPES[shape], DTYPES.get(dtype, usual))
    folder = Path(shape).expanduser()
    if not folder.is_dir() and find_gguf(folder) is None:
        raise UsageError(
            f"--shape takes a name, a checkpoint's folder or a GGUF file; {shape!r} is neither. "
            f"{nearest(shape, SHAPES)}"
        )
    if adapter is None and not is_adapter(folder):
        return _checkpoint(folder, dtype, device)
    parts = resolve_parts(str(folder), adapter)
    found = _checkpoint(parts.base, dtype, device)
    if found.folder is None or parts.adapter is None:
        raise UsageError(
            f"The adapter {parts.adapter} needs the weights of {parts.base}, which holds none. "
            "Give a folder with weights as --shape."
        )
    name = f"{found.name}+{parts.adapter.resolve().name}"
    return replace(found, name=name, adapter=parts.adapter, notes=(*found.notes, *parts.notes))


def _checkpoint(folder: Path, dtype: str, device: torch.device) -> Subject:
    """The shape of a checkpoint; its weights count if they lie beside its configuration."""
    found = read_config(folder, {}, instead=f"or one of {', '.join(SHAPES)}")
    config, notes = found.config, list(found.notes)
    if config.vocab_size == -1:
        config = replace(config, vocab_size=_USUAL_VOCABULARY)
        notes.append(f"the vocabulary size is not given: {_USUAL_VOCABULARY} is assumed")
    patterns = ("*.safetensors", "consolidated.*.pth")
    has_weights = find_gguf(folder) is not None or any(
        any(folder.glob(pattern)) for pattern in patterns
    )
    if not has_weights:
        notes.append(f"{folder.name} holds no weights: random weights are used")
    return Subject(
        folder.resolve().name,
        config,
        folder_dtype(folder, dtype, found, device),
        folder if has_weights else None,
        notes=tuple(notes),
    )
