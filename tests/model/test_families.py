"""Every family of transformers that the native engine computes: equal logits on every path."""

import pytest
import torch

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
