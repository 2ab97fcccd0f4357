"""Write a checkpoint to a folder in Hugging Face's format or Mistral's.

`--engine hf --model tiny` needs a folder that transformers can load; the tests need both formats.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mistral_eval.errors import CheckpointError
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.load.checkpoint import Checkpoint
from mistral_eval.model.load.layout import hf_name, interleaved_from_half_split, is_rotated
from mistral_eval.model.load.stored import HF_INDEX, HF_SINGLE, RAW_PICKLE, RAW_SAFETENSORS
from mistral_eval.model.tokenizers.export_tokenizer import save_tokenizer


def save_hf(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    tokenizer_file: Path | None = None,
    max_shard_bytes: int | None = None,
) -> Path:
    """Write config.json and safetensors (and a SentencePiece tokenizer) for transformers.

    Args:
        checkpoint: written in its dtype, which config.json names in `dtype`.
        folder: created if it does not exist.
        tokenizer_file: a tokenizer.model to copy, and to convert to a tokenizer.json.
        max_shard_bytes: write an index and shards of at most this size; None writes one file.

    Returns:
        `folder`.

    Raises:
        CheckpointError: the windows have several sizes, which config.json cannot express.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first = next(iter(checkpoint.weights.values()))
    fields = _hf_fields(checkpoint.config) | {"dtype": str(first.dtype).removeprefix("torch.")}
    _write_json(folder / "config.json", fields)
    tensors = {hf_name(name): _plain(tensor) for name, tensor in checkpoint.weights.items()}
    if max_shard_bytes is None:
        save_file(tensors, folder / HF_SINGLE, metadata={"format": "pt"})
    else:
        _save_shards(tensors, folder, max_shard_bytes)
    if tokenizer_file is not None:
        save_tokenizer(tokenizer_file, folder)
    return folder


def save_raw(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    tokenizer_file: Path | None = None,
    as_pickle: bool = False,
) -> Path:
    """Write params.json and consolidated.safetensors (or .00.pth) as mistral-inference reads them.

    wq and wk are converted back to RoPE's interleaved layout.

    Returns:
        `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "params.json", _raw_fields(checkpoint.config))
    head_dim = checkpoint.config.head_dim
    tensors = {
        name: _plain(interleaved_from_half_split(tensor, head_dim) if is_rotated(name) else tensor)
        for name, tensor in checkpoint.weights.items()
    }
    if as_pickle:
        torch.save(tensors, folder / RAW_PICKLE)
    else:
        save_file(tensors, folder / RAW_SAFETENSORS)
    if tokenizer_file is not None:
        shutil.copyfile(tokenizer_file, folder / "tokenizer.model")
    return folder


def _hf_fields(config: ModelConfig) -> dict[str, Any]:
    """Return config.json's fields: ministral if only some layers have a window, else mistral."""
    windows = {window for window in config.sliding_window if window is not None}
    if len(windows) > 1:
        raise CheckpointError(
            "config.json can hold one sliding_window for all layers, and this model has "
            f"{sorted(windows)}: write Mistral's format (params.json) instead."
        )
    is_mixed = bool(windows) and None in config.sliding_window
    fields = {
        "architectures": ["MinistralForCausalLM" if is_mixed else "MistralForCausalLM"],
        "model_type": "ministral" if is_mixed else "mistral",
        "hidden_size": config.dim,
        "num_hidden_layers": config.n_layers,
        "head_dim": config.head_dim,
        "intermediate_size": config.hidden_dim,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "rms_norm_eps": config.norm_eps,
        "vocab_size": config.vocab_size,
        "rope_theta": config.rope_theta,
        "max_position_embeddings": config.context_len,
        "sliding_window": max(windows, default=None),
        "tie_word_embeddings": config.tied_embeddings,
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if is_mixed:
        kinds = [
            "full_attention" if w is None else "sliding_attention" for w in config.sliding_window
        ]
        fields["layer_types"] = kinds
    return fields


def _raw_fields(config: ModelConfig) -> dict[str, Any]:
    """Return params.json's fields; without a window there is no field sliding_window."""
    names = ("dim", "n_layers", "head_dim", "hidden_dim", "n_heads", "n_kv_heads", "norm_eps")
    fields = {name: getattr(config, name) for name in (*names, "vocab_size", "rope_theta")}
    fields["max_seq_len"] = config.context_len
    if any(config.sliding_window):
        uniform = len(set(config.sliding_window)) == 1
        fields["sliding_window"] = (
            config.sliding_window[0] if uniform else list(config.sliding_window)
        )
    if config.tied_embeddings:
        fields["tied_embeddings"] = True
    return fields


def _save_shards(tensors: Mapping[str, torch.Tensor], folder: Path, max_bytes: int) -> None:
    """Write shards in the given order, then the index."""
    shards: list[dict[str, torch.Tensor]] = [{}]
    room = max_bytes
    for name, tensor in tensors.items():
        if tensor.nbytes > room and shards[-1]:
            shards.append({})
            room = max_bytes
        shards[-1][name] = tensor
        room -= tensor.nbytes
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    size = sum(tensor.nbytes for tensor in tensors.values())
    _write_json(folder / HF_INDEX, {"metadata": {"total_size": size}, "weight_map": weight_map})


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """Return a contiguous CPU tensor, as safetensors requires."""
    return tensor.detach().cpu().contiguous()


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write indented JSON with a final line break."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
