"""Random shapes and options: the logits of transformers, or a refusal.

`MISTRAL_EVAL_FUZZ=300` draws 300 models; the default is what CI runs.
"""

import json
import os
import random
from typing import Any

import pytest
import torch

from mistral_eval.errors import UnsupportedError
from mistral_eval.model.load.config_hf import from_hf_config
from tests.pairs import (
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

COUNT = int(os.environ.get("MISTRAL_EVAL_FUZZ", "24"))
CONTEXT_LEN = 64
FAMILIES = ("mistral", "llama", "ministral", "ministral3", "mixtral", "images", "images of 3")
KINDS = ("default", "linear", "dynamic", "yarn", "llama3")


def draw_rope(rng: random.Random, family: str) -> dict[str, Any]:
    """RoPE's fields in one of the places where config.json may have them."""
    theta = rng.choice([50.0, 1e3, 1e4, 5e5, 1e6])
    kind = "yarn" if family == "ministral3" else rng.choice(KINDS)
    rope: dict[str, Any] = {}
    if kind != "default":
        rope["factor"] = rng.choice([1.0, 1.5, 4.0, 16.0])
    if (kind in {"yarn", "llama3"} and rng.random() < 0.8) or family == "ministral3":
        rope["original_max_position_embeddings"] = rng.choice([8, 16, 33])
    if kind == "llama3":
        rope["low_freq_factor"] = rng.choice([0.5, 1.0, 2.0])
        rope["high_freq_factor"] = rng.choice([4.0, 8.0])
    if kind == "yarn":
        options = {
            "beta_fast": rng.choice([8.0, 32.0]),
            "beta_slow": rng.choice([0.5, 1.0]),
            "attention_factor": rng.choice([0.8, 1.3]),
            "mscale": 0.7,
            "mscale_all_dim": rng.choice([0.0, 1.0]),
            "truncate": rng.random() < 0.5,
        }
        rope |= {name: value for name, value in options.items() if rng.random() < 0.4}
    if family == "ministral3":
        rope["llama_4_scaling_beta"] = rng.choice([0.1, 1.0])
    spelling = rng.choice(["rope_type", "type"])
    place = rng.choice(["rope_parameters", "rope_scaling"])
    if kind == "default" and rng.random() < 0.5:
        return {"rope_theta": theta}
    if rng.random() < 0.5:
        return {"rope_theta": theta, place: {spelling: kind, **rope}}
    return {place: {spelling: kind, **rope, "rope_theta": theta}}


def draw_text(rng: random.Random, family: str) -> dict[str, Any]:
    """The fields of a text model: shape, windows, RoPE, experts, tied or not."""
    kv_heads = rng.choice([1, 2, 3])
    heads = kv_heads * rng.choice([1, 2, 4])
    head_dim = rng.choice([4, 6, 8, 16])
    layers = rng.choice([1, 2, 3])
    is_own = family in {"ministral3", "ministral", "mixtral"} or rng.random() < 0.5
    fields: dict[str, Any] = {
        "model_type": family,
        "vocab_size": VOCAB,
        "hidden_size": heads * rng.choice([8, 10]) if is_own else heads * head_dim,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": rng.choice([16, 37, 64]),
        "max_position_embeddings": CONTEXT_LEN,
        "rms_norm_eps": rng.choice([1e-6, 1e-5, 1e-3]),
        "hidden_act": "silu",
        "tie_word_embeddings": rng.random() < 0.3,
        **draw_rope(rng, family),
    }
    if is_own:
        fields["head_dim"] = head_dim
    if family != "llama":
        windows = [1, 3, 8, 20, 100]  # transformers' Ministral fails without a window
        fields["sliding_window"] = rng.choice(
            windows if family == "ministral" else [None, *windows]
        )
    if family == "ministral":
        kinds = ["sliding_attention", "full_attention"]
        fields["layer_types"] = [rng.choice(kinds) for _ in range(layers)]
        fields["model_type"] = rng.choice(["ministral", "mistral"])  # the same in transformers
    if family == "mixtral":
        fields["num_local_experts"] = rng.choice([2, 5])
        fields["num_experts_per_tok"] = rng.choice([1, 2])
    return fields


def draw(seed: int) -> dict[str, Any]:
    """The content of a config.json."""
    rng = random.Random(seed)
    family = rng.choice(FAMILIES)
    if not family.startswith("images"):
        return draw_text(rng, family)
    text = draw_text(rng, "ministral3" if family == "images of 3" else "mistral")
    return with_images(text, tie_word_embeddings=rng.random() < 0.5)


@pytest.mark.parametrize("seed", range(COUNT))
def test_a_random_model_computes_what_transformers_does_on_every_path(seed, tmp_path):
    fields = draw(seed)
    theirs = make_theirs(fields, seed)
    theirs.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    # as drawn, not as transformers rewrites it
    (tmp_path / "config.json").write_text(
        json.dumps(fields | {"architectures": saved["architectures"]})
    )
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB, (50,), generator=generator)

    model = load_ours(tmp_path)
    found = our_logits(model, ids)

    torch.testing.assert_close(found, their_logits(theirs, ids), atol=1e-4, rtol=0)
    for rolling in (True, False):
        cached = cached_logits(model, ids, [7, 20, 1], rolling=rolling)
        torch.testing.assert_close(cached, found, atol=1e-4, rtol=0)
    assert largest_tree_error(tmp_path, ids.tolist()) < 1e-4
    fast, slow = replies(tmp_path, ids.tolist()[:30], 6)
    assert fast == slow


@pytest.mark.parametrize("seed", range(COUNT))
@pytest.mark.parametrize("bias", ["attention_bias", "mlp_bias"])
def test_a_random_model_with_biases_is_refused_or_has_none(seed, bias):
    """Of these families only transformers' Llama has biases; the others ignore the field."""
    fields = draw(seed)
    text = fields.get("text_config") or fields
    text[bias] = True
    if text["model_type"] != "llama":
        notes = from_hf_config(fields, {}).notes
        assert any("no effect" in note and bias in note for note in notes)
        return
    with pytest.raises(UnsupportedError, match=f"{bias} should be false"):
        from_hf_config(fields, {})
