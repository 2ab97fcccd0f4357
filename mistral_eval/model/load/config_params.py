"""Read params.json: Mistral's own format, and Meta's for Llama.

A missing or unknown field that may change the result is an error.
Sources: mistral-inference args.py, transformer.py and moe.py; Meta's llama model.py; for `yarn` and
`llama_4_scaling`, vLLM's reader of these files (transformers_utils/configs/mistral.py).
"""

from collections.abc import Mapping
from typing import Any

from mistral_eval.errors import CheckpointError
from mistral_eval.model.config import ConfigFile, Experts, ModelConfig
from mistral_eval.model.load.fields import USE_HF, Fields, with_overrides
from mistral_eval.model.rope import QueryScale, YarnScaling, yarn_amplitude

# max_position_embeddings of Mistral 7B v0.1 to v0.3; their params.json has no such field.
MISTRAL_CONTEXT_LEN = 32768

# ModelConfig's name -> params.json name, for every field `--model-args` may set.
_SAME = ModelConfig.__match_args__
_PARTS = ("rope_scaling", "query_scale", "experts")  # objects with other names in the file
NAMES = {name: name for name in _SAME if name not in _PARTS} | {"context_len": "max_seq_len"}
_KNOWN = frozenset(NAMES.values()) | {
    *("yarn", "llama_4_scaling", "moe", "max_position_embeddings"),
    *("_sliding_window", "multiple_of", "ffn_dim_multiplier", "max_batch_size", "model_type"),
}


def from_params_json(values: Mapping[str, Any], overrides: Mapping[str, str]) -> ConfigFile:
    """Convert the content of params.json; `overrides` have its field names or ModelConfig's.

    No `sliding_window` means none, as in mistral-inference. `rope_theta` is required:
    mistral-inference took 10000 for a missing one in 2023 and takes 1000000 today, so any default
    would load some files as a wrong model. `context_len` is `max_seq_len`, or else
    `max_position_embeddings`; Mistral 7B's files lack both and get 32768, the value of their
    config.json. Meta's files lack them too, and there one is required.

    Raises:
        CheckpointError: a field is missing, unknown or not supported by the native engine.
        UsageError: an override names no field.
    """
    merged = with_overrides(values, overrides, NAMES)
    if "sliding_window" in overrides:
        merged.pop("_sliding_window", None)
    fields = Fields(merged, "params.json")
    _refuse_unsupported(fields)
    n_layers = fields.integer("n_layers")
    is_meta = "multiple_of" in merged and merged.get("hidden_dim") is None
    context_len, notes = _context_len(fields, is_meta=is_meta)
    config = ModelConfig(
        dim=fields.integer("dim"),
        n_layers=n_layers,
        head_dim=fields.head_dim("dim", "n_heads"),
        hidden_dim=_meta_hidden_dim(fields) if is_meta else fields.integer("hidden_dim"),
        n_heads=fields.integer("n_heads"),
        n_kv_heads=_kv_heads(fields, is_meta=is_meta),
        norm_eps=fields.number("norm_eps", example="1e-05"),
        vocab_size=-1 if merged.get("vocab_size") == -1 else fields.integer("vocab_size"),
        rope_theta=fields.number("rope_theta", example="10000"),
        context_len=context_len,
        sliding_window=_windows(fields, n_layers),
        tied_embeddings=fields.flag("tied_embeddings"),
        rope_scaling=_yarn(fields),
        query_scale=_query_scale(fields),
        experts=_experts(fields),
    )
    return ConfigFile(config, notes)


def _refuse_unsupported(fields: Fields) -> None:
    """Raise for a model with images and for every unknown field that is set."""
    if fields.values.get("vision_encoder"):
        raise CheckpointError(
            "params.json: vision_encoder makes this a model with images, whose text part is read "
            "only from Hugging Face's format: take that folder of the model."
        )
    unknown = sorted(
        name
        for name, value in fields.values.items()
        if name not in _KNOWN and value is not None and value is not False
    )
    if unknown:
        raise CheckpointError(
            f"params.json: the native engine does not know {', '.join(unknown)}, which may change "
            f"the result: take the model's Hugging Face folder and {USE_HF}."
        )


