"""A GGUF file gives the logits of transformers on its dequantised weights."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize
from transformers import AutoModelForCausalLM

from mistral_eval.model.attention import SequencesAttend
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.load.checkpoint import load_checkpoint
from mistral_eval.model.load.config_gguf import from_gguf
from mistral_eval.model.load.gguf_file import find_gguf, is_gguf, read_gguf
from mistral_eval.model.load.weights import choose_dtype
from mistral_eval.model.tokenizers.tokenizer import load_tokenizer
from mistral_eval.model.transformer import Transformer
from tests.gguf_files import dequantised, in_transformers, save_gguf

CONFIG = ModelConfig(
    dim=256,
    n_layers=2,
    head_dim=64,
    hidden_dim=512,
    n_heads=4,
    n_kv_heads=2,
    norm_eps=1e-5,
    vocab_size=96,
    rope_theta=500000.0,
    context_len=128,
    sliding_window=(None, None),
)
SHAPES = {
    "Llama": CONFIG,
    "tied": replace(CONFIG, tied_embeddings=True),
    "a window of 8": replace(CONFIG, sliding_window=(8, 8)),
    "another base": replace(CONFIG, rope_theta=10000.0),
    "as many key heads": replace(CONFIG, n_kv_heads=4),
    "Nemo: heads * head_dim is not dim": replace(CONFIG, head_dim=128),
}


def is_dequantisable(kind):
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


TYPES = [kind for kind in Type if is_dequantisable(kind)]
OTHERS = sorted(set(Type) - set(TYPES))


def our_logits(checkpoint, ids):
    config = checkpoint.config
    model = Transformer(config, checkpoint.weights, config.vocab_size)
    attend = SequencesAttend([len(ids)], config.sliding_window, model.dtype, model.device)
    return model.logits(model.hidden(ids, torch.arange(len(ids)), attend))


def their_logits(file, config, ids, rope=None):
    with torch.inference_mode():
        return in_transformers(file, config, rope)(ids[None]).logits[0]


def some_ids(config):
    return torch.randint(config.vocab_size, (40,), generator=torch.Generator().manual_seed(2))


def test_the_types_of_the_format_are_here():
    assert len(TYPES) >= 26
    assert {Type.Q4_K, Type.IQ1_M, Type.IQ4_XS, Type.TQ2_0, Type.MXFP4, Type.BF16} <= set(TYPES)


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_every_type_gives_the_logits_of_transformers(kind, tmp_path):
    """To 1e-4 in float32."""
    file = save_gguf(tmp_path / "model.gguf", CONFIG, kind=kind)
    checkpoint = load_checkpoint(file, dtype="float32")
    ids = some_ids(CONFIG)

    logits = our_logits(checkpoint, ids)

    assert logits.std() > 0.1
    torch.testing.assert_close(logits, their_logits(file, CONFIG, ids), atol=1e-4, rtol=0)
    found = checkpoint.weights["tok_embeddings.weight"]
    assert torch.equal(found, dequantised(file)["token_embd.weight"])


@pytest.mark.parametrize("architecture", ["llama", "mistral3"])
@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_gives_the_logits_of_transformers(name, architecture, tmp_path):
    """Over a sequence of five windows, to 1e-4 in float32; the configuration is the metadata's."""
    config = SHAPES[name]
    file = save_gguf(tmp_path / "model.gguf", config, architecture=architecture)
    checkpoint = load_checkpoint(file)
    ids = some_ids(config)

    assert checkpoint.config == config
    logits = our_logits(checkpoint, ids)
    torch.testing.assert_close(logits, their_logits(file, config, ids), atol=1e-4, rtol=0)


