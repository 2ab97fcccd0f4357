"""Read RoPE's base and scaling from config.json, where they can stand in several places.

The places are `rope_theta`, `rope_parameters` (transformers 5) and `rope_scaling` (before it).
Source: transformers' modeling_rope_utils.py. It takes the first of two places and says nothing; two
that disagree are an error here, because one of them is wrong.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mistral_eval.errors import CheckpointError, UnsupportedError
from mistral_eval.model.load.fields import USE_HF, Fields
from mistral_eval.model.rope import (
    LinearScaling,
    Llama3Scaling,
    QueryScale,
    RopeScaling,
    YarnScaling,
    yarn_amplitude,
)

LLAMA_ROPE_THETA = 10000.0
PLACES = ("rope_parameters", "rope_scaling")
_ONLY_HF = ("longrope", "proportional")
_KINDS = ("default", "linear", "dynamic", "yarn", "llama3")
_ORIGINAL = "original_max_position_embeddings"


@dataclass(frozen=True, slots=True)
class Rope:
    """What config.json says about positions, for `ModelConfig`."""

    theta: float
    scaling: RopeScaling | None
    query_scale: QueryScale | None
    notes: tuple[str, ...]


def override_theta(values: dict[str, Any]) -> None:
    """Remove the bases inside `PLACES`, so that the one of `--model-args` is the only one."""
    for place in PLACES:
        if isinstance(values.get(place), dict):
            values[place] = {k: v for k, v in values[place].items() if k != "rope_theta"}


def read_rope(fields: Fields, family: str) -> Rope:
    """Read base, scaling and, for Ministral 3, the query scale.

    Raises:
        CheckpointError: two places disagree, or a field is missing or has an invalid value.
        UnsupportedError: a kind of scaling that only other engines compute.
    """
    place, rope = _the_place(fields)
    theta, notes = _theta(fields, family)
    inner = Fields(rope, f"{fields.source}: {place}", is_inner=True)
    kind = _kind(inner)
    context_len = fields.integer("max_position_embeddings", example="32768")
    original, more = _original_len(fields, inner, kind, context_len)
    scaling = _scaling(inner, kind, original)
    if kind == "dynamic":
        note = (
            f"{fields.source}: {place}: dynamic scaling begins beyond max_position_embeddings "
            f"({context_len}), and longer requests are truncated to it: it has no effect"
        )
        more = (note,)
    query_scale = _query_scale(inner, original) if family == "ministral3" else None
    return Rope(theta, scaling, query_scale, (*notes, *more))


def _the_place(fields: Fields) -> tuple[str, Mapping[str, Any]]:
    """Return the name and content of the object that describes RoPE; empty if there is none.

    transformers takes a non-empty `rope_scaling` for the whole of `rope_parameters`.
    """
    found = [(place, _object(fields, place)) for place in PLACES if fields.values.get(place)]
    if not found:
        return PLACES[0], {}
    if len(found) > 1 and _meaning(found[0][1]) != _meaning(found[1][1]):
        raise CheckpointError(
            f"{fields.source}: rope_parameters is {found[0][1]!r} and rope_scaling is "
            f"{found[1][1]!r}, which differ; remove the wrong one from the file."
        )
    return found[-1]


def _meaning(rope: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object without its base, which is compared apart, by the newer name of the kind."""
    plain = {name: value for name, value in rope.items() if name not in {"rope_theta", "type"}}
    return {"rope_type": rope.get("type", "default"), **plain}


def _object(fields: Fields, place: str) -> Mapping[str, Any]:
    rope = fields.values[place]
    if not isinstance(rope, dict):
        raise CheckpointError(
            f"{fields.source}: {place} should be null or an object and is {rope!r}: "
            "correct the file."
        )
    nested = [key for key, value in rope.items() if isinstance(value, dict)]
    if nested:
        raise CheckpointError(
            f"{fields.source}: {place} should describe one RoPE for all layers and has one for "
            f"{nested[0]}: neither this program nor transformers computes that for this family; "
            "correct the file."
        )
    return rope


def _theta(fields: Fields, family: str) -> tuple[float, tuple[str, ...]]:
    """Return the base, and a note if it was assumed.

    Early Llama configs have none; transformers' documented default for them is 10000. Configs of
    Mistral's families always had the field.
    """
    places = {"rope_theta": fields.values.get("rope_theta")}
    for place in PLACES:
        if fields.values.get(place):
            places[f"{place}.rope_theta"] = _object(fields, place).get("rope_theta")
    found = {name: value for name, value in places.items() if value is not None}
    first = next(iter(found.values()), None)
    if any(value is not first and value != first for value in found.values()):
        listed = " and ".join(f"{name} is {value!r}" for name, value in found.items())
        raise CheckpointError(
            f"{fields.source}: {listed}; choose one with `--model-args rope_theta=...`."
        )
    if not found and family == "llama":
        note = f"{fields.source}: no rope_theta; 10000 assumed, transformers' default for Llama"
        return LLAMA_ROPE_THETA, (note,)
    theta = Fields({"rope_theta": first}, fields.source).number("rope_theta", example="10000")
    if fields.values.get("rope_scaling") and list(found) == ["rope_parameters.rope_theta"]:
        note = (
            f"{fields.source}: rope_theta {theta:g} stands in rope_parameters, which transformers "
            "ignores beside rope_scaling, and is used here"
        )
        return theta, (note,)
    return theta, ()


