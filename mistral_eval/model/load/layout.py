"""Names, shapes and RoPE layouts of a model's tensors in the formats we read and write.

Our names are those of mistral-inference; our wq and wk are half-split, as in Hugging Face's
format. Sources: mistral-inference transformer_layers.py;
transformers' convert_mistral_weights_to_hf.py for the permutation.
"""

import torch

from mistral_eval.model.config import ModelConfig

# our name -> Hugging Face's name, for the parts of one layer
_HF_LAYER = {
    "attention.wq.weight": "self_attn.q_proj.weight",
    "attention.wk.weight": "self_attn.k_proj.weight",
    "attention.wv.weight": "self_attn.v_proj.weight",
    "attention.wo.weight": "self_attn.o_proj.weight",
    "feed_forward.gate.weight": "block_sparse_moe.gate.weight",
    "feed_forward.w1.weight": "mlp.gate_proj.weight",
    "feed_forward.w2.weight": "mlp.down_proj.weight",
    "feed_forward.w3.weight": "mlp.up_proj.weight",
    "attention_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}
_HF_TOP = {
    "tok_embeddings.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def hf_name(name: str) -> str:
    """Return Hugging Face's name of the tensor we call `name`."""
    if name in _HF_TOP:
        return _HF_TOP[name]
    _, layer, part = name.split(".", 2)
    theirs = _HF_LAYER.get(part) or part.replace("feed_forward", "block_sparse_moe")  # an expert
    return f"model.layers.{layer}.{theirs}"


def router_name(layer: int) -> str:
    """Return our name of a layer's router, (experts, dim)."""
    return f"layers.{layer}.feed_forward.gate.weight"


def feed_forward_prefixes(config: ModelConfig, layer: int) -> list[str]:
    """Return what stands before .w1.weight, .w2.weight and .w3.weight, once for each expert."""
    whole = f"layers.{layer}.feed_forward"
    if config.experts is None:
        return [whole]
    return [f"{whole}.experts.{expert}" for expert in range(config.experts.num_experts)]


def is_harmless(name: str) -> bool:
    """Return whether an unexpected tensor is a RoPE table, as in some old files."""
    return name == "rope.freqs" or name.endswith("rotary_emb.inv_freq")


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor by our name, in the order of computation.

    `output.weight` is absent if the embeddings are tied.
    """
    dim, hidden_dim = config.dim, config.hidden_dim
    q_dim, kv_dim = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (config.vocab_size, dim)}
    for layer in range(config.n_layers):
        shapes |= {
            f"layers.{layer}.attention_norm.weight": (dim,),
            f"layers.{layer}.attention.wq.weight": (q_dim, dim),
            f"layers.{layer}.attention.wk.weight": (kv_dim, dim),
            f"layers.{layer}.attention.wv.weight": (kv_dim, dim),
            f"layers.{layer}.attention.wo.weight": (dim, q_dim),
            f"layers.{layer}.ffn_norm.weight": (dim,),
        }
        if config.experts is not None:
            shapes[router_name(layer)] = (config.experts.num_experts, dim)
        for prefix in feed_forward_prefixes(config, layer):
            shapes |= {
                f"{prefix}.w1.weight": (hidden_dim, dim),
                f"{prefix}.w2.weight": (dim, hidden_dim),
                f"{prefix}.w3.weight": (hidden_dim, dim),
            }
    shapes["norm.weight"] = (dim,)
    if not config.tied_embeddings:
        shapes["output.weight"] = (config.vocab_size, dim)
    return shapes


def is_rotated(name: str) -> bool:
    """Return whether RoPE rotates this projection's output, so that its rows have a layout."""
    return name.endswith((".attention.wq.weight", ".attention.wk.weight"))


def half_split_from_interleaved(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Reorder rows of wq or wk from RoPE pairs (0, 1), (2, 3), ... to (0, D/2), (1, D/2 + 1), ...

    Args:
        weight: (H * D, dim) in the order of mistral-inference.
        head_dim: D.

    Returns:
        (H * D, dim) in the order of Hugging Face.
    """
    pairs = weight.view(-1, head_dim // 2, 2, weight.shape[1])  # (H, D/2, 2, dim)
    return pairs.transpose(1, 2).reshape(weight.shape)


def interleaved_from_half_split(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Invert `half_split_from_interleaved`."""
    halves = weight.view(-1, 2, head_dim // 2, weight.shape[1])  # (H, 2, D/2, dim)
    return halves.transpose(1, 2).reshape(weight.shape)
