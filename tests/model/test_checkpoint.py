"""Folders of both formats load into the same weights; transformers' own folders load too."""

import json
from dataclasses import replace
from shutil import copyfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from mistral_eval.bench.shapes import read_subject
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.export import save_hf
from mistral_eval.model.load.checkpoint import Checkpoint, load_checkpoint
from mistral_eval.model.load.layout import (
    expected_shapes,
    half_split_from_interleaved,
    hf_name,
    interleaved_from_half_split,
)
from mistral_eval.model.load.outline import read_outline
from mistral_eval.model.tiny import tiny_tokenizer_file
from tests.checkpoints import save_raw, save_sharded

SMALL = ModelConfig(
    dim=32,
    n_layers=2,
    head_dim=16,
    hidden_dim=48,
    n_heads=4,
    n_kv_heads=2,
    norm_eps=1e-5,
    vocab_size=64,
    rope_theta=10000.0,
    context_len=128,
    sliding_window=(8, 8),
)


def random_checkpoint(config: ModelConfig = SMALL, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(shape, generator=generator).to(dtype)
        for name, shape in expected_shapes(config).items()
    }
    return Checkpoint(config, weights, "")


def assert_same(expected: Checkpoint, actual: Checkpoint) -> None:
    assert expected.config == actual.config
    assert list(expected.weights) == list(actual.weights)
    for name, tensor in expected.weights.items():
        assert tensor.dtype == actual.weights[name].dtype
        assert torch.equal(tensor, actual.weights[name]), name


