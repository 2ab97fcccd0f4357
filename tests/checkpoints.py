"""Write checkpoints in formats that only tests need: Mistral's, and Hugging Face's shards."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from mistral_eval.model.config import ModelConfig
from mistral_eval.model.export import save_hf
from mistral_eval.model.load.checkpoint import Checkpoint
from mistral_eval.model.load.layout import hf_name, interleaved_from_half_split, is_rotated
from mistral_eval.model.load.stored import HF_INDEX, HF_SINGLE, RAW_PICKLE, RAW_SAFETENSORS


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
    text = json.dumps(raw_fields(checkpoint.config))
    (folder / "params.json").write_text(text)
    head_dim = checkpoint.config.head_dim
    tensors = {
        name: (
            interleaved_from_half_split(tensor, head_dim) if is_rotated(name) else tensor
        ).contiguous()
        for name, tensor in checkpoint.weights.items()
    }
    if as_pickle:
        torch.save(tensors, folder / RAW_PICKLE)
    else:
        save_file(tensors, folder / RAW_SAFETENSORS)
    if tokenizer_file is not None:
        shutil.copyfile(tokenizer_file, folder / "tokenizer.model")
    return folder


def raw_fields(config: ModelConfig) -> dict[str, object]:
    """Return params.json's fields; without a window there is no field sliding_window."""
    names = ("dim", "n_layers", "head_dim", "hidden_dim", "n_heads", "n_kv_heads", "norm_eps")
    fields = {name: getattr(config, name) for name in (*names, "vocab_size", "rope_theta")}
    fields["max_seq_len"] = config.context_len
    if any(config.sliding_window):
        uniform = len(set(config.sliding_window)) == 1
        fields["sliding_window"] = (
            config.sliding_window[0] if uniform else list(config.sliding_window)
        )
    if config.experts is not None:
        fields["moe"] = asdict(config.experts)
    if config.tied_embeddings:
        fields["tied_embeddings"] = True
    return fields


def save_sharded(
    checkpoint: Checkpoint, folder: Path, max_bytes: int, tokenizer_file: Path | None = None
) -> Path:
    """Write Hugging Face's format with shards of at most `max_bytes` and an index."""
    save_hf(checkpoint, folder, tokenizer_file=tokenizer_file)
    shards: list[dict[str, torch.Tensor]] = [{}]
    room = max_bytes
    tensors = load_file(folder / HF_SINGLE)
    for name in map(hf_name, checkpoint.weights):
        tensor = tensors[name]
        if tensor.nbytes > room and shards[-1]:
            shards.append({})
            room = max_bytes
        shards[-1][name] = tensor
        room -= tensor.nbytes
    (folder / HF_SINGLE).unlink()
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    (folder / HF_INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder
