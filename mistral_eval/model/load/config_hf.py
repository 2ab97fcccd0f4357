"""Read config.json of MistralForCausalLM, MinistralForCausalLM and LlamaForCausalLM.

A missing field that changes the result is an error; the message names the option that supplies it.
Source: transformers' configuration_mistral, configuration_ministral and configuration_llama.
"""

from collections.abc import Mapping
from typing import Any

import torch

from mistral_eval.errors import CheckpointError, UnsupportedError
from mistral_eval.model.config import ConfigFile, ModelConfig
from mistral_eval.model.load.fields import USE_HF, Fields, with_overrides
from mistral_eval.model.load.stored import FLOAT_NAMES

FAMILIES = ("mistral", "ministral", "llama")
LLAMA_ROPE_THETA = 10000.0

# params.json name -> config.json name, for every field `--model-args` may set.
NAMES = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "head_dim": "head_dim",
    "hidden_dim": "intermediate_size",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "norm_eps": "rms_norm_eps",
    "vocab_size": "vocab_size",
    "rope_theta": "rope_theta",
    "context_len": "max_position_embeddings",
    "sliding_window": "sliding_window",
    "tied_embeddings": "tie_word_embeddings",
    "hidden_act": "hidden_act",
}
# Fields that are read below or cannot change a logit during evaluation.
_KNOWN = frozenset(NAMES.values()) | {
    *("architectures", "model_type", "transformers_version", "dtype", "torch_dtype"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "use_cache", "initializer_range"),
    *("attention_dropout", "attention_bias", "mlp_bias", "pretraining_tp", "rope_scaling"),
    *("rope_parameters", "layer_types", "_sliding_window", "_name_or_path", "auto_map"),
}
_BIASES = ("attention_bias", "mlp_bias")  # transformers' Mistral and Ministral have no such option
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


def from_hf_config(values: Mapping[str, Any], overrides: Mapping[str, str]) -> ConfigFile:
    """Convert the content of config.json; `overrides` have its field names or params.json's.

    Raises:
        CheckpointError: the architecture, an option or a value is not supported by the native
            engine, or a field that changes the result is missing.
        UsageError: an override names no field.
    """
    merged = with_overrides(values, overrides, NAMES)
    if "rope_theta" in overrides and isinstance(merged.get("rope_parameters"), dict):
        merged["rope_parameters"] = {**merged["rope_parameters"], "rope_theta": None}
    fields = Fields(merged, "config.json")
    family = _family(fields)
    _refuse_unsupported(fields, family)
    n_layers = fields.integer("num_hidden_layers")
    theta, notes = _rope_theta(fields, family)
    unread = _unread(merged, family)
    if unread:
        notes = (*notes, f"config.json: no effect on a {family} model: {', '.join(unread)}")
    config = ModelConfig(
        dim=fields.integer("hidden_size"),
        n_layers=n_layers,
        head_dim=fields.head_dim("hidden_size", "num_attention_heads"),
        hidden_dim=fields.integer("intermediate_size"),
        n_heads=fields.integer("num_attention_heads"),
        n_kv_heads=_kv_heads(fields, family),
        norm_eps=fields.number("rms_norm_eps", example="1e-05"),
        vocab_size=fields.integer("vocab_size"),
        rope_theta=theta,
        context_len=fields.integer("max_position_embeddings", example="32768"),
        sliding_window=_windows(fields, family, n_layers),
        tied_embeddings=fields.flag("tie_word_embeddings"),
    )
    return ConfigFile(config, notes, _dtype(values))


def _dtype(values: Mapping[str, Any]) -> torch.dtype | None:
    """Return the dtype named by `dtype` or, where that is absent, by the older `torch_dtype`.

    transformers 5 reads them in this order (configuration_utils.py). A name that is not a plain
    float counts as absent: the stored tensors decide then.
    """
    name = values.get("dtype")
    return FLOAT_NAMES.get(str(values.get("torch_dtype") if name is None else name))


def _family(fields: Fields) -> str:
    """Return the model_type, or raise if the native engine does not support it."""
    family = fields.values.get("model_type")
    experts = [name for name in _EXPERTS if fields.values.get(name)]
    if experts:
        raise UnsupportedError(
            f"config.json: {experts[0]} makes this a mixture of experts, which the native engine "
            f"does not support: {USE_HF}."
        )
    if family not in FAMILIES:
        what = (
            f"config.json: model_type should be one of {', '.join(FAMILIES)} for the native engine "
            f"and is {family!r}"
        )
        if _is_in_transformers(family):
            raise UnsupportedError(f"{what}: {USE_HF}.")
        raise CheckpointError(
            f"{what}, which the transformers installed here has no causal language model for: "
            "upgrade transformers and take --engine hf, or give another model."
        )
    assert isinstance(family, str)
    return family


def _check_activation(fields: Fields) -> None:
    """Raise if transformers does not know the activation either."""
    from transformers.activations import ACT2FN  # imported only for this error

    if fields.values["hidden_act"] not in ACT2FN:
        raise fields.wrong("hidden_act", "an activation that transformers knows, such as silu")


