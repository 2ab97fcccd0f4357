"""A configuration that cannot be used is one sentence that names field, file and option."""

import json
from pathlib import Path

import pytest

from mistral_eval.errors import CheckpointError, UnsupportedError, UsageError
from mistral_eval.model.load.config_hf import from_hf_config
from mistral_eval.model.load.config_params import from_params_json

FILES = Path(__file__).parent / "files"
MISTRAL = json.loads((FILES / "mistral_7b_v0.1_config.json").read_text())
LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
KINDS = ["full_attention", "sliding_attention"] * 16
RAW = json.loads((FILES / "mistral_7b_v0.1_params.json").read_text())


def without(fields, *names):
    return {name: value for name, value in fields.items() if name not in names}


@pytest.mark.parametrize(
    "name",
    [
        *("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads"),
        *("num_key_value_heads", "rms_norm_eps", "vocab_size", "rope_theta"),
        *("max_position_embeddings", "sliding_window", "hidden_act"),
    ],
)
def test_a_missing_field_of_config_json_is_named_with_its_option(name):
    with pytest.raises(CheckpointError) as caught:
        from_hf_config(without(MISTRAL, name), {})

    assert f"config.json has no field {name}, which changes" in str(caught.value)
    assert f"`--model-args {name}=" in str(caught.value)


@pytest.mark.parametrize("name", sorted(set(RAW) - {"sliding_window", "head_dim"}))
def test_a_missing_field_of_params_json_is_named_with_its_option(name):
    with pytest.raises(CheckpointError) as caught:
        from_params_json(without(RAW, name), {"rope_theta": "1"})

    assert f"`--model-args {name}=" in str(caught.value)


def test_metas_params_json_without_a_length_asks_for_it():
    with pytest.raises(CheckpointError, match="--model-args max_seq_len=4096"):
        from_params_json(without(RAW, "hidden_dim") | {"multiple_of": 256}, {"rope_theta": "10000"})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_local_experts": 8}, "computes only for model_type mixtral"),
        ({"model_type": "gemma"}, "model_type should be one of mistral, ministral, ministral3,"),
        ({"quantization_config": {"bits": 4}}, "says that the weights are quantised"),
        ({"model_type": "llama", "attention_bias": True}, "attention_bias should be false"),
        ({"model_type": "llama", "mlp_bias": True}, "mlp_bias should be false"),
        ({"hidden_act": "gelu"}, "hidden_act should be silu for the native engine and is 'gelu'"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "rope_type should be one of default, linear"),
        ({"rope_scaling": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor should be 1"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor should be 1"),
    ],
)
def test_what_the_native_engine_does_not_compute_is_sent_to_hf(change, sentence):
    with pytest.raises(CheckpointError) as caught:
        from_hf_config(MISTRAL | change, {})

    assert sentence in str(caught.value)
    assert str(caught.value).endswith("run it with `--engine hf`.")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"softmax_scale": 2.0}, "does not know softmax_scale"),
        ({"quantization": {"qformat_weight": "fp8_e4m3"}}, "does not know quantization"),
    ],
)
def test_what_params_json_asks_for_beyond_is_sent_to_hf(change, sentence):
    with pytest.raises(CheckpointError) as caught:
        from_params_json(RAW | change, {"rope_theta": "1"})

    assert sentence in str(caught.value)
    assert "run it with `--engine hf`" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"hidden_size": "4096"}, "hidden_size should be a positive whole number and is '4096'"),
        ({"hidden_size": True}, "hidden_size should be a positive whole number and is True"),
        ({"rope_theta": -1}, "rope_theta should be a positive number"),
        ({"rope_theta": float("nan")}, "rope_theta should be a positive number"),
        ({"sliding_window": 0}, "sliding_window should be null, a positive whole number"),
        ({"sliding_window": []}, "sliding_window should be null, a positive whole number"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings should be true or false"),
        ({"num_key_value_heads": 5}, r"n_heads (32) should be a multiple of n_kv_heads (5)"),
        ({"head_dim": 7}, "head_dim should be even"),
        ({"num_attention_heads": 24, "num_key_value_heads": 8}, "is no multiple of"),
        ({"rope_scaling": {"type": "su"}}, "which neither this program nor transformers knows"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling: factor should be a positive number"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor should be a number"),
        ({"rope_scaling": 2.0}, "rope_scaling should be null or an object and is 2.0"),
        (
            {"rope_parameters": {"full_attention": {}}, "layer_types": KINDS},
            "one RoPE for all layers",
        ),
        ({"rope_scaling": LLAMA_3 | {"low_freq_factor": 4.0}}, "low_freq_factor should be below"),
        ({"model_type": "ministral3"}, "field llama_4_scaling_beta"),
        ({"model_type": "mixtral", "layer_types": KINDS}, "transformers ignores layer_types"),
        (
            {"model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 3},
            "num_experts_per_tok (3) should be at most the number of experts (2)",
        ),
        ({"model_type": "mistral3"}, "should have an object text_config"),
        ({"layer_types": ["full_attention"]}, "layer_types should hold 32 entries"),
        ({"layer_types": ["chunked_attention"] * 32}, "layer_types should hold 32 entries"),
    ],
)
def test_a_value_that_cannot_be_is_an_error(change, sentence):
    with pytest.raises(CheckpointError) as caught:
        from_hf_config(MISTRAL | change, {})

    assert sentence in str(caught.value)
    assert not isinstance(caught.value, UnsupportedError)  # which would send it to hf


