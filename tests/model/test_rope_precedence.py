"""RoPE's base and scaling stand in several places: as in transformers, or an error names both."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mistral_eval.errors import CheckpointError
from mistral_eval.model.load.config_hf import from_hf_config
from mistral_eval.model.rope import frequencies
from tests.pairs import SHAPE

FIELDS = {"model_type": "mistral", "hidden_act": "silu", "sliding_window": None, **SHAPE}
LINEAR = {"rope_type": "linear", "factor": 2.0}
LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
AS_TRANSFORMERS = {
    "base outside": {"rope_theta": 100.0},
    "base in rope_parameters": {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}},
    "base in rope_scaling": {"rope_scaling": {**LINEAR, "rope_theta": 7.0}},
    "base in all three": {
        "rope_theta": 7.0,
        "rope_scaling": {**LINEAR, "rope_theta": 7.0},
        "rope_parameters": {**LINEAR, "rope_theta": 7.0},
    },
    "scaling beside its base": {"rope_theta": 100.0, "rope_scaling": LINEAR},
    "an empty rope_scaling": {"rope_theta": 100.0, "rope_scaling": {}},
    "the older name of the kind": {
        "rope_theta": 9.0,
        "rope_scaling": {"type": "linear", "factor": 3},
    },
    "original length beside the object": {
        "rope_theta": 1e5,
        "original_max_position_embeddings": 16,
        "rope_scaling": LLAMA_3,
    },
    "original length inside it": {
        "rope_theta": 1e5,
        "rope_scaling": {**LLAMA_3, "original_max_position_embeddings": 16},
    },
    "no original length": {"rope_theta": 1e5, "rope_scaling": LLAMA_3},
    "dynamic": {"rope_theta": 1e5, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "YaRN": {"rope_theta": 1e5, "rope_scaling": YARN},
    "YaRN with an amplitude": {
        "rope_theta": 1e5,
        "rope_scaling": {**YARN, "attention_factor": 1.5},
    },
    "YaRN with mscale": {
        "rope_theta": 1e5,
        "rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3},
    },
    "YaRN with half of mscale": {"rope_theta": 1e5, "rope_scaling": {**YARN, "mscale": 0.7}},
    "YaRN with other bounds": {
        "rope_theta": 1e5,
        "rope_scaling": {**YARN, "beta_fast": 4.0, "beta_slow": 0.5, "truncate": False},
    },
    "YaRN whose bounds meet": {
        "rope_theta": 1e5,
        "rope_scaling": {**YARN, "beta_fast": 32.0, "beta_slow": 32.0, "truncate": False},
    },
}


@pytest.mark.parametrize("places", AS_TRANSFORMERS.values(), ids=AS_TRANSFORMERS)
def test_frequencies_and_amplitude_are_those_of_transformers(places, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(FIELDS | places))
    theirs = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    expected = theirs.model.rotary_emb

    found = from_hf_config(FIELDS | places, {}).config

    ours = frequencies(found.head_dim, found.rope_theta, found.rope_scaling)
    torch.testing.assert_close(ours, expected.inv_freq, rtol=1e-6, atol=0)
    amplitude = 1.0 if found.rope_scaling is None else found.rope_scaling.amplitude
    assert amplitude == pytest.approx(expected.attention_scaling, rel=1e-12)


@pytest.mark.parametrize(
    ("places", "named"),
    [
        (
            {"rope_theta": 1.0, "rope_parameters": {"rope_theta": 2.0}},
            ("rope_theta is 1.0", "rope_parameters.rope_theta is 2.0"),
        ),
        (
            {"rope_theta": 1.0, "rope_scaling": {**LINEAR, "rope_theta": 2.0}},
            ("rope_theta is 1.0", "rope_scaling.rope_theta is 2.0"),
        ),
        (
            {
                "rope_theta": 1.0,
                "rope_scaling": LINEAR,
                "rope_parameters": {"rope_type": "default"},
            },
            (
                "rope_parameters is {'rope_type': 'default'}",
                "rope_scaling is {'rope_type': 'linear'",
            ),
        ),
        (
            {
                "rope_theta": 1.0,
                "rope_scaling": {"type": "linear", **LINEAR, "rope_type": "default"},
            },
            ("rope_type is 'default'", "type is 'linear'"),
        ),
        (
            {
                "rope_theta": 1.0,
                "original_max_position_embeddings": 16,
                "rope_scaling": {**LLAMA_3, "original_max_position_embeddings": 32},
            },
            ("original_max_position_embeddings is 16", "32 inside rope_scaling"),
        ),
    ],
)
def test_places_that_disagree_are_both_named(places, named):
    with pytest.raises(CheckpointError) as caught:
        from_hf_config(FIELDS | places, {})

    assert all(part in str(caught.value) for part in named), caught.value


def test_a_base_that_transformers_would_lose_is_used_and_noted():
    """A rope_scaling replaces rope_parameters whole in transformers, which then takes 10000."""
    places = {"rope_scaling": LINEAR, "rope_parameters": {**LINEAR, "rope_theta": 7.0}}

    found = from_hf_config(FIELDS | places, {})

    assert found.config.rope_theta == 7.0
    assert "rope_theta 7 stands in rope_parameters, which transformers ignores" in found.notes[0]


@pytest.mark.parametrize("place", ["rope_parameters", "rope_scaling"])
def test_an_option_for_the_base_wins_over_every_place(place):
    places = {"rope_theta": 1.0, place: {**LINEAR, "rope_theta": 2.0}}

    found = from_hf_config(FIELDS | places, {"rope_theta": "3"}).config

    assert (found.rope_theta, found.rope_scaling.factor) == (3.0, 2.0)


def test_dynamic_scaling_is_said_to_have_no_effect_within_the_context():
    places = {"rope_theta": 1.0, "rope_scaling": {"type": "dynamic", "factor": 2.0}}

    found = from_hf_config(FIELDS | places, {})

    assert found.config.rope_scaling is None
    assert "dynamic scaling begins beyond max_position_embeddings (128)" in found.notes[0]


def test_the_text_parts_base_counts_and_the_outer_one_is_noted():
    text = {**FIELDS, "rope_theta": 7.0}
    found = from_hf_config(
        {"model_type": "mistral3", "text_config": text, "rope_theta": 9.0, "vision_config": {}}, {}
    )

    assert found.config.rope_theta == 7.0
    assert found.notes == ("config.json: no effect on a mistral model: rope_theta",)
