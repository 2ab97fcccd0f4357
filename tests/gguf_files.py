"""Write GGUF files with gguf's own writer, and rebuild their models with transformers."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Ministral3Config,
    Ministral3ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from mistral_eval.model.config import ModelConfig

F32 = GGMLQuantizationType.F32
HF_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a llama file's tensors by GGUF's names."""
    q_dim, kv_dim = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    found: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (config.vocab_size, config.dim),
        "output_norm.weight": (config.dim,),
    }
    if not config.tied_embeddings:
        found["output.weight"] = (config.vocab_size, config.dim)
    for layer in range(config.n_layers):
        parts = {
            "attn_norm": (config.dim,),
            "attn_q": (q_dim, config.dim),
            "attn_k": (kv_dim, config.dim),
            "attn_v": (kv_dim, config.dim),
            "attn_output": (config.dim, q_dim),
            "ffn_norm": (config.dim,),
            "ffn_gate": (config.hidden_dim, config.dim),
            "ffn_up": (config.hidden_dim, config.dim),
            "ffn_down": (config.dim, config.hidden_dim),
        }
        found |= {f"blk.{layer}.{name}.weight": shape for name, shape in parts.items()}
    return found


def metadata(config: ModelConfig) -> dict[str, Any]:
    """Return the keys, without architecture, that llama.cpp's converter writes for a config."""
    window = config.sliding_window[0]
    return {
        "context_length": config.context_len,
        "embedding_length": config.dim,
        "block_count": config.n_layers,
        "feed_forward_length": config.hidden_dim,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.n_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": config.rope_theta,
        "vocab_size": config.vocab_size,
        **({} if window is None else {"attention.sliding_window": window}),
    }


def save_gguf(
    file: Path,
    config: ModelConfig,
    *,
    kind: GGMLQuantizationType = F32,
    architecture: str = "llama",
    change: dict[str, Any] | None = None,
    tokenizer: dict[str, Any] | None = None,
    extra: dict[str, np.ndarray] | None = None,
    without: tuple[str, ...] = (),
    tensors_per_part: int = 0,
    seed: int = 0,
) -> Path:
    """Write a random model whose matrices have the type `kind`.

    `change` adds or replaces metadata, None leaves a key out; a key belongs to the architecture
    unless it begins with a slash. `tokenizer` has keys under tokenizer.ggml. `extra` adds tensors
    in float32, `without` leaves some out. `tensors_per_part` above 0 writes a split file.

    Returns:
        The file, or the first part.
    """
    writer = GGUFWriter(file, architecture, split_max_tensors=tensors_per_part)
    fields = {f"{architecture}.{key}": value for key, value in metadata(config).items()}
    for key, value in (change or {}).items():
        fields[key[1:] if key.startswith("/") else f"{architecture}.{key}"] = value
    fields |= {f"tokenizer.ggml.{key}": value for key, value in (tokenizer or {}).items()}
    for key, value in fields.items():
        if value is not None:
            add_value(writer, key, value)
    random = np.random.default_rng(seed)
    for name, shape in shapes(config).items():
        if name not in without:
            add_tensor(writer, name, shape, kind, random)
    for name, tensor in (extra or {}).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    parts = sorted(file.parent.glob(f"{file.stem}-*.gguf"))
    return parts[0] if tensors_per_part else file


def add_value(writer: GGUFWriter, key: str, value: Any) -> None:
    """Add a value with the type that converters give it."""
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, int):
        writer.add_key_value(key, value, GGUFValueType.UINT32)
    else:
        writer.add_float32(key, value)


def add_tensor(
    writer: GGUFWriter,
    name: str,
    shape: tuple[int, ...],
    kind: GGMLQuantizationType,
    random: np.random.Generator,
) -> None:
    """Add a random tensor: norms in float32 near 1, matrices in `kind`."""
    if len(shape) == 1:
        writer.add_tensor(name, random.uniform(0.5, 1.5, shape).astype(np.float32))
        return
    values = random.normal(0, 0.04, shape).astype(np.float32)
    if kind == GGMLQuantizationType.F16:
        writer.add_tensor(name, values.astype(np.float16))
        return
    try:
        writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
    except NotImplementedError:
        writer.add_tensor(name, random_blocks(shape, kind, random), raw_dtype=kind)


def random_blocks(
    shape: tuple[int, ...], kind: GGMLQuantizationType, random: np.random.Generator
) -> np.ndarray:
    """Return bytes of a type that gguf cannot quantise to."""
    blocks = fitting_blocks(kind)
    count = int(np.prod(shape)) // GGML_QUANT_SIZES[kind][0]
    return blocks[random.integers(0, len(blocks), count)].reshape(*shape[:-1], -1)


@cache
def fitting_blocks(kind: GGMLQuantizationType) -> np.ndarray:
    """Return those of 4000 random blocks whose values are nearest to a model's weights in size."""
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (4000, GGML_QUANT_SIZES[kind][1]), np.uint8)
    blocks[2000:] &= 0x1F  # of types whose scales are bytes, smaller values
    with np.errstate(all="ignore"):
        size = np.abs(dequantize(blocks, kind)).max(axis=1)
        fit = np.abs(np.log(size / 0.06))
    return blocks[np.argsort(np.where(np.isfinite(fit), fit, np.inf))[:64]]


def dequantised(file: Path) -> dict[str, torch.Tensor]:
    """Return the values of a file's tensors, read with gguf's own reader."""
    return {
        tensor.name: torch.from_numpy(
            np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        ).reshape(*reversed(tensor.shape.tolist()))
        for tensor in GGUFReader(file).tensors
    }


def in_transformers(
    file: Path, config: ModelConfig, rope: dict[str, Any] | None = None
) -> PreTrainedModel:
    """Return transformers' model of the dequantised weights.

    It is Ministral 3 if `rope`, a change of rope_parameters, scales queries, Mistral with a window,
    else Llama.
    """
    rope = {"rope_type": "default", "rope_theta": config.rope_theta, **(rope or {})}
    settings: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.hidden_dim,
        "max_position_embeddings": config.context_len,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": rope,
        "tie_word_embeddings": config.tied_embeddings,
        "attn_implementation": "eager",
    }
    window = config.sliding_window[0]
    model: PreTrainedModel
    if "llama_4_scaling_beta" in rope:
        model = Ministral3ForCausalLM(Ministral3Config(**settings, sliding_window=None))
    elif window is None:
        model = LlamaForCausalLM(LlamaConfig(**settings))
    else:
        model = MistralForCausalLM(MistralConfig(**settings, sliding_window=window))
    state = {}
    for name, tensor in dequantised(file).items():
        if name == "rope_freqs.weight":
            continue
        *layer, part, _ = name.split(".")
        heads = {"attn_q": config.n_heads, "attn_k": config.n_kv_heads}.get(part)
        prefix = f"model.layers.{layer[1]}." if layer else ""
        state[f"{prefix}{HF_NAMES[part]}.weight"] = unpaired(tensor, heads) if heads else tensor
    if config.tied_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    return model.eval()


def unpaired(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Sort the rows of each head, which are in pairs: the first of every pair, then the second."""
    parts = weight.chunk(heads)
    return torch.cat([half for part in parts for half in (part[0::2], part[1::2])])