def writers():
    return {
        "hf": save_hf,
        "hf sharded": lambda c, f: save_sharded(c, f, 10_000),
        "raw": save_raw,
        "raw pickle": lambda c, f: save_raw(c, f, as_pickle=True),
    }


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, sliding_window=(None, None)),
        replace(SMALL, sliding_window=(None, 8)),
        replace(SMALL, tied_embeddings=True),
    ],
    ids=["window", "no window", "mixed windows", "tied"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_format_gives_back_the_same_model_and_fingerprint(tmp_path, config, dtype):
    written = random_checkpoint(config, dtype)

    loaded = [load_checkpoint(write(written, tmp_path / name)) for name, write in writers().items()]

    for checkpoint in loaded:
        assert_same(written, checkpoint)
    assert len({checkpoint.fingerprint for checkpoint in loaded}) == 1
    assert len(loaded[0].fingerprint) == 64


def test_sharding_really_made_several_files(tmp_path):
    loaded = load_checkpoint(save_sharded(random_checkpoint(), tmp_path, 10_000))

    names = [file.name for file in loaded.files]

    assert names[:2] == ["config.json", "model.safetensors.index.json"]
    assert len(names) > 4


def test_the_fingerprint_sees_one_changed_weight_and_one_changed_field(tmp_path):
    written = random_checkpoint()
    base = load_checkpoint(save_hf(written, tmp_path / "a")).fingerprint
    written.weights["layers.1.feed_forward.w2.weight"][3, 5] += 1e-6
    nudged = load_checkpoint(save_hf(written, tmp_path / "b")).fingerprint
    turned = load_checkpoint(tmp_path / "a", overrides={"rope_theta": "10001"}).fingerprint

    assert len({base, nudged, turned}) == 3


def test_the_fingerprint_does_not_depend_on_the_dtype_it_runs_in(tmp_path):
    save_hf(random_checkpoint(), tmp_path)

    half = load_checkpoint(tmp_path, dtype=torch.bfloat16)

    assert load_checkpoint(tmp_path).fingerprint == half.fingerprint
    assert {torch.bfloat16} == {tensor.dtype for tensor in half.weights.values()}
    assert half.notes == ("weights stored as float32, run in bfloat16",)


@pytest.mark.parametrize(
    ("stored", "asked", "expected"),
    [
        (torch.float32, "auto", torch.float32),
        (torch.bfloat16, "auto", torch.bfloat16),
        (torch.float16, "auto", torch.float32),
        (torch.float64, "auto", torch.float32),
        (torch.float16, "float16", torch.float16),
        (torch.bfloat16, torch.float32, torch.float32),
    ],
)
def test_the_dtype_is_the_one_asked_for_or_as_stored(tmp_path, stored, asked, expected):
    """float16 widens on the CPU, which has no arithmetic of its own for it."""
    save_hf(random_checkpoint(dtype=stored), tmp_path)

    loaded = load_checkpoint(tmp_path, dtype=asked)

    assert {expected} == {tensor.dtype for tensor in loaded.weights.values()}


@pytest.mark.parametrize(
    ("named", "stored", "expected"),
    [
        ({"dtype": "bfloat16", "torch_dtype": "float32"}, torch.float32, torch.bfloat16),
        ({"torch_dtype": "bfloat16"}, torch.float32, torch.bfloat16),
        ({"dtype": "float32"}, torch.bfloat16, torch.float32),
        ({"dtype": None, "torch_dtype": None}, torch.bfloat16, torch.bfloat16),
        ({}, torch.bfloat16, torch.bfloat16),
        ({}, torch.float16, torch.float32),
        ({"dtype": "float64"}, torch.float64, torch.float32),
        ({"torch_dtype": "float64"}, torch.bfloat16, torch.float32),
        ({"dtype": "float16"}, torch.bfloat16, torch.float32),
        ({"dtype": "auto"}, torch.bfloat16, torch.bfloat16),
        ({"dtype": "float8_e4m3fn"}, torch.float32, torch.float32),
    ],
)
def test_run_plan_and_bench_choose_one_dtype_by_the_same_rule(tmp_path, named, stored, expected):
    """A named dtype wins, then the stored one; float64, and float16 on the CPU, become float32."""
    save_hf(random_checkpoint(dtype=stored), tmp_path)
    copyfile(tiny_tokenizer_file(), tmp_path / "tokenizer.model")
    file = tmp_path / "config.json"
    fields = json.loads(file.read_text())
    assert str(stored) == f"torch.{fields.pop('dtype')}"
    file.write_text(json.dumps(fields | named))
    cpu = torch.device("cpu")

    loaded = load_checkpoint(tmp_path)

    assert {expected} == {tensor.dtype for tensor in loaded.weights.values()}
    assert read_outline(str(tmp_path), device=cpu).dtype == expected
    assert read_subject(str(tmp_path), "auto", cpu).dtype == expected
    stated = str(expected).removeprefix("torch.")
    is_noted = any(note.endswith(f"run in {stated}") for note in loaded.notes)
    assert is_noted == (stored != expected)


@pytest.mark.parametrize("as_pickle", [False, True])
def test_params_json_names_no_dtype_so_the_stored_tensors_decide(tmp_path, as_pickle):
    save_raw(random_checkpoint(dtype=torch.float32), tmp_path, as_pickle=as_pickle)
    copyfile(tiny_tokenizer_file(), tmp_path / "tokenizer.model")

    assert load_checkpoint(tmp_path).weights["norm.weight"].dtype == torch.float32
    assert read_outline(str(tmp_path), device=torch.device("cpu")).dtype == torch.float32


def test_a_model_without_weights_that_names_no_dtype_is_planned_in_bfloat16(tmp_path):
    save_raw(random_checkpoint(dtype=torch.float32), tmp_path)
    copyfile(tiny_tokenizer_file(), tmp_path / "tokenizer.model")
    (tmp_path / "consolidated.safetensors").unlink()

    assert read_outline(str(tmp_path), device=torch.device("cpu")).dtype == torch.bfloat16


def test_weights_do_not_change_when_the_file_does(tmp_path):
    loaded = load_checkpoint(save_hf(random_checkpoint(), tmp_path))
    before = loaded.weights["norm.weight"].clone()
    file = tmp_path / "model.safetensors"
    with file.open("r+b") as handle:
        handle.seek(-file.stat().st_size // 2, 2)
        handle.write(b"\0" * (file.stat().st_size // 2))

    assert torch.equal(before, loaded.weights["norm.weight"])


def test_a_folder_with_both_formats_is_read_as_hugging_faces_and_says_so(tmp_path):
    """The repository of Mistral 7B v0.3 is such a folder."""
    save_raw(random_checkpoint(replace(SMALL, rope_theta=5.0)), tmp_path)
    save_hf(random_checkpoint(), tmp_path)

    loaded = load_checkpoint(tmp_path)

    assert loaded.config == SMALL
    assert "also holds Mistral's format (params.json); Hugging Face's was read" in loaded.notes[0]


def test_old_rope_tables_in_a_file_are_harmless(tmp_path):
    written = random_checkpoint()
    save_raw(written, tmp_path, as_pickle=True)
    tensors = torch.load(tmp_path / "consolidated.00.pth")
    torch.save(tensors | {"rope.freqs": torch.ones(8)}, tmp_path / "consolidated.00.pth")

    assert_same(written, load_checkpoint(tmp_path))


def test_a_vocabulary_left_to_the_tensor_is_taken_from_it(tmp_path):
    """Meta's params.json says vocab_size -1."""
    save_raw(random_checkpoint(), tmp_path)
    fields = json.loads((tmp_path / "params.json").read_text())
    (tmp_path / "params.json").write_text(json.dumps(fields | {"vocab_size": -1}))

    assert load_checkpoint(tmp_path).config.vocab_size == 64


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 8), st.integers(1, 4))
def test_the_two_rope_layouts_are_each_others_inverse(heads, half, dim):
    head_dim = 2 * half
    weight = torch.arange(heads * head_dim * dim, dtype=torch.float32).view(-1, dim)

    there = half_split_from_interleaved(weight, head_dim)

    assert torch.equal(weight, interleaved_from_half_split(there, head_dim))
    assert torch.equal(weight[::2][:half], there[:half])  # even rows of a head come first
    assert torch.equal(weight[1::2][:half], there[half:head_dim])


def test_both_layouts_rotate_to_the_same_scores():
    """Interleaved pairs on raw rows and half-split pairs on permuted rows: q.k agrees."""
    torch.manual_seed(0)
    heads, head_dim, dim = 2, 8, 6
    wq, wk, x = (torch.randn(n, dim) for n in (heads * head_dim, heads * head_dim, 5))
    angles = torch.outer(torch.arange(5.0), 10.0 ** -torch.linspace(0, 2, head_dim // 2))

    def interleaved(weight):
        rows = (x @ weight.T).view(5, heads, head_dim // 2, 2)
        turned = torch.view_as_complex(rows) * torch.polar(torch.ones_like(angles), angles)[:, None]
        return torch.view_as_real(turned).flatten(2)

    def half_split(weight):
        rows = (x @ half_split_from_interleaved(weight, head_dim).T).view(5, heads, head_dim)
        first, second = rows.chunk(2, -1)
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    expected = torch.einsum("qhd,khd->hqk", interleaved(wq), interleaved(wk))
    actual = torch.einsum("qhd,khd->hqk", half_split(wq), half_split(wk))

    torch.testing.assert_close(expected, actual)


SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
TRANSFORMERS = {
    "mistral, window 8": (
        MistralForCausalLM,
        MistralConfig,
        {"num_key_value_heads": 2, "sliding_window": 8, "head_dim": None},
    ),
    "mistral, no window": (
        MistralForCausalLM,
        MistralConfig,
        {"num_key_value_heads": 2, "sliding_window": None},
    ),
    "nemo": (
        MistralForCausalLM,
        MistralConfig,
        {"num_key_value_heads": 2, "sliding_window": None, "head_dim": 6},
    ),
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "llama with GQA": (LlamaForCausalLM, LlamaConfig, {"num_key_value_heads": 2}),
    "llama, tied": (LlamaForCausalLM, LlamaConfig, {"tie_word_embeddings": True}),
}


@pytest.mark.parametrize("shard", [None, "10KB"])
@pytest.mark.parametrize("case", list(TRANSFORMERS))
def test_a_folder_saved_by_transformers_loads(tmp_path, case, shard):
    build, configure, fields = TRANSFORMERS[case]
    model = build(configure(**SHAPE, **fields))
    model.save_pretrained(tmp_path, **({"max_shard_size": shard} if shard else {}))

    loaded = load_checkpoint(tmp_path)

    state = model.state_dict()
    assert {hf_name(name) for name in loaded.weights} == set(state) - (
        {"lm_head.weight"} if loaded.config.tied_embeddings else set()
    )
    for name, tensor in loaded.weights.items():
        assert torch.equal(state[hf_name(name)], tensor), name
    assert model.config.head_dim == loaded.config.head_dim
    window = getattr(model.config, "sliding_window", None)
    assert (window, window) == loaded.config.sliding_window


def test_transformers_computes_with_a_folder_of_ours_what_it_computed_before(tmp_path):
    """The writer's config.json says everything: save_pretrained -> load -> save_hf -> the same."""
    model = MistralForCausalLM(
        MistralConfig(**SHAPE, num_key_value_heads=2, sliding_window=8, head_dim=16)
    ).eval()
    model.save_pretrained(tmp_path / "theirs")
    save_hf(load_checkpoint(tmp_path / "theirs"), tmp_path / "ours")
    ids = torch.arange(40)[None]

    again = MistralForCausalLM.from_pretrained(tmp_path / "ours").eval()

    assert torch.equal(model(ids).logits, again(ids).logits)
