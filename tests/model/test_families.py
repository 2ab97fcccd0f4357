"""Every family of transformers that the native engine computes: equal logits on every path."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from mistral_eval.errors import CheckpointError
from mistral_eval.model.export import save_hf
from mistral_eval.model.load.checkpoint import load_checkpoint
from tests.checkpoints import save_raw
from tests.pairs import (
    SHAPE,
    VOCAB,
    cached_logits,
    largest_tree_error,
    load_ours,
    make_theirs,
    our_logits,
    replies,
    their_logits,
    with_images,
)

THETA = {"rope_theta": 10000.0}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
MINISTRAL_3 = {"rope_parameters": {**YARN, "llama_4_scaling_beta": 0.5}}
LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
MIXED = {"sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"]}


def fields(model_type, **more):
    return {"model_type": model_type, **SHAPE, **more}


def mixtral(**more):
    return fields("mixtral", num_local_experts=5, num_experts_per_tok=2, **THETA, **more)


MODELS = {
    "Ministral 3": fields("ministral3", **MINISTRAL_3),
    "Ministral 3, tied, in a model with images": with_images(
        fields("ministral3", **MINISTRAL_3), tie_word_embeddings=True
    ),
    "Mistral Small 3.1": with_images(
        fields("mistral", sliding_window=None, **THETA), tie_word_embeddings=False
    ),
    "Ministral 8B: mixed windows": fields("ministral", **MIXED, **THETA),
    "Llama 3.1": fields("llama", rope_parameters=LLAMA_3),
    "linear scaling, window": fields(
        "mistral",
        sliding_window=8,
        rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4},
    ),
    "dynamic scaling": fields(
        "llama", rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    ),
    "YaRN whose amplitude is not 1": fields(
        "llama", rope_parameters={"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}
    ),
    "Mixtral": mixtral(),
    "Mixtral, window": mixtral(sliding_window=8),
}


@pytest.fixture(name="pair", params=MODELS, scope="module")
def fixture_pair(request, tmp_path_factory):
    """A random model of transformers, and the folder that it was saved to."""
    folder = tmp_path_factory.mktemp("model")
    theirs = make_theirs(MODELS[request.param])
    theirs.save_pretrained(folder)
    return theirs, folder


@pytest.fixture(name="ids", scope="module")
def fixture_ids():
    return torch.randint(3, VOCAB, (60,), generator=torch.Generator().manual_seed(2))


def test_logits_are_those_of_transformers(pair, ids):
    theirs, folder = pair

    expected = their_logits(theirs, ids)

    assert expected.std() > 0.5  # random weights whose logits a wrong angle would change
    torch.testing.assert_close(our_logits(load_ours(folder), ids), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("rolling", [True, False])
def test_chunks_and_steps_over_either_cache_give_the_logits_of_one_pass(pair, ids, rolling):
    model = load_ours(pair[1])
    found = cached_logits(model, ids, [13, 1, 20], rolling=rolling)

    torch.testing.assert_close(found, our_logits(model, ids), atol=1e-4, rtol=0)


def test_the_prefix_tree_scores_as_each_request_alone(pair, ids):
    assert largest_tree_error(pair[1], ids.tolist()) < 1e-4


def test_shared_prompts_generate_what_each_request_generates_alone(pair, ids):
    fast, slow = replies(pair[1], ids.tolist()[:30], 12)

    assert fast == slow


def saved(folder, name):
    """A random model of `MODELS` in a folder, and what it computes."""
    theirs = make_theirs(MODELS[name])
    theirs.save_pretrained(folder)
    return theirs


def test_fused_experts_are_read_as_separate_ones(tmp_path, ids):
    """The names of transformers' memory, as another program may save its state_dict."""
    theirs = saved(tmp_path, "Mixtral")
    separate = load_checkpoint(tmp_path).fingerprint
    state = {name: tensor.contiguous() for name, tensor in theirs.state_dict().items()}
    assert "model.layers.0.mlp.experts.gate_up_proj" in state
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})

    assert load_checkpoint(tmp_path).fingerprint == separate
    torch.testing.assert_close(
        our_logits(load_ours(tmp_path), ids), their_logits(theirs, ids), atol=1e-4, rtol=0
    )


def test_a_mixtral_in_mistrals_format_is_the_same_model(tmp_path):
    saved(tmp_path / "hf", "Mixtral, window")
    found = load_checkpoint(tmp_path / "hf")
    save_raw(found, tmp_path / "raw")
    names = load_file(tmp_path / "raw" / "consolidated.safetensors")
    assert "layers.1.feed_forward.experts.4.w2.weight" in names

    assert load_checkpoint(tmp_path / "raw").fingerprint == found.fingerprint


@pytest.mark.parametrize(
    ("prefix", "head"),
    [("model.language_model.", ""), ("language_model.model.", "language_model.")],
)
def test_a_text_part_is_read_under_either_prefix(tmp_path, prefix, head):
    """Tensors of images are left out, and so is everything about them in the notes."""
    saved(tmp_path, "Mistral Small 3.1")
    found = load_checkpoint(tmp_path)
    file = tmp_path / "model.safetensors"
    renamed = {
        name.replace("language_model.model.", prefix).replace(
            "language_model.lm_head", f"{head}lm_head"
        ): x
        for name, x in load_file(file).items()
    }
    save_file(renamed, file, metadata={"format": "pt"})

    again = load_checkpoint(tmp_path)

    assert any(name.startswith(prefix) for name in renamed)
    assert (again.fingerprint, again.notes) == (found.fingerprint, ())


def test_a_text_part_that_is_tied_outside_is_tied(tmp_path):
    """The outer field decides, is true where it is absent, and the inner one never counts."""
    saved(tmp_path, "Ministral 3, tied, in a model with images")
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    del config["tie_word_embeddings"]
    config["text_config"]["tie_word_embeddings"] = False
    file.write_text(json.dumps(config))

    assert load_checkpoint(tmp_path).config.tied_embeddings


@pytest.mark.parametrize("name", ["Mixtral", "Ministral 3", "Llama 3.1"])
def test_a_model_that_cannot_be_written_is_not_written_as_another(tmp_path, name):
    saved(tmp_path / "theirs", name)

    with pytest.raises(CheckpointError, match="should be a plain Mistral"):
        save_hf(load_checkpoint(tmp_path / "theirs"), tmp_path / "ours")
