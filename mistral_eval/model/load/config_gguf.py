"""Read a model's shape from the metadata of a GGUF file.

Sources: ggml's docs/gguf.md for the keys and their defaults; llama.cpp's llama-model.cpp for what a
missing key means.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from mistral_eval.errors import CheckpointError
from mistral_eval.model.config import ConfigFile, ModelConfig
from mistral_eval.model.load.fields import Fields, with_overrides
from mistral_eval.model.load.gguf_file import GGUFFile
from mistral_eval.model.load.weights import Source
from mistral_eval.model.rope import (
    DividedScaling,
    LinearScaling,
    QueryScale,
    RopeScaling,
    YarnScaling,
    yarn_amplitude,
)

ARCHITECTURES: Final = ("llama", "mistral3")
_DEFAULT_ROPE_THETA: Final = 10000.0
_EMBEDDINGS, _OUTPUT = "token_embd.weight", "output.weight"
_TOP: Final = {
    "tok_embeddings.weight": _EMBEDDINGS,
    "norm.weight": "output_norm.weight",
    "output.weight": _OUTPUT,
}
_LAYER: Final = {
    "attention.wq.weight": "attn_q.weight",
    "attention.wk.weight": "attn_k.weight",
    "attention.wv.weight": "attn_v.weight",
    "attention.wo.weight": "attn_output.weight",
    "feed_forward.w1.weight": "ffn_gate.weight",
    "feed_forward.w2.weight": "ffn_down.weight",
    "feed_forward.w3.weight": "ffn_up.weight",
    "attention_norm.weight": "attn_norm.weight",
    "ffn_norm.weight": "ffn_norm.weight",
}
# ModelConfig's name -> the key without the architecture, for every field `--model-args` may set.
NAMES: Final = {
    "dim": "embedding_length",
    "n_layers": "block_count",
    "head_dim": "attention.key_length",
    "hidden_dim": "feed_forward_length",
    "n_heads": "attention.head_count",
    "n_kv_heads": "attention.head_count_kv",
    "norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "context_len": "context_length",
    "sliding_window": "attention.sliding_window",
}
# Keys that are checked below, or that cannot change a logit.
_KNOWN: Final = frozenset(NAMES.values()) | {
    *("vocab_size", "rope.dimension_count", "attention.value_length", "attention.causal"),
    *("expert_count", "expert_used_count", "rope.scale_linear", "tensor_data_layout"),
    *("rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length"),
    *("rope.scaling.finetuned", "rope.scaling.attn_factor", "rope.scaling.yarn_log_multiplier"),
    *("rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow"),
    *("attention.temperature_scale", "attention.temperature_length"),
}
_ROPE_DIVISORS: Final = "rope_freqs.weight"


@dataclass(frozen=True, slots=True)
class GGUFSource(Source):
    """The tensors of a GGUF file; rows of wq and wk are in pairs, as in mistral-inference."""

    def name(self, ours: str) -> str:
        """Return GGUF's name of the tensor we call `ours`."""
        if ours in _TOP:
            return _TOP[ours]
        _, layer, part = ours.split(".", 2)
        return f"blk.{layer}.{_LAYER[part]}"


def source_of(file: GGUFFile) -> GGUFSource:
    """Return a file's tensors as the loader reads them."""
    # the divisors of RoPE are part of the configuration
    tensors = {name: stored for name, stored in file.tensors.items() if name != _ROPE_DIVISORS}
    return GGUFSource(file.files[0], tensors, is_hf=False)


