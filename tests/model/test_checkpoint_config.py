"""config.json and params.json become a ModelConfig, or one sentence that names field and option."""

import json
from pathlib import Path

import pytest
from transformers import PretrainedConfig

from mistral_eval.errors import CheckpointError
from mistral_eval.model.config import Experts, ModelConfig
from mistral_eval.model.load.config_hf import from_hf_config
from mistral_eval.model.load.config_params import from_params_json
from mistral_eval.model.rope import QueryScale, YarnScaling

FILES = Path(__file__).parent / "files"
MISTRAL = json.loads((FILES / "mistral_7b_v0.1_config.json").read_text())
RAW = json.loads((FILES / "mistral_7b_v0.1_params.json").read_text())
NEMO = MISTRAL | {
    "hidden_size": 5120,
    "head_dim": 128,
    "num_hidden_layers": 40,
    "rope_theta": 1e6,
    "sliding_window": None,
    "vocab_size": 131072,
}
LLAMA = {
    name: value for name, value in MISTRAL.items() if name not in {"rope_theta", "sliding_window"}
} | {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "rope_scaling": None}
RAW_LLAMA = {
    "dim": 4096,
    "multiple_of": 256,
    "n_heads": 32,
    "n_layers": 32,
    "norm_eps": 1e-05,
    "vocab_size": -1,
}
PAPER = ModelConfig(
    dim=4096,
    n_layers=32,
    head_dim=128,
    hidden_dim=14336,
    n_heads=32,
    n_kv_heads=8,
    norm_eps=1e-5,
    vocab_size=32000,
    rope_theta=10000.0,
    context_len=32768,
    sliding_window=(4096,) * 32,
)


def without(fields, *names):
    return {name: value for name, value in fields.items() if name not in names}


def test_config_json_of_mistral_7b_is_the_papers_table_1():
    found = from_hf_config(MISTRAL, {})

    assert (found.config, found.notes) == (PAPER, ())


def test_params_json_with_its_theta_given_is_the_same_model():
    """The v0.1 file has no rope_theta; the option supplies it."""
    found = from_params_json(RAW, {"rope_theta": "10000"})

    assert found.config == PAPER
    assert "no max_seq_len; 32768 assumed" in found.notes[0]


def test_params_json_without_theta_names_the_option_that_supplies_it():
    with pytest.raises(CheckpointError) as caught:
        from_params_json(RAW, {})

    assert str(caught.value) == (
        "params.json has no field rope_theta, which changes the result: "
        "supply it with `--model-args rope_theta=10000`."
    )


def test_transformers_5_spelling_of_theta_is_read():
    fields = without(MISTRAL, "rope_theta") | {
        "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}
    }

    assert from_hf_config(fields, {}).config.rope_theta == 5e5
    assert from_hf_config(fields, {"rope_theta": "7"}).config.rope_theta == 7.0


def test_two_thetas_that_differ_are_an_error():
    fields = MISTRAL | {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}

    with pytest.raises(CheckpointError, match=r"10000\.0 and rope_parameters.rope_theta is 500000"):
        from_hf_config(fields, {})


