"""Read params.json: Mistral's own format, and Meta's for Llama.

A missing or unknown field that may change the result is an error.
Sources: mistral-inference args.py and transformer.py; Meta's llama model.py.
"""

from collections.abc import Mapping
from typing import Any

from mistral_eval.errors import CheckpointError
from mistral_eval.model.config import ConfigFile, ModelConfig
from mistral_eval.model.load.fields import USE_HF, Fields, with_overrides

# max_position_embeddings of Mistral 7B v0.1 to v0.3; their params.json has no such field.
MISTRAL_CONTEXT_LEN = 32768

# ModelConfig's name -> params.json name, for every field `--model-args` may set.
_SAME = ModelConfig.__match_args__
NAMES = dict(zip(_SAME, _SAME, strict=True)) | {"context_len": "max_seq_len"}
_KNOWN = frozenset(NAMES.values()) | {
    *("_sliding_window", "multiple_of", "ffn_dim_multiplier", "max_batch_size", "model_type"),
}
_LENGTH = "max_position_embeddings"


def from_params_json(values: Mapping[str, Any], overrides: Mapping[str, str]) -> ConfigFile:
    """Convert the content of params.json; `overrides` have its field names or ModelConfig's.

    No `sliding_window` means none, as in mistral-inference. `rope_theta` is required:
    mistral-inference took 10000 for a missing one in 2023 and takes 1000000 today, so any default
    would load some files as a wrong model. `context_len` is `max_seq_len`; Mistral 7B's files lack
    it and get 32768, the value of their config.json. Meta's files lack it too, and there it is
    required.

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
    )
    return ConfigFile(config, notes)


def _refuse_unsupported(fields: Fields) -> None:
    """Raise for experts and for every unknown field that is set."""
    if fields.values.get("moe"):
        raise CheckpointError(
            "params.json: moe makes this a mixture of experts, which the native engine does not "
            f"support: take the model's Hugging Face folder and {USE_HF}."
        )
    if fields.values.get("causal") is False:
        raise CheckpointError(
            "params.json: causal is false, so this is no causal language model: give the language "
            "model's folder."
        )
    unknown = sorted(
        name
        for name, value in fields.values.items()
        if name not in (*_KNOWN, _LENGTH, "causal") and value is not None and value is not False
    )
    if unknown:
        raise CheckpointError(
            f"params.json: the native engine does not know {', '.join(unknown)}, which may change "
            f"the result: take the model's Hugging Face folder and {USE_HF}."
        )


def _context_len(fields: Fields, *, is_meta: bool) -> tuple[int, tuple[str, ...]]:
    """Return max_seq_len, else max_position_embeddings, else Mistral 7B's 32768, and notes."""
    notes = []
    if fields.values.get("causal") is not None:
        notes.append("params.json: no effect: causal")
    if fields.values.get("max_seq_len") is not None:
        if fields.values.get(_LENGTH) is not None:
            notes.append(f"params.json: no effect beside max_seq_len: {_LENGTH}")
        return fields.integer("max_seq_len"), tuple(notes)
    if fields.values.get(_LENGTH) is not None:
        notes.append(f"params.json: no max_seq_len; {_LENGTH} is the context length")
        return fields.integer(_LENGTH), tuple(notes)
    if is_meta:
        raise fields.missing("max_seq_len", "4096")
    notes.append(f"params.json: no max_seq_len; {MISTRAL_CONTEXT_LEN} assumed, as for Mistral 7B")
    return MISTRAL_CONTEXT_LEN, tuple(notes)


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


def _meta_hidden_dim(fields: Fields) -> int:
    """Return 2/3 of 4 dim, times ffn_dim_multiplier, rounded up to multiple_of (Meta's rule)."""
    hidden_dim = 2 * (4 * fields.integer("dim")) // 3
    if fields.values.get("ffn_dim_multiplier") is not None:
        hidden_dim = int(fields.number("ffn_dim_multiplier") * hidden_dim)
    multiple_of = fields.integer("multiple_of")
    return multiple_of * -(-hidden_dim // multiple_of)
