"""Read config.json of Mistral's families and of Llama.

A missing field that changes the result is an error; the message names the option that supplies it.
Source: transformers' configuration_*.py of mistral, ministral, ministral3, mistral3 (its text
part), mixtral and llama.
"""

from collections.abc import Mapping
from typing import Any

import torch

from mistral_eval.errors import CheckpointError, UnsupportedError
from mistral_eval.model.config import ConfigFile, Experts, ModelConfig
from mistral_eval.model.load.config_rope import override_theta, read_rope
from mistral_eval.model.load.fields import USE_HF, Fields, with_overrides
from mistral_eval.model.load.quantised import refuse_quantised
from mistral_eval.model.load.stored import FLOAT_NAMES

FAMILIES = ("mistral", "ministral", "ministral3", "mistral3", "mixtral", "llama")

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
    *("original_max_position_embeddings", "partial_rotary_factor"),
}
# Fields that any model's config.json may have, and that say nothing about its language model.
_OF_ANY_MODEL = frozenset(
    {
        *("chunk_size_feed_forward", "id2label", "label2id", "is_encoder_decoder", "is_decoder"),
        *(
            "output_attentions",
            "output_hidden_states",
            "problem_type",
            "return_dict",
            "torchscript",
        ),
        *("use_bfloat16", "pruned_heads", "add_cross_attention", "tie_encoder_decoder", "prefix"),
        *("cross_attention_hidden_size", "finetuning_task", "task_specific_params"),
        *("tokenizer_class", "sep_token_id", "decoder_start_token_id", "tf_legacy_loss"),
        *("_attn_implementation", "attn_implementation", "_flash_attn_2_enabled"),
        *("transformers.js_config", "is_llama_config", "model_name", "torch_fx"),
        # how to sample, which the protocol decides
        *("max_length", "min_length", "do_sample", "early_stopping", "num_beams", "temperature"),
        *("num_beam_groups", "diversity_penalty", "top_k", "top_p", "typical_p", "output_scores"),
        *("repetition_penalty", "length_penalty", "no_repeat_ngram_size", "bad_words_ids"),
        *("encoder_no_repeat_ngram_size", "num_return_sequences", "return_dict_in_generate"),
        *("forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values"),
        *("exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens"),
    }
)
_OF_TOOLS = ("unsloth_",)  # beginnings of fields that a program left there
_BIASES = ("attention_bias", "mlp_bias")  # transformers' Mistral and Ministral have no such option
_OF_EXPERTS = frozenset(
    {
        *("num_local_experts", "num_experts_per_tok"),  # read; the others only matter in training
        *("output_router_logits", "router_aux_loss_coef", "router_jitter_noise"),
    }
)
# Outer fields of a model with images that say nothing about its text part.
_OF_IMAGES = frozenset(
    {
        *("text_config", "vision_config", "image_token_index", "image_token_id"),
        *("multimodal_projector_bias", "projector_hidden_act", "spatial_merge_size"),
        *("vision_feature_layer", "processor_class"),
    }
)
# Outer fields that count for the text part instead of its own.
_OUTER = ("tie_word_embeddings", "quantization_config", "auto_map", "dtype", "torch_dtype")
_KNOWN_OUTSIDE = (
    _OF_IMAGES | frozenset(_OUTER) | {"architectures", "model_type", "transformers_version"}
)
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


def from_hf_config(values: Mapping[str, Any], overrides: Mapping[str, str]) -> ConfigFile:
    """Convert the content of config.json; `overrides` have its field names or params.json's.

    Raises:
        CheckpointError: the architecture, an option or a value is not supported by the native
            engine, or a field that changes the result is missing.
        UsageError: an override names no field.
    """
    text, unread = _text_part(values)
    merged = with_overrides(text, overrides, NAMES)
    if "rope_theta" in overrides:
        override_theta(merged)
    fields = Fields(merged, "config.json")
    family = _family(fields)
    _refuse_unsupported(fields, family)
    n_layers = fields.integer("num_hidden_layers")
    rope = read_rope(fields, family)
    is_inner = text is not values
    unread = [*_unread(merged, family), *unread]
    notes = rope.notes
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
        rope_theta=rope.theta,
        context_len=fields.integer("max_position_embeddings", example="32768"),
        sliding_window=_windows(fields, family, n_layers, is_inner=is_inner),
        tied_embeddings=fields.flag("tie_word_embeddings"),
        rope_scaling=rope.scaling,
        query_scale=rope.query_scale,
        experts=_experts(fields) if family == "mixtral" else None,
    )
    return ConfigFile(config, notes, named_dtype(text))


