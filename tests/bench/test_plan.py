"""Which cases are measured, what they need, and the refusal of what does not fit."""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from mistral_eval.bench import requirements as memory
from mistral_eval.bench import session as run
from mistral_eval.bench import shapes
from mistral_eval.bench.cases import (
    PARTS,
    BenchSettings,
    Case,
    entries,
    parse_contexts,
    parse_parts,
    parse_tokens,
)
from mistral_eval.bench.requirements import cache_bytes, operations, working_bytes
from mistral_eval.bench.shapes import SHAPES, read_subject
from mistral_eval.errors import CheckpointError, ResourceError, UsageError
from mistral_eval.model.cache import RollingCache
from mistral_eval.model.export import save_hf
from mistral_eval.model.load.config_hf import from_hf_config
from mistral_eval.model.tiny import make_tiny, tiny_tokenizer_file

CPU = torch.device("cpu")
SEVEN = SHAPES["7b"]
GIB = 1 << 30


def case(context=32768, window=4096, n_kv_heads=8, *, rolling=True):
    return Case(context, window, n_kv_heads, rolling, 1024, 32)


def test_contexts_are_sorted_once_each_and_k_is_1024():
    assert parse_contexts("16k,4096, 4k,32K") == (4096, 16384, 32768)
    assert parse_tokens("4k", "--window") == 4096


@pytest.mark.parametrize("text", ["", ",", "0", "4", "-4096", "4.5k", "many", "k", "1e4", "9" * 20])
def test_a_context_that_is_no_length_is_wrong_usage(text):
    with pytest.raises(UsageError, match="--contexts takes"):
        parse_contexts(text)


def test_parts_come_in_their_own_order_and_an_unknown_one_names_the_nearest():
    assert parse_parts("cache,window") == ("window", "cache")
    assert parse_parts("all") == tuple(PARTS)
    with pytest.raises(UsageError, match="Did you mean window"):
        parse_parts("windows")
    with pytest.raises(UsageError, match="--parts is empty"):
        parse_parts(" ,")


def test_each_part_changes_one_thing_and_shares_the_papers_case():
    settings = BenchSettings(contexts=(4096, 16384))
    found = entries(SEVEN, settings)
    paper = Case(16384, 4096, 8, True, 1024, 32)
    for part, changed in {
        "window": replace(paper, window=None),
        "gqa": replace(paper, n_kv_heads=32),
        "cache": replace(paper, rolling=False),
    }.items():
        at_16k = [e.case for e in found if e.part == part and e.case.context == 16384]
        assert at_16k == [changed, paper]
    chunks = [e.case for e in found if e.part == "chunk"]
    assert chunks == [replace(paper, chunk=size) for size in (1024, 256, 4096)]


def test_chunks_and_decoding_stay_within_a_short_context():
    found = entries(SEVEN, BenchSettings(contexts=(8,), chunk=1024))
    assert {e.case.decode for e in found} == {4}
    assert {e.case.chunk for e in found} == {4}
    assert [e.label for e in found if e.part == "chunk"] == ["4 tokens"]


def test_a_shape_with_as_many_kv_heads_as_heads_has_nothing_to_compare():
    config = replace(SEVEN, n_kv_heads=32)
    found = entries(config, BenchSettings(contexts=(4096,), parts=("gqa",)))
    assert [e.case.n_kv_heads for e in found] == [32]