def _context_len(fields: Fields, *, is_meta: bool) -> tuple[int, tuple[str, ...]]:
    """Return max_seq_len, or Mistral 7B's 32768 with a note."""
    for name in ("max_seq_len", "max_position_embeddings"):
        if fields.values.get(name) is not None:
            return fields.integer(name), ()
    if is_meta:
        raise fields.missing("max_seq_len", "4096")
    note = f"params.json: no max_seq_len; {MISTRAL_CONTEXT_LEN} assumed, as for Mistral 7B"
    return MISTRAL_CONTEXT_LEN, (note,)


def _kv_heads(fields: Fields, *, is_meta: bool) -> int:
    """Return n_kv_heads; Meta's files without it are models without GQA."""
    if is_meta and fields.values.get("n_kv_heads") is None:
        return fields.integer("n_heads")
    return fields.integer("n_kv_heads", example="8")


def _windows(fields: Fields, n_layers: int) -> tuple[int | None, ...]:
    """Return one window per layer, from either spelling of the field."""
    both = [name for name in ("sliding_window", "_sliding_window") if name in fields.values]
    found = [fields.windows(name, n_layers) for name in both]
    if len(found) > 1 and found[0] != found[1]:
        raise CheckpointError(
            "params.json: sliding_window and _sliding_window disagree; "
            "choose one with `--model-args sliding_window=...`."
        )
    return found[0] if found else (None,) * n_layers


def _inner(fields: Fields, name: str, known: frozenset[str]) -> Fields | None:
    """Return the fields of an object, or None if it is absent.

    Raises:
        CheckpointError: it is no object, or has a field that we do not know.
    """
    value = fields.values.get(name)
    if not value:
        return None
    if not isinstance(value, dict) or not known.issuperset(value):
        raise CheckpointError(
            f"{fields.source}: {name} should be an object of {', '.join(sorted(known))} and is "
            f"{value!r}: take the model's Hugging Face folder."
        )
    return Fields(value, f"{fields.source}: {name}")


def _yarn(fields: Fields) -> YarnScaling | None:
    """Return `yarn`; without `apply_scale` the amplitude is YaRN's own, with false it is 1."""
    known = {"factor", "original_max_position_embeddings", "alpha", "beta", "apply_scale"}
    yarn = _inner(fields, "yarn", frozenset(known))
    if yarn is None:
        return None
    factor = yarn.number("factor")
    has_amplitude = yarn.values.get("apply_scale", True)
    return YarnScaling(
        factor,
        yarn.integer("original_max_position_embeddings"),
        beta_fast=yarn.number("beta") if "beta" in yarn.values else 32.0,
        beta_slow=yarn.number("alpha") if "alpha" in yarn.values else 1.0,
        amplitude=yarn_amplitude(factor) if has_amplitude else 1.0,
    )


def _query_scale(fields: Fields) -> QueryScale | None:
    known = frozenset({"beta", "original_max_position_embeddings"})
    scale = _inner(fields, "llama_4_scaling", known)
    if scale is None:
        return None
    return QueryScale(scale.number("beta"), scale.integer("original_max_position_embeddings"))


def _experts(fields: Fields) -> Experts | None:
    moe = _inner(fields, "moe", frozenset(Experts.__match_args__))
    return None if moe is None else Experts(*(moe.integer(name) for name in Experts.__match_args__))


def _meta_hidden_dim(fields: Fields) -> int:
    """Return 2/3 of 4 dim, times ffn_dim_multiplier, rounded up to multiple_of (Meta's rule)."""
    hidden_dim = 2 * (4 * fields.integer("dim")) // 3
    if fields.values.get("ffn_dim_multiplier") is not None:
        hidden_dim = int(fields.number("ffn_dim_multiplier") * hidden_dim)
    multiple_of = fields.integer("multiple_of")
    return multiple_of * -(-hidden_dim // multiple_of)