def _quantised_by(settings: Any) -> str:
    """Return the name of a quantisation method."""
    method = settings.get("quant_method") if isinstance(settings, Mapping) else None
    return str(method or "this quantisation")


def _is_in_transformers(family: object) -> bool:
    """Return whether the hf engine can load this model_type; mistral3 has a class of its own."""
    # imported only for this error: it takes seconds
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return family == "mistral3" or family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def _refuse_unsupported(fields: Fields, family: str) -> None:
    """Raise for every option that transformers supports and the native engine does not."""
    values = fields.values
    if values.get("quantization_config"):
        raise UnsupportedError(
            "config.json: quantization_config means quantised weights, which the native engine "
            "does not read: install the library that transformers reads "
            f"{_quantised_by(values['quantization_config'])} with, and {USE_HF}."
        )
    for name in _BIASES:
        if values.get(name) and family == "llama":
            raise UnsupportedError(
                f"config.json: {name} should be false for the native engine and is "
                f"{values[name]!r}: {USE_HF}."
            )
    if values.get("hidden_act") is None:
        raise fields.missing("hidden_act", "silu")
    if values["hidden_act"] != "silu":
        _check_activation(fields)
        raise UnsupportedError(
            f"config.json: hidden_act should be silu for the native engine and is "
            f"{values['hidden_act']!r}: {USE_HF}."
        )
    for name in ("rope_scaling", "rope_parameters"):
        _refuse_scaled_rope(name, values.get(name))


def _refuse_scaled_rope(name: str, rope: Any) -> None:
    """Raise for any RoPE but the plain one over whole heads."""
    if rope is None:
        return
    if not isinstance(rope, dict):
        raise CheckpointError(
            f"config.json: {name} should be null or an object and is {rope!r}: correct the file."
        )
    nested = [key for key, value in rope.items() if isinstance(value, dict)]
    kind = rope.get("rope_type", rope.get("type", "default"))
    if nested or kind != "default" or rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise UnsupportedError(
            f"config.json: {name} should be plain (rope_type default) for the native engine and is "
            f"{rope!r}: {USE_HF}."
        )


def _rope_theta(fields: Fields, family: str) -> tuple[float, tuple[str, ...]]:
    """Return rope_parameters.rope_theta (transformers 5) or rope_theta, and a note if assumed.

    Early Llama configs have neither; transformers' documented default for them is 10000. Mistral's
    configs always had the field.
    """
    values = fields.values
    rope = values.get("rope_parameters") or {}
    nested, flat = rope.get("rope_theta"), values.get("rope_theta")
    if nested is not None and flat is not None and nested != flat:
        raise CheckpointError(
            f"config.json: rope_theta is {flat!r} and rope_parameters.rope_theta is {nested!r}; "
            "choose one with `--model-args rope_theta=...`."
        )
    if nested is None and flat is None and family == "llama":
        note = "config.json: no rope_theta; 10000 assumed, transformers' default for Llama"
        return LLAMA_ROPE_THETA, (note,)
    found = Fields({"rope_theta": flat if nested is None else nested}, fields.source)
    return found.number("rope_theta", example="10000"), ()


def _kv_heads(fields: Fields, family: str) -> int:
    """Return num_key_value_heads; a Llama config without it predates GQA and has n_heads."""
    name = "num_key_value_heads"
    if fields.values.get(name) is None and family == "llama":
        return fields.integer("num_attention_heads")
    return fields.integer(name, example="8")


def _windows(fields: Fields, family: str, n_layers: int) -> tuple[int | None, ...]:
    """Return one window per layer; transformers' Llama ignores the field and has none."""
    if family == "llama":
        return (None,) * n_layers
    name = "sliding_window"
    if name not in fields.values and "_sliding_window" in fields.values:
        name = "_sliding_window"
    if name not in fields.values:
        raise fields.missing("sliding_window", "none")
    windows = fields.windows(name, n_layers)
    kinds = fields.values.get("layer_types")
    if kinds is None:
        if family == "ministral" and any(windows):
            # transformers would give every layer a window; the published model alternates.
            raise CheckpointError(
                "config.json: a ministral model with a sliding_window needs layer_types, which "
                f"names the layers that have it, and has none: correct the file, or {USE_HF}."
            )
        return windows
    known = {"sliding_attention", "full_attention"}
    if not isinstance(kinds, list) or len(kinds) != n_layers or not known.issuperset(kinds):
        raise CheckpointError(
            f"config.json: layer_types should hold {n_layers} entries, each sliding_attention or "
            f"full_attention, and is {kinds!r}."
        )
    slides = [kind == "sliding_attention" for kind in kinds]
    return tuple(window if slide else None for window, slide in zip(windows, slides, strict=True))


def _unread(values: Mapping[str, Any], family: str) -> list[str]:
    """List fields that neither this reader nor transformers' model of this family uses."""
    unread = sorted(name for name in values if name not in _KNOWN and values[name] is not None)
    if family != "llama":
        return [*unread, *(name for name in _BIASES if values.get(name))]
    windowed = values.get("sliding_window") is not None or values.get("_sliding_window") is not None
    return [*unread, "sliding_window"] if windowed else unread