YARN = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 16,
}
THEIR_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA_3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALED = {
    "linear": ({"rope.scaling.factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
    "linear, the old key": ({"rope.scale_linear": 2.5}, {"rope_type": "linear", "factor": 2.5}),
    "YaRN": (YARN, THEIR_YARN),
    "YaRN with bounds": (
        {**YARN, "rope.scaling.yarn_beta_fast": 8.0, "rope.scaling.yarn_beta_slow": 0.5},
        {**THEIR_YARN, "beta_fast": 8.0, "beta_slow": 0.5},
    ),
    "YaRN with a factor": (
        {**YARN, "rope.scaling.attn_factor": 1.5},
        {**THEIR_YARN, "attention_factor": 1.5 * (0.1 * math.log(4.0) + 1)},
    ),
    "Ministral 3": (
        {**YARN, "rope.scaling.yarn_log_multiplier": 1.0, "attention.temperature_scale": 0.1},
        {**THEIR_YARN, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1},
    ),
}


@pytest.mark.parametrize("name", SCALED)
def test_scaled_positions_give_the_logits_of_transformers(name, tmp_path):
    """Over two and a half original contexts, to 1e-4 in float32."""
    change, rope = SCALED[name]
    file = save_gguf(tmp_path / "m.gguf", CONFIG, architecture="mistral3", change=change)
    ids = some_ids(CONFIG)

    logits = our_logits(load_checkpoint(file), ids)

    torch.testing.assert_close(logits, their_logits(file, CONFIG, ids, rope), atol=1e-4, rtol=0)
    plain = our_logits(load_checkpoint(save_gguf(tmp_path / "plain.gguf", CONFIG)), ids)
    assert (logits - plain).abs().max() > 1e-2


def llama_3_divisors(head_dim, theta, original):
    """What llama.cpp's converter stores: 1 for short wavelengths, the factor for long ones."""
    factor, low, high = (LLAMA_3[name] for name in LLAMA_3)
    divisors = []
    for pair in range(head_dim // 2):
        wavelength = 2 * math.pi * theta ** (2 * pair / head_dim)
        smooth = (original / wavelength - low) / (high - low)
        divisors.append(
            1 / ((1 - smooth) / factor + smooth)
            if 0 < smooth < 1
            else 1.0
            if smooth >= 1
            else factor
        )
    return np.array(divisors, np.float32)


def test_llama_3_1_gives_the_logits_of_transformers(tmp_path):
    """Its scaling is a tensor of divisors, one for each pair."""
    divisors = llama_3_divisors(CONFIG.head_dim, CONFIG.rope_theta, 16)
    assert len(set(divisors.tolist())) > 3
    file = save_gguf(tmp_path / "model.gguf", CONFIG, extra={"rope_freqs.weight": divisors})
    rope = {"rope_type": "llama3", **LLAMA_3, "original_max_position_embeddings": 16}
    ids = some_ids(CONFIG)

    logits = our_logits(load_checkpoint(file), ids)

    torch.testing.assert_close(logits, their_logits(file, CONFIG, ids, rope), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("attention.key_length", None, {}),
        ("attention.value_length", None, {}),
        ("rope.dimension_count", None, {}),
        ("vocab_size", None, {}),
        ("rope.freq_base", None, {"rope_theta": 10000.0}),
        ("attention.head_count_kv", None, {"n_kv_heads": 4}),
        ("attention.head_count_kv", [2, 2], {}),
        ("attention.sliding_window", 0, {}),
        ("attention.sliding_window", 12, {"sliding_window": (12, 12)}),
        ("attention.sliding_window", [12, 0], {"sliding_window": (12, None)}),
        ("rope.scaling.type", "none", {}),
        ("rope.scaling.factor", 1.0, {}),
        ("expert_count", 0, {}),
        ("/general.name", "a model", {}),
    ],
)
def test_what_the_metadata_leave_out_or_say_twice(key, value, expected, tmp_path):
    config = replace(CONFIG, **expected)
    file = save_gguf(tmp_path / "model.gguf", config, change={key: value})
    assert load_checkpoint(file).config == config


@pytest.mark.parametrize(
    ("kind", "on_cpu", "on_cuda"),
    [
        (Type.Q8_0, torch.float32, torch.float16),
        (Type.F16, torch.float32, torch.float16),
        (Type.BF16, torch.bfloat16, torch.bfloat16),
        (Type.F32, torch.float32, torch.float32),
    ],
)
def test_auto_takes_a_dtype_that_keeps_the_values(kind, on_cpu, on_cuda, tmp_path):
    file = save_gguf(tmp_path / "model.gguf", CONFIG, kind=kind)
    named = from_gguf(read_gguf(file), {}).dtype
    assert load_checkpoint(file).weights["output.weight"].dtype == on_cpu
    assert choose_dtype("auto", named, None, torch.device("cuda")) == on_cuda


def test_a_note_names_the_stored_types_and_the_computed_one(tmp_path):
    file = save_gguf(tmp_path / "model.gguf", CONFIG, kind=Type.Q4_0)
    assert "weights stored as Q4_0, float32, run in bfloat16" in (
        load_checkpoint(file, dtype="bfloat16").notes
    )


def test_mistral_7b_without_its_window_has_a_note_and_takes_it_from_model_args(tmp_path):
    config = replace(CONFIG, rope_theta=10000.0, context_len=32768)
    file = save_gguf(tmp_path / "model.gguf", config)

    (note,) = load_checkpoint(file).notes
    assert "sliding_window=4096" in note
    given = load_checkpoint(file, overrides={"sliding_window": "4096"})
    assert given.config.sliding_window == (4096, 4096)
    assert given.notes == ()


def test_the_fingerprint_is_of_values_and_shape(tmp_path):
    """Another name, another order of metadata and split files do not change it; a weight does."""
    prints = [
        load_checkpoint(file).fingerprint
        for file in (
            save_gguf(tmp_path / "a.gguf", CONFIG),
            save_gguf(tmp_path / "b.gguf", CONFIG, change={"/general.name": "other"}),
            save_gguf(tmp_path / "c.gguf", CONFIG, tensors_per_part=7),
            save_gguf(tmp_path / "d.gguf", CONFIG, seed=1),
        )
    ]
    assert prints[0] == prints[1] == prints[2] != prints[3]


def test_any_part_of_a_split_file_stands_for_the_whole(tmp_path):
    whole = load_checkpoint(save_gguf(tmp_path / "whole.gguf", CONFIG))
    first = save_gguf(tmp_path / "split.gguf", CONFIG, tensors_per_part=8)
    parts = sorted(tmp_path.glob("split-*-of-00003.gguf"))
    assert len(parts) == 3
    assert parts[0] == first
    for part in parts:
        found = load_checkpoint(part)
        assert found.files == tuple(parts)
        assert found.fingerprint == whole.fingerprint


@pytest.mark.parametrize("name", ["model.GGUF", "model", "4ac1e35bd0d0", "model.Q4_1"])
def test_a_file_is_known_by_its_first_bytes_where_its_name_does_not_say(name, tmp_path):
    """The hub's cache names files by their digest, for one."""
    usual = save_gguf(tmp_path / "usual.gguf", CONFIG)
    renamed = shutil.copy(usual, tmp_path / name)
    assert load_checkpoint(Path(renamed)).fingerprint == load_checkpoint(usual).fingerprint
    (tmp_path / "other").write_bytes(b"GGU, another format")
    assert not is_gguf(tmp_path / "other")
    assert not is_gguf(tmp_path / "nowhere")


def test_a_folder_finds_its_gguf_model_whatever_the_case_of_its_ending(tmp_path):
    file = save_gguf(tmp_path / "a.gguf", CONFIG)
    upper = file.rename(tmp_path / "A.GGUF")
    assert find_gguf(tmp_path) == upper


def test_parts_whose_ending_is_in_upper_case_are_one_model(tmp_path):
    whole = load_checkpoint(save_gguf(tmp_path / "whole.gguf", CONFIG)).fingerprint
    folder = tmp_path / "parts"
    folder.mkdir()
    save_gguf(folder / "m.gguf", CONFIG, tensors_per_part=8)
    parts = [file.rename(file.with_suffix(".GGUF")) for file in sorted(folder.iterdir())]
    assert len(parts) == 3
    for place in (folder, *parts):
        assert load_checkpoint(place).fingerprint == whole


def test_a_folder_stands_for_its_only_gguf_model(tmp_path):
    first = save_gguf(tmp_path / "split.gguf", CONFIG, tensors_per_part=8)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "mmproj-model.gguf").write_bytes(b"the vision part")
    assert load_checkpoint(tmp_path).files[0] == first
    assert read_gguf(first).metadata["split.count"] == 3


@pytest.mark.trained
@pytest.mark.slow
def test_a_trained_model_gives_the_log_likelihoods_of_transformers(trained):
    """A sentence's log-likelihood, to 1e-3: transformers dequantises the file itself."""
    checkpoint = load_checkpoint(trained, dtype="float32")
    tokenizer = load_tokenizer(trained, expected_vocab=checkpoint.config.vocab_size)
    theirs = AutoModelForCausalLM.from_pretrained(
        trained.parent, gguf_file=trained.name, dtype=torch.float32
    ).eval()
    for text in ("The capital of France is Paris.", "Question: What is 17 + 25?\nAnswer: 42", CODE):
        ids = torch.tensor(tokenizer.encode(text, bos=False))
        with torch.inference_mode():
            expected = log_likelihood(theirs(ids[None]).logits[0], ids)
        assert abs(log_likelihood(our_logits(checkpoint, ids), ids) - expected) < 1e-3
        assert expected / len(ids) > -5


CODE = "def add(a, b):\n    return a + b\n\n\nprint(add(2, 3))\n"


def log_likelihood(logits, ids):
    scores = torch.log_softmax(logits[:-1].double(), dim=-1)
    return scores.gather(1, ids[1:, None]).sum().item()
