"""Our transformer gives the logits of transformers' Mistral and Llama on the same weights."""

import re
from copy import deepcopy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from mistral_eval.errors import CheckpointError
from mistral_eval.model import products, transformer
from mistral_eval.model.attention import SequencesAttend
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.load.layout import expected_shapes
from mistral_eval.model.transformer import Transformer
from mistral_eval.native.requests import GenerateRequest
from mistral_eval.native.runner import ModelRunner

VOCAB = 100
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "intermediate_size": 80,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.2,
    "attn_implementation": "eager",
}
MODELS = {
    "Mistral with a window of 8": MistralConfig(
        **SHAPE, num_key_value_heads=2, head_dim=8, sliding_window=8
    ),
    "Mistral without a window": MistralConfig(
        **SHAPE, num_key_value_heads=2, head_dim=8, sliding_window=None
    ),
    "Nemo: heads * head_dim is not dim": MistralConfig(
        **SHAPE,
        num_key_value_heads=2,
        head_dim=16,
        sliding_window=None,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    ),
    "Llama with grouped heads": LlamaConfig(**SHAPE, num_key_value_heads=3),
    "Llama with as many key heads": LlamaConfig(**SHAPE, num_key_value_heads=6),
    "tied embeddings": LlamaConfig(**SHAPE, num_key_value_heads=2, tie_word_embeddings=True),
}
OURS = [
    (r"^model\.embed_tokens", "tok_embeddings"),
    (r"^model\.norm", "norm"),
    (r"^lm_head", "output"),
    (r"^model\.layers", "layers"),
    (r"self_attn\.([qkvo])_proj", r"attention.w\1"),
    (r"mlp\.gate_proj", "feed_forward.w1"),
    (r"mlp\.down_proj", "feed_forward.w2"),
    (r"mlp\.up_proj", "feed_forward.w3"),
    (r"input_layernorm", "attention_norm"),
    (r"post_attention_layernorm", "ffn_norm"),
]


def rename(name):
    for pattern, ours in OURS:
        name = re.sub(pattern, ours, name)
    return name


def as_ours(config):
    window = getattr(config, "sliding_window", None)
    return ModelConfig(
        dim=config.hidden_size,
        n_layers=config.num_hidden_layers,
        head_dim=config.head_dim,
        hidden_dim=config.intermediate_size,
        n_heads=config.num_attention_heads,
        n_kv_heads=config.num_key_value_heads,
        norm_eps=config.rms_norm_eps,
        vocab_size=config.vocab_size,
        rope_theta=config.rope_parameters["rope_theta"],
        context_len=config.max_position_embeddings,
        sliding_window=(window,) * config.num_hidden_layers,
        tied_embeddings=config.tie_word_embeddings,
    )


@pytest.fixture(name="pair", params=MODELS, scope="module")
def fixture_pair(request):
    """A random model of transformers, its config in our words and its weights by our names."""
    config = MODELS[request.param]
    torch.manual_seed(1)
    kind = MistralForCausalLM if isinstance(config, MistralConfig) else LlamaForCausalLM
    theirs = kind(config).eval()
    for name, weight in theirs.named_parameters():
        if "norm" in name:
            weight.data.uniform_(0.5, 1.5)
    weights = {rename(name): tensor for name, tensor in theirs.state_dict().items()}
    return theirs, as_ours(config), weights


def our_logits(config, weights, ids):
    model = Transformer(config, weights, VOCAB)
    attend = SequencesAttend([len(ids)], config.sliding_window, model.dtype, model.device)
    return model.logits(model.hidden(ids, torch.arange(len(ids)), attend))