def _kind(inner: Fields) -> str:
    """Return rope_type, or the older `type`; `rope_type` wins in transformers."""
    rope = inner.values
    new, old = rope.get("rope_type"), rope.get("type")
    if new is not None and old is not None and new != old:
        raise CheckpointError(
            f"{inner.source}: rope_type is {new!r} and type is {old!r}; remove the wrong one from "
            "the file."
        )
    kind = new or old or "default"
    if rope.get("partial_rotary_factor", 1.0) not in {None, 1.0}:
        raise UnsupportedError(
            f"{inner.source}: partial_rotary_factor should be 1 for the native engine and is "
            f"{rope['partial_rotary_factor']!r}: {USE_HF}."
        )
    if kind in _ONLY_HF:
        raise UnsupportedError(
            f"{inner.source}: rope_type should be one of {', '.join(_KINDS)} for the native engine "
            f"and is {kind!r}: {USE_HF}."
        )
    if kind not in _KINDS:
        raise CheckpointError(
            f"{inner.source}: rope_type should be one of {', '.join(_KINDS)} and is {kind!r}, "
            "which neither this program nor transformers knows for this family: correct the file."
        )
    return str(kind)


def _original_len(
    fields: Fields, inner: Fields, kind: str, context_len: int
) -> tuple[int | None, tuple[str, ...]]:
    """Return the context length before scaling, and a note if transformers' default was taken.

    In transformers the field beside RoPE's object wins over the one inside it.
    """
    outer, own = fields.values.get(_ORIGINAL), inner.values.get(_ORIGINAL)
    if kind not in {"yarn", "llama3"} and own is None:
        return None, ()
    if outer is not None and own is not None and outer != own:
        raise CheckpointError(
            f"{fields.source}: {_ORIGINAL} is {outer!r}, and {own!r} inside "
            f"{inner.source.rpartition(' ')[2]}; remove the wrong one from the file."
        )
    if outer is None and own is None:
        note = (
            f"{inner.source}: no {_ORIGINAL}; max_position_embeddings ({context_len}) assumed, as "
            "in transformers"
        )
        return context_len, (note,)
    return (inner if outer is None else fields).integer(_ORIGINAL), ()


def _scaling(inner: Fields, kind: str, original: int | None) -> RopeScaling | None:
    """Return the scaling; None where it is plain at every position that a run can reach.

    Dynamic scaling is plain up to max_position_embeddings in transformers, whatever its factor.
    """
    if kind in {"default", "dynamic"}:
        return None
    factor = _required(inner, "factor")
    if kind == "linear":
        return LinearScaling(factor)
    assert original is not None
    if kind == "llama3":
        low, high = (_required(inner, f"{name}_freq_factor") for name in ("low", "high"))
        if low >= high:
            raise inner.wrong("low_freq_factor", f"below high_freq_factor ({high:g})")
        return Llama3Scaling(factor, low, high, original)
    return YarnScaling(
        factor,
        original,
        beta_fast=_optional(inner, "beta_fast") or 32.0,
        beta_slow=_optional(inner, "beta_slow") or 1.0,
        amplitude=_amplitude(inner, factor),
        truncate=bool(inner.values.get("truncate", True)),
    )


def _amplitude(inner: Fields, factor: float) -> float:
    stated = _optional(inner, "attention_factor")
    if stated is not None:
        return stated
    mscale, all_dim = (_optional(inner, name) or 0.0 for name in ("mscale", "mscale_all_dim"))
    return yarn_amplitude(factor, mscale, all_dim)


def _query_scale(inner: Fields, original: int | None) -> QueryScale | None:
    """Return Ministral 3's scale, without which transformers cannot run its class."""
    beta = inner.values.get("llama_4_scaling_beta")
    if beta is None or original is None:
        name = "llama_4_scaling_beta" if beta is None else _ORIGINAL
        raise CheckpointError(
            f"{inner.source} should have a field {name}, which scales Ministral 3's queries, and "
            "has none: add the value from the model's published config.json."
        )
    if isinstance(beta, bool) or not isinstance(beta, int | float):
        raise inner.wrong("llama_4_scaling_beta", "a number")
    return QueryScale(float(beta), original) if beta else None


def _required(inner: Fields, name: str) -> float:
    value = _optional(inner, name)
    if value is None or value <= 0:
        raise CheckpointError(
            f"{inner.source}: {name} should be a positive number and is "
            f"{inner.values.get(name)!r}: correct the file."
        )
    return value


def _optional(inner: Fields, name: str) -> float | None:
    value = inner.values.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e30:
        raise CheckpointError(
            f"{inner.source}: {name} should be a number from 0 up and is {value!r}: "
            "correct the file."
        )
    return float(value)