def test_an_option_that_names_no_field_is_wrong_usage_with_the_nearest_name():
    with pytest.raises(UsageError, match=r"knows no field rope_tetha: did you mean rope_theta"):
        from_hf_config(MISTRAL, {"rope_tetha": "1"})


def test_an_option_that_is_no_value_is_wrong_usage():
    with pytest.raises(UsageError, match="--model-args rope_theta=many"):
        from_hf_config(MISTRAL, {"rope_theta": "many"})


@pytest.mark.parametrize(
    ("change", "context", "note"),
    [
        ({"causal": True}, 32768, "no effect: causal"),
        ({"max_position_embeddings": 4096}, 4096, "max_position_embeddings is the context length"),
        (
            {"max_position_embeddings": 4096, "max_seq_len": 8192},
            8192,
            "no effect beside max_seq_len: max_position_embeddings",
        ),
    ],
)
def test_fields_of_params_json_that_change_nothing_are_noted(change, context, note):
    found = from_params_json(RAW | change, {"rope_theta": "10000"})
    assert found.config.context_len == context
    assert any(note in said for said in found.notes)


def test_params_json_of_a_model_that_is_not_causal_is_refused():
    with pytest.raises(CheckpointError, match="causal is false"):
        from_params_json(RAW | {"causal": False}, {"rope_theta": "10000"})


@pytest.mark.parametrize("name", ["attention_bias", "mlp_bias"])
def test_biases_that_transformers_mistral_does_not_have_are_noted(name):
    assert any(f"no effect on a mistral model: {name}" in note for note in notes_of({name: True}))


def notes_of(change):
    return from_hf_config(MISTRAL | change, {}).notes


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"vision_encoder": {"dim": 1}}, "vision_encoder makes this a model with images"),
        (
            {"moe": {"num_experts": 8}},
            "moe has no field num_experts_per_tok, which changes the result: add it to the file.",
        ),
        ({"moe": {"num_experts": 8, "num_shared_experts": 1}}, "moe should be an object of"),
        ({"yarn": {"factor": 2.0}}, "yarn has no field original_max_position_embeddings"),
        ({"yarn": True}, "yarn should be an object of alpha, apply_scale, beta, factor, orig"),
        ({"llama_4_scaling": {"beta": "1"}}, "beta should be a positive number"),
    ],
)
def test_a_part_of_params_json_that_cannot_be_is_an_error(change, sentence):
    with pytest.raises(CheckpointError) as caught:
        from_params_json(RAW | change, {"rope_theta": "1"})

    assert sentence in str(caught.value)