def test_logits_are_those_of_transformers(pair):
    """Over a sequence of five windows, to 1e-4 in float32."""
    theirs, config, weights = pair
    ids = torch.randint(VOCAB, (40,), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = theirs(ids[None]).logits[0]

    torch.testing.assert_close(our_logits(config, weights, ids), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("is_fused", [False, True])
def test_bfloat16_is_as_near_to_float32_as_in_transformers(pair, is_fused, monkeypatch):
    """Norms and rotations in float32: our mean error is at most a tenth larger than theirs."""
    if is_fused and not transformer.is_fused(torch.empty(0, dtype=torch.bfloat16)):
        pytest.skip("oneDNN takes no bfloat16 on this processor")
    for module in (transformer, products):
        monkeypatch.setattr(module, "is_fused", lambda _: is_fused)
    theirs, config, weights = pair
    ids = torch.randint(VOCAB, (40,), generator=torch.Generator().manual_seed(2))
    rounded = {name: tensor.bfloat16() for name, tensor in weights.items()}
    with torch.inference_mode():
        exact = theirs(ids[None]).logits[0]
        their_error = deepcopy(theirs).bfloat16()(ids[None]).logits[0].float() - exact
    our_error = our_logits(config, rounded, ids) - exact

    assert our_error.abs().mean() < 1.1 * their_error.abs().mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [[], [39], [0, 7, 8, 30], list(range(40))])
def test_hidden_states_asked_for_are_those_among_all(pair, rows, dtype):
    """The keys and values of the others are stored all the same, in every layer."""
    _, config, weights = pair
    model = Transformer(config, {name: w.to(dtype) for name, w in weights.items()}, VOCAB)
    ids = torch.randint(VOCAB, (40,), generator=torch.Generator().manual_seed(2))
    stored: list[list[torch.Tensor]] = []

    def run(asked):
        attend = SequencesAttend([40], config.sliding_window, dtype, model.device)
        stored.append([])

        def noting(layer, q, k, v):
            stored[-1] += [k.clone(), v.clone()]
            return attend(layer, q, k, v)

        return model.hidden(ids, torch.arange(40), noting, asked)

    whole = run(None)
    some = run(torch.tensor(rows, dtype=torch.int64))
    assert all(map(torch.equal, *stored))
    allowed = 1e-5 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(some, whole[rows], atol=allowed, rtol=0)


def test_greedy_ids_are_those_of_transformers_generate(pair):
    """Thirty tokens past a prompt of 30, so that a window of 8 has rolled over several times."""
    theirs, config, weights = pair
    prompt = torch.randint(3, VOCAB, (30,), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        whole = theirs.generate(prompt[None], max_new_tokens=30, do_sample=False, eos_token_id=-1)
    engine = ModelRunner(config, weights, n_words=VOCAB, eos_ids=())
    [(_, reply)] = engine.generate([GenerateRequest(tuple(prompt.tolist()), 30)])

    assert tuple(whole[0, 30:].tolist()) == reply.ids


def toy():
    config = as_ours(MODELS["Mistral with a window of 8"])
    return config, {name: torch.ones(shape) for name, shape in expected_shapes(config).items()}


def test_a_missing_tensor_is_named():
    config, weights = toy()
    del weights["layers.1.attention.wk.weight"]

    with pytest.raises(CheckpointError, match=r"layers\.1\.attention\.wk\.weight"):
        Transformer(config, weights, VOCAB)


def test_a_tensor_of_the_wrong_shape_is_named_with_both_shapes():
    config, weights = toy()
    weights["norm.weight"] = torch.ones(7)

    with pytest.raises(CheckpointError, match=r"norm\.weight.*\(48,\).*\(7,\)"):
        Transformer(config, weights, VOCAB)


def test_more_words_than_embedding_rows_are_refused():
    config, weights = toy()

    with pytest.raises(CheckpointError, match="101 ids"):
        Transformer(config, weights, VOCAB + 1)


def test_rows_beyond_the_words_are_cut():
    """Padding rows of the embedding never get a probability."""
    config, weights = toy()
    model = Transformer(config, weights, VOCAB - 10)

    assert tuple(model.logits(torch.ones(1, 48)).shape) == (1, VOCAB - 10)


def test_a_model_can_take_its_layers_from_the_weights():
    config, weights = toy()
    kept = Transformer(config, weights, VOCAB)
    assert set(weights) == set(expected_shapes(config))
    Transformer(config, weights, VOCAB, takes=True)
    kept_names = {name for name in expected_shapes(config) if "layers." not in name}
    assert set(weights) == kept_names - {"output.weight"}
    assert len(list(kept.layers)) == config.n_layers