def _text_part(values: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    """Return the fields of the text model, and outer fields that have no effect on it.

    In a model with images (mistral3) they are those of `text_config`, except for `_OUTER`. Its
    outer tie_word_embeddings decides, and is true where it is absent.

    Raises:
        CheckpointError: there is no text_config; transformers would make up a whole model.
    """
    if values.get("model_type") != "mistral3":
        return values, []
    inner = values.get("text_config")
    if not isinstance(inner, dict):
        raise CheckpointError(
            "config.json: a mistral3 model should have an object text_config, which describes its "
            f"text part, and has {inner!r}: copy or download the file again."
        )
    outer = {name: values[name] for name in _OUTER if values.get(name) is not None}
    text = {"model_type": "mistral", **inner, "tie_word_embeddings": True, **outer}
    known = _KNOWN_OUTSIDE | {name for name, value in inner.items() if value == values.get(name)}
    unread = [name for name, value in values.items() if value is not None and name not in known]
    return text, sorted(unread)


def _experts(fields: Fields) -> Experts:
    """Return the mixture of experts of a Mixtral."""
    return Experts(
        fields.integer("num_local_experts", example="8"),
        fields.integer("num_experts_per_tok", example="2"),
    )


def named_dtype(values: Mapping[str, Any]) -> torch.dtype | None:
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
    if experts and family != "mixtral":
        raise UnsupportedError(
            f"config.json: {experts[0]} makes this a mixture of experts, which the native engine "
            f"computes only for model_type mixtral: {USE_HF}."
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
    refuse_quantised(values)
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
    if values.get("partial_rotary_factor", 1.0) not in {None, 1.0}:
        raise UnsupportedError(
            "config.json: partial_rotary_factor should be 1 for the native engine and is "
            f"{values['partial_rotary_factor']!r}: {USE_HF}."
        )


def _kv_heads(fields: Fields, family: str) -> int:
    """Return num_key_value_heads; a Llama config without it predates GQA and has n_heads."""
    name = "num_key_value_heads"
    if fields.values.get(name) is None and family == "llama":
        return fields.integer("num_attention_heads")
    return fields.integer(name, example="8")


def _windows(
    fields: Fields, family: str, n_layers: int, *, is_inner: bool
) -> tuple[int | None, ...]:
    """Return one window per layer, as transformers' class of this family has it.

    Llama ignores the field. Mixtral and Ministral 3 have no window where the field is absent;
    Mistral has, so there it is required. `layer_types` says which layers slide in Ministral; a
    `mistral` configuration with that field is read as one, unless it is a text_config (`is_inner`).
    """
    if family == "llama":
        return (None,) * n_layers
    name = "sliding_window"
    if name not in fields.values and "_sliding_window" in fields.values:
        name = "_sliding_window"
    if name not in fields.values and family not in {"mixtral", "ministral3"}:
        raise fields.missing("sliding_window", "none")
    windows = fields.windows(name, n_layers)
    kinds = fields.values.get("layer_types")
    has_kinds = family == "ministral" or (family == "mistral" and not is_inner)
    if kinds is None:
        if family == "ministral" and any(windows):
            # transformers would give every layer a window; the published model alternates.
            raise CheckpointError(
                "config.json: a ministral model with a sliding_window needs layer_types, which "
                f"names the layers that have it, and has none: correct the file, or {USE_HF}."
            )
        return windows
    slides = _slides(kinds, n_layers)
    if not has_kinds and any(windows) and not all(slides):
        raise CheckpointError(
            f"config.json: sliding_window is {fields.values[name]!r} and layer_types names layers "
            f"without it, but transformers ignores layer_types in a {family} model here: set "
            "sliding_window to null, or make every layer sliding_attention."
        )
    return tuple(window if slide else None for window, slide in zip(windows, slides, strict=True))


def _slides(kinds: object, n_layers: int) -> list[bool]:
    """Return which layers have a window by `layer_types`."""
    known = {"sliding_attention", "full_attention"}
    if not isinstance(kinds, list) or len(kinds) != n_layers or not known.issuperset(kinds):
        raise CheckpointError(
            f"config.json: layer_types should hold {n_layers} entries, each sliding_attention or "
            f"full_attention, and is {kinds!r}."
        )
    return [kind == "sliding_attention" for kind in kinds]


def _unread(values: Mapping[str, Any], family: str) -> list[str]:
    """List fields that neither this reader nor transformers' model of this family uses."""
    known = _KNOWN | _OF_ANY_MODEL | (_OF_EXPERTS if family == "mixtral" else frozenset())
    unread = sorted(
        name
        for name, value in values.items()
        if name not in known and value not in (None, False) and not name.startswith(_OF_TOOLS)
    )
    if family != "llama":
        return [*unread, *(name for name in _BIASES if values.get(name))]
    windowed = values.get("sliding_window") is not None or values.get("_sliding_window") is not None
    return [*unread, "sliding_window"] if windowed else unread