def test_nemo_keeps_a_head_dim_that_is_not_dim_over_heads():
    config = from_hf_config(NEMO, {}).config

    assert (config.head_dim, 160) == (128, 5120 // 32)
    assert config.sliding_window == (None,) * 40


def test_head_dim_absent_is_dim_over_heads():
    assert from_hf_config(without(MISTRAL, "head_dim"), {}).config.head_dim == 128
    assert from_hf_config(MISTRAL | {"head_dim": None}, {}).config.head_dim == 128


def test_llama_without_theta_takes_its_definition_and_says_so():
    """Llama 2's first config.json has no rope_theta; LlamaConfig's documented default is 10000."""
    found = from_hf_config(without(LLAMA, "num_key_value_heads"), {})

    assert (
        found.config.rope_theta,
        found.config.n_kv_heads,
        found.config.sliding_window,
    ) == (10000.0, 32, (None,) * 32)
    assert "10000 assumed" in found.notes[0]


def test_llama_with_a_window_has_none_as_in_transformers_and_says_so():
    found = from_hf_config(LLAMA | {"rope_theta": 1e4, "sliding_window": 8}, {})

    assert found.config.sliding_window == (None,) * 32
    assert found.notes == ("config.json: no effect on a llama model: sliding_window",)


def test_metas_params_json_gives_llama_2_7b():
    """Its hidden_dim is a rule, its vocabulary is the tensor's, its heads have no groups."""
    found = from_params_json(RAW_LLAMA, {"rope_theta": "10000", "context_len": "4096"}).config

    assert (
        found.hidden_dim,
        found.n_kv_heads,
        found.head_dim,
        found.vocab_size,
        found.context_len,
    ) == (11008, 32, 128, -1, 4096)


def test_metas_params_json_of_70b_uses_its_multiplier():
    fields = RAW_LLAMA | {
        "dim": 8192,
        "n_heads": 64,
        "n_kv_heads": 8,
        "multiple_of": 4096,
        "ffn_dim_multiplier": 1.3,
    }
    found = from_params_json(fields, {"rope_theta": "10000", "context_len": "4096"}).config

    assert (found.hidden_dim, found.n_kv_heads) == (28672, 8)


@pytest.mark.parametrize("name", ["sliding_window", "_sliding_window"])
def test_a_list_of_windows_is_cycled_over_the_layers(name):
    fields = without(RAW, "sliding_window") | {name: [131072, 8, 8, None], "n_layers": 6}

    found = from_params_json(fields, {"rope_theta": "1e8"}).config

    assert found.sliding_window == (131072, 8, 8, None, 131072, 8)


def test_two_spellings_of_the_window_that_differ_are_an_error():
    with pytest.raises(CheckpointError, match="sliding_window and _sliding_window disagree"):
        from_params_json(RAW | {"_sliding_window": 8}, {"rope_theta": "1"})


def test_layer_types_say_which_layers_slide():
    kinds = ["full_attention", "sliding_attention"] * 16
    fields = MISTRAL | {"layer_types": kinds, "model_type": "ministral"}

    assert from_hf_config(fields, {}).config.sliding_window == (None, 4096) * 16


def test_ministral_without_layer_types_is_an_error():
    """Transformers lets every layer slide then; the published model alternates."""
    with pytest.raises(CheckpointError, match="needs layer_types"):
        from_hf_config(MISTRAL | {"model_type": "ministral"}, {})


def test_a_field_without_effect_is_noted():
    found = from_hf_config(MISTRAL | {"use_qk_norm": True, "other": False}, {})

    assert found.notes == ("config.json: no effect on a mistral model: use_qk_norm",)


def test_fields_that_any_model_may_have_are_not_noted():
    """Transformers wrote all of its defaults into config.json for years."""
    noise = PretrainedConfig().to_dict() | {"unsloth_version": "2024.9", "temperature": 1.0}

    found = from_hf_config(noise | {"num_beams": 4, "is_llama_config": True} | MISTRAL, {})

    assert found.notes == ()


def test_options_know_both_names_of_a_field_and_win_over_the_file():
    options = {"context_len": "512", "sliding_window": "none", "tied_embeddings": "true"}
    config = from_hf_config(MISTRAL, options).config
    same = from_hf_config(
        MISTRAL,
        {"max_position_embeddings": "512", "sliding_window": "None", "tie_word_embeddings": "True"},
    ).config

    assert (
        config.context_len,
        config.sliding_window,
        config.tied_embeddings,
    ) == (512, (None,) * 32, True)
    assert config == same


@pytest.mark.parametrize(
    ("apply_scale", "amplitude"), [({}, 1.2772588722239781), ({"apply_scale": False}, 1.0)]
)
def test_params_json_of_ministral_3_has_yarn_and_a_query_scale(apply_scale, amplitude):
    """As vLLM reads these fields: alpha is beta_slow, beta is beta_fast."""
    original = {"original_max_position_embeddings": 16384}
    fields = without(RAW, "sliding_window") | {
        "rope_theta": 1e6,
        "max_position_embeddings": 262144,
        "yarn": {"factor": 16, "alpha": 1, "beta": 32, **original, **apply_scale},
        "llama_4_scaling": {"beta": 0.1, **original},
    }

    found = from_params_json(fields, {}).config

    assert found.context_len == 262144
    assert found.query_scale == QueryScale(0.1, 16384)
    assert found.rope_scaling == YarnScaling(16.0, 16384, 32.0, 1.0, pytest.approx(amplitude))


def test_params_json_of_mixtral_has_experts():
    fields = RAW | {"moe": {"num_experts": 8, "num_experts_per_tok": 2}, "rope_theta": 1e6}

    assert from_params_json(fields, {}).config.experts == Experts(8, 2)