def from_gguf(file: GGUFFile, overrides: Mapping[str, str]) -> ConfigFile:
    """Convert a file's metadata; `overrides` have ModelConfig's names or the keys' last part.

    The vocabulary is the number of embedding rows, and the output is tied to the embeddings where
    the file has no output.weight. A missing rope.freq_base means 10000, a missing head_count_kv
    means head_count, and no attention.sliding_window means none, as llama.cpp reads them.

    The dtype is that of the embeddings if nothing is quantised. Otherwise it is float16 (float32
    on the CPU, see `choose_dtype`): a quantised value is an integer of up to 8 bits times a float16
    scale, and rounding it to bfloat16 would add a third of Q8_0's own error.

    Raises:
        CheckpointError: the architecture, a key or a value is not supported by the native engine,
            or a key that changes the result is missing.
        UsageError: an override names no field.
    """
    where = file.files[0]
    architecture = _architecture(file.metadata, where)
    prefix = f"{architecture}."
    own = {
        key.removeprefix(prefix): value
        for key, value in file.metadata.items()
        if key.startswith(prefix)
    }
    fields = Fields(with_overrides(own, overrides, NAMES), where.name)
    _refuse_unsupported(fields)
    n_layers = fields.integer("block_count")
    theta, notes = _rope_theta(fields)
    config = ModelConfig(
        dim=fields.integer("embedding_length"),
        n_layers=n_layers,
        head_dim=_head_dim(fields),
        hidden_dim=_same(fields, "feed_forward_length"),
        n_heads=_same(fields, "attention.head_count"),
        n_kv_heads=_kv_heads(fields),
        norm_eps=fields.number("attention.layer_norm_rms_epsilon", example="1e-05"),
        vocab_size=_rows(file),
        rope_theta=theta,
        context_len=fields.integer("context_length", example="32768"),
        sliding_window=_windows(fields, n_layers),
        tied_embeddings=_OUTPUT not in file.tensors,
        rope_scaling=_scaling(fields, file),
        query_scale=_query_scale(fields),
    )
    return ConfigFile(config, (*notes, *_window_note(config)), _dtype(file))


def _architecture(metadata: Mapping[str, Any], where: Path) -> str:
    """Return general.architecture, or raise if the native engine does not support it."""
    if metadata.get("general.type", "model") != "model":
        raise CheckpointError(
            f"{where} should hold a model and holds {metadata['general.type']!r} "
            "(general.type): give the model's own file."
        )
    name = metadata.get("general.architecture")
    if name not in ARCHITECTURES:
        raise CheckpointError(
            f"{where}: general.architecture should be {' or '.join(ARCHITECTURES)} for the native "
            f"engine and is {name!r}: take the model's Hugging Face folder."
        )
    return str(name)


def _refuse_unsupported(fields: Fields) -> None:
    """Raise for every key that may change a logit and that the native engine does not know."""
    values, source = fields.values, fields.source
    if values.get("expert_count"):
        raise CheckpointError(
            f"{source}: expert_count makes this a mixture of experts, which the native engine does "
            "not read from GGUF files: take the model's Hugging Face folder."
        )
    if values.get("attention.causal", True) is not True:
        raise _inner(fields, values).wrong("attention.causal", "true")
    unknown = sorted(set(values) - _KNOWN)
    if unknown:
        raise CheckpointError(
            f"{source}: the native engine does not know the metadata {', '.join(unknown)}, which "
            "may change the result: take the model's Hugging Face folder."
        )


def _inner(fields: Fields, values: Mapping[str, Any]) -> Fields:
    """Return fields that no `--model-args` sets."""
    return Fields(values, fields.source, is_inner=True)


def _scaling(fields: Fields, file: GGUFFile) -> RopeScaling | None:
    """Return how positions are scaled: by a divisor per pair, linearly, by YaRN, or not.

    A scaling without a type is linear, and a factor of 0 or 1 changes nothing, as in llama.cpp.

    Raises:
        CheckpointError: the kind of scaling is not known, or there are two.
    """
    kind = fields.values.get("rope.scaling.type", "linear")
    if kind not in ("none", "linear", "yarn"):
        raise CheckpointError(
            f"{fields.source}: rope.scaling.type should be none, linear or yarn and is {kind!r}: "
            "take the model's Hugging Face folder."
        )
    given = fields.values.get("rope.scaling.factor", fields.values.get("rope.scale_linear"))
    factor = 1.0 if not given else _inner(fields, {"factor": given}).number("factor")
    scaling: RopeScaling | None = None
    if kind == "yarn":
        scaling = _yarn(fields, factor)
    elif kind == "linear" and factor != 1:
        scaling = LinearScaling(factor)
    divisors = file.tensors.get(_ROPE_DIVISORS)
    if divisors is None:
        return scaling
    pairs = _head_dim(fields) // 2
    if scaling is not None or divisors.shape != (pairs,):
        raise CheckpointError(
            f"{fields.source}: {_ROPE_DIVISORS} should have {pairs} values and be the only scaling "
            f"of positions; it has the shape {divisors.shape} beside rope.scaling.type {kind}: "
            "convert the model again."
        )
    return DividedScaling(tuple(divisors.read().float().tolist()))


