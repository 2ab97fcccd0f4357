"""Write a checkpoint in Hugging Face's format: `--engine hf --model tiny` needs such a folder."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from mistral_eval.errors import CheckpointError
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.load.checkpoint import Checkpoint
from mistral_eval.model.load.config_hf import NAMES
from mistral_eval.model.load.layout import hf_name
from mistral_eval.model.load.stored import HF_SINGLE
from mistral_eval.model.tokenizers.export_tokenizer import save_tokenizer


def save_hf(checkpoint: Checkpoint, folder: Path, *, tokenizer_file: Path | None = None) -> Path:
    """Write config.json and safetensors (and a SentencePiece tokenizer) for transformers.

    Args:
        checkpoint: written in its dtype, which config.json names in `dtype`.
        folder: created if it does not exist.
        tokenizer_file: a tokenizer.model to copy, and to convert to a tokenizer.json.

    Returns:
        `folder`.

    Raises:
        CheckpointError: the windows have several sizes, which config.json cannot express.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first = next(iter(checkpoint.weights.values()))
    fields = _hf_fields(checkpoint.config) | {"dtype": str(first.dtype).removeprefix("torch.")}
    text = json.dumps(fields, indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    tensors = {
        hf_name(name): tensor.detach().cpu().contiguous()
        for name, tensor in checkpoint.weights.items()
    }
    save_file(tensors, folder / HF_SINGLE, metadata={"format": "pt"})
    if tokenizer_file is not None:
        save_tokenizer(tokenizer_file, folder)
    return folder


def _hf_fields(config: ModelConfig) -> dict[str, Any]:
    """Return config.json's fields: ministral if only some layers have a window, else mistral."""
    windows = {window for window in config.sliding_window if window is not None}
    if len(windows) > 1:
        raise CheckpointError(
            "config.json can hold one sliding_window for all layers, and this model has "
            f"{sorted(windows)}: use Mistral's format (params.json)."
        )
    is_mixed = bool(windows) and None in config.sliding_window
    fields = {
        theirs: getattr(config, ours) for ours, theirs in NAMES.items() if hasattr(config, ours)
    } | {
        "architectures": ["MinistralForCausalLM" if is_mixed else "MistralForCausalLM"],
        "model_type": "ministral" if is_mixed else "mistral",
        "sliding_window": max(windows, default=None),
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if is_mixed:
        kinds = {False: "sliding_attention", True: "full_attention"}
        fields["layer_types"] = [kinds[window is None] for window in config.sliding_window]
    return fields