def test_at_32k_the_rolling_buffer_of_mistral_7b_is_8_times_smaller_to_the_byte():
    """The paper's claim; 4 GiB against 512 MiB in bfloat16."""
    full = cache_bytes(case(rolling=False), SEVEN, torch.bfloat16)
    rolling = cache_bytes(case(), SEVEN, torch.bfloat16)
    assert (full, rolling) == (4 * GIB, GIB // 2)
    assert cache_bytes(case(window=None), SEVEN, torch.bfloat16) == full
    assert cache_bytes(case(n_kv_heads=32), SEVEN, torch.bfloat16) == 4 * rolling
    assert cache_bytes(case(context=2048), SEVEN, torch.bfloat16) == rolling // 2


@pytest.mark.parametrize("window", [None, 4096])
@pytest.mark.parametrize("rolling", [True, False])
@pytest.mark.parametrize("context", [512, 32768])
def test_the_formula_is_what_the_tensors_take(window, rolling, context):
    """On torch's meta device: the shapes of Mistral 7B, no memory."""
    one = case(context, window, rolling=rolling)
    like = torch.empty(0, dtype=torch.bfloat16, device="meta")
    cache = RollingCache(one.config(SEVEN, context), 1, context, like, rolling=rolling)
    assert cache_bytes(one, SEVEN, torch.bfloat16) == cache.n_bytes
    assert cache.n_bytes == sum(x.numel() * 2 for x in (*cache.keys, *cache.values))


def test_what_does_not_fit_is_refused_before_anything_is_allocated(monkeypatch):
    def touched(*_args, **_kwargs):
        raise AssertionError("weights were allocated")

    monkeypatch.setattr(memory, "available_memory", lambda _device: 6 * GIB)
    monkeypatch.setattr(shapes, "random_weights", touched)
    subject = read_subject("7b", "auto", CPU)
    with pytest.raises(ResourceError) as caught:
        run.run_bench(subject, BenchSettings(), CPU, print)
    text = str(caught.value)
    assert "bench needs" in text
    assert "context of 32,768 tokens" in text
    assert "13.49 of weights, 2.00 of cache" in text  # 32 KV heads: other weights, joined as well
    assert "6.00 GiB are free" in text
    assert "smaller --contexts or a smaller --shape (tiny, mini, small)." in text
    with pytest.raises(ResourceError, match="or --dtype bfloat16"):
        run.run_bench(read_subject("7b", "float32", CPU), BenchSettings(), CPU, print)


def test_only_the_largest_case_decides_what_is_needed(monkeypatch):
    """20 GiB hold 7B in bfloat16 at 4k, and not at 64k without a window."""
    monkeypatch.setattr(memory, "available_memory", lambda _device: 20 * GIB)
    subject = read_subject("7b", "auto", CPU)
    small = entries(SEVEN, BenchSettings(contexts=(4096,), parts=("window",)))
    large = entries(SEVEN, BenchSettings(contexts=(65536,), parts=("window",)))
    settings = BenchSettings(contexts=(4096,), parts=("window",))
    assert memory.require(subject, [e.case for e in small], CPU, settings) < 16 * GIB
    with pytest.raises(ResourceError, match="65,536"):
        memory.require(subject, [e.case for e in large], CPU, settings)


def test_the_shared_prefix_alone_needs_its_rows_of_cache(monkeypatch):
    """13.5 GiB of weights, 1.5 of joined ones, 1 for eight prompts of 1024 tokens, in bfloat16."""
    monkeypatch.setattr(memory, "available_memory", lambda _device: 14 * GIB)
    subject = read_subject("7b", "auto", CPU)
    with pytest.raises(ResourceError, match=r"bench needs 16\.[1-5]"):
        memory.require(subject, [], CPU, BenchSettings(parts=("prefix",)))


def test_a_long_chunk_needs_more_work_space_than_a_short_one():
    short, long = (replace(case(), chunk=chunk) for chunk in (256, 4096))
    ratio = working_bytes(long, SEVEN, torch.float32) / working_bytes(short, SEVEN, torch.float32)
    assert 8 < ratio < 20


def test_operations_count_weights_and_scores():
    """Mistral 7B has 6.98e9 weights in its layers; at 16k full attention adds a quarter."""
    full, windowed = replace(case(16384), window=None), case(16384)
    layers = 32 * (4096 * (2 * 4096 + 2 * 1024 + 3 * 14336))
    scores = operations(full, SEVEN) - 2 * layers * full.prefilled
    assert scores == pytest.approx(4 * 32 * 4096 * full.prefilled**2 / 2, rel=0.1)
    assert operations(windowed, SEVEN) < operations(full, SEVEN)


def test_an_unknown_shape_names_the_nearest():
    with pytest.raises(UsageError, match="Did you mean small"):
        read_subject("smal", "auto", CPU)
    with pytest.raises(UsageError, match="--dtype has no 'float'"):
        read_subject("tiny", "float", CPU)


def test_an_adapter_is_merged_into_the_shape(tmp_path):
    folder = save_hf(make_tiny(), tmp_path / "hf", tokenizer_file=tiny_tokenizer_file())
    whole = AutoModelForCausalLM.from_pretrained(folder)
    settings = LoraConfig(target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(whole, settings).save_pretrained(tmp_path / "lora")
    plain = read_subject(str(folder), "auto", CPU).load(CPU, seed=0)
    both = read_subject(str(folder), "auto", CPU, str(tmp_path / "lora"))
    alone = read_subject(str(tmp_path / "lora"), "auto", CPU)
    assert both.name == alone.name == "hf+lora"
    for subject in (both, alone):
        loaded = subject.load(CPU, seed=0)
        changed = [name for name in plain if not torch.equal(loaded[name], plain[name])]
        assert changed == [name for name in plain if name.endswith("attention.wq.weight")]
    with pytest.raises(UsageError, match="--shape tiny has random weights"):
        read_subject("tiny", "auto", CPU, str(tmp_path / "lora"))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="which holds none"):
        read_subject(str(folder), "auto", CPU, str(tmp_path / "lora"))


def test_a_checkpoints_folder_gives_shape_weights_and_notes(tmp_path):
    made = make_tiny()
    folder = save_hf(made, tmp_path / "hf", tokenizer_file=tiny_tokenizer_file())
    subject = read_subject(str(folder), "auto", CPU)
    assert subject.config == made.config
    loaded = subject.load(CPU, seed=0)
    assert torch.equal(loaded["norm.weight"], made.weights["norm.weight"])
    assert subject.weight_bytes == sum(x.nbytes for x in loaded.values())
    notes = run.notes_of(subject, BenchSettings(contexts=(16384,), window=512))
    assert any("made for 8,192 tokens" in note for note in notes)
    assert any("window of 512" in note for note in notes)
    assert any("are random: no checkpoint has them" in note for note in notes)


def test_a_configuration_without_weights_is_a_shape_with_random_ones(tmp_path):
    folder = save_hf(make_tiny(), tmp_path / "hf", tokenizer_file=tiny_tokenizer_file())
    for file in folder.glob("*.safetensors"):
        file.unlink()
    subject = read_subject(str(folder), "bfloat16", CPU)
    assert subject.folder is None
    assert subject.dtype == torch.bfloat16
    assert any("holds no weights" in note for note in subject.notes)
    assert subject.load(CPU, seed=0).keys() == make_tiny().weights.keys()


def test_an_empty_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json or params\.json"):
        read_subject(str(tmp_path), "auto", CPU)


def test_the_7b_shape_is_the_papers_table_1():
    published = {
        "architectures": ["MistralForCausalLM"],
        "hidden_act": "silu",
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "vocab_size": 32000,
        "rope_theta": 10000.0,
        "max_position_embeddings": 32768,
        "sliding_window": 4096,
        "tie_word_embeddings": False,
        "model_type": "mistral",
    }
    config = from_hf_config(published, {}).config
    assert replace(config, context_len=8192) == SEVEN