def _yarn(fields: Fields, factor: float) -> YarnScaling:
    """Return YaRN's scaling, with llama.cpp's defaults and its rule for the amplitude."""
    values = {
        "beta_fast": fields.values.get("rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": fields.values.get("rope.scaling.yarn_beta_slow", 1.0),
        "attn_factor": fields.values.get("rope.scaling.attn_factor", 1.0),
    }
    own = _inner(fields, values)
    log_multiplier = fields.values.get("rope.scaling.yarn_log_multiplier", 0.0)
    return YarnScaling(
        factor=factor,
        original_context_len=_original_context_len(fields),
        beta_fast=own.number("beta_fast"),
        beta_slow=own.number("beta_slow"),
        amplitude=own.number("attn_factor") * yarn_amplitude(factor, 1.0, log_multiplier),
    )


def _original_context_len(fields: Fields) -> int:
    """Return the context length before scaling; where it is absent nothing was extended."""
    name = "rope.scaling.original_context_length"
    return fields.integer("context_length" if fields.values.get(name) is None else name)


def _query_scale(fields: Fields) -> QueryScale | None:
    """Return the scale of queries by position (Ministral 3), or None."""
    beta = fields.values.get("attention.temperature_scale")
    if not beta:
        return None
    name = "attention.temperature_length"
    length = fields.integer(name) if fields.values.get(name) else _original_context_len(fields)
    return QueryScale(fields.number("attention.temperature_scale"), length)


def _rope_theta(fields: Fields) -> tuple[float, tuple[str, ...]]:
    """Return rope.freq_base, or llama.cpp's default with a note."""
    if fields.values.get("rope.freq_base") is None:
        note = f"{fields.source}: no rope.freq_base; 10000 assumed, as in llama.cpp"
        return _DEFAULT_ROPE_THETA, (note,)
    return fields.number("rope.freq_base"), ()


def _head_dim(fields: Fields) -> int:
    """Return key_length, or embedding_length / head_count; all of a head must be rotated.

    Raises:
        CheckpointError: keys and values differ in length, or RoPE covers a part of each head.
    """
    heads = _same(fields, "attention.head_count")
    shape = {"dim": fields.integer("embedding_length"), "heads": heads}
    given = fields.values.get("attention.key_length")
    head_dim = Fields({**shape, "head_dim": given}, fields.source).head_dim("dim", "heads")
    for name in ("rope.dimension_count", "attention.value_length"):
        if fields.values.get(name, head_dim) != head_dim:
            raise CheckpointError(
                f"{fields.source}: {name} should be the length of a head, {head_dim}, for the "
                f"native engine and is {fields.values[name]}: "
                "take the model's Hugging Face folder."
            )
    return head_dim


def _same(fields: Fields, name: str) -> int:
    """Return a number that may be given once or per layer; every layer must have the same."""
    value = fields.values.get(name)
    if isinstance(value, list) and len(set(value)) == 1:
        return Fields({name: value[0]}, fields.source).integer(name)
    return fields.integer(name)


def _kv_heads(fields: Fields) -> int:
    """Return head_count_kv; without it the model has no grouped queries."""
    name = "attention.head_count_kv"
    return _same(fields, "attention.head_count" if fields.values.get(name) is None else name)


def _windows(fields: Fields, n_layers: int) -> tuple[int | None, ...]:
    """Return one window per layer; 0 means none, as in llama.cpp."""
    name = "attention.sliding_window"
    value = fields.values.get(name)
    given = value if isinstance(value, list) else [value]
    windows = [None if window == 0 else window for window in given]
    return Fields({name: windows}, fields.source).windows(name, n_layers)


def _window_note(config: ModelConfig) -> tuple[str, ...]:
    """Return a note if this may be Mistral 7B v0.1, whose window converters leave out."""
    is_first = config.rope_theta == _DEFAULT_ROPE_THETA and config.context_len == 32768
    if not is_first or any(config.sliding_window):
        return ()
    note = "the GGUF file names no sliding window; Mistral 7B v0.1 has one of 4096"
    return (f"{note} (`--model-args sliding_window=4096`)",)


def _rows(file: GGUFFile) -> int:
    """Return the number of embedding rows.

    Raises:
        CheckpointError: there are no embeddings.
    """
    stored = file.tensors.get(_EMBEDDINGS)
    if stored is None or len(stored.shape) != 2:
        raise CheckpointError(
            f"{file.files[0]}: a two-dimensional tensor {_EMBEDDINGS}, which gives the "
            "vocabulary's size, is missing: copy or download the file again."
        )
    return stored.shape[0]


def _dtype(file: GGUFFile) -> torch.dtype:
    """Return the dtype to compute in where the user names none."""
    if any(stored.quantised for stored in file.tensors.values()):
        return torch.float16
    return file.tensors[_EMBEDDINGS].dtype
