"""LoRA adapters, saved by peft: merged natively, with the logits of peft's unmerged model."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from mistral_eval.engines.hf import open_hf
from mistral_eval.errors import CheckpointError, UnsupportedError, UsageError
from mistral_eval.model.load.adapter import resolve_parts
from mistral_eval.model.load.checkpoint import load_checkpoint
from mistral_eval.model.tiny import make_tiny
from tests.checkpoints import save_raw
from tests.pairs import SHAPE, VOCAB, load_ours, make_theirs, our_logits, their_logits

LLAMA = {"model_type": "llama", **SHAPE, "rope_theta": 1e4}
MISTRAL = {"model_type": "mistral", **SHAPE, "rope_theta": 1e4, "sliding_window": 8}
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = {
    "attention": (LLAMA, {"target_modules": ["q_proj", "v_proj"]}),
    "every projection, window": (MISTRAL, {"target_modules": ALL, "lora_alpha": 5}),
    "DoRA": (LLAMA, {"target_modules": ALL, "use_dora": True}),
    "rsLoRA with ranks by module": (
        LLAMA,
        {"target_modules": ALL, "use_rslora": True, "rank_pattern": {"q_proj": 2}},
    ),
    "an output matrix of its own": (
        LLAMA,
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]},
    ),
    "tied embeddings, untied by the adapter": (
        LLAMA | {"tie_word_embeddings": True},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ),
}


def save_pair(folder, fields, options):
    """Save a base model and a random adapter of it; return their folders and the tuned model."""
    base = folder / "base"
    make_theirs(fields).save_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    tuned = get_peft_model(model, LoraConfig(r=4, task_type="CAUSAL_LM", **options))
    for name, weight in tuned.named_parameters():
        if weight.requires_grad:
            weight.data.add_(torch.randn(weight.shape) * (0.05 if "magnitude" in name else 0.2))
    tuned.save_pretrained(folder / "adapter")
    return base, folder / "adapter", tuned.eval()


@pytest.fixture(name="saved", scope="module")
def fixture_saved(tmp_path_factory):
    torch.manual_seed(4)
    return save_pair(tmp_path_factory.mktemp("lora"), *CASES["attention"])


@pytest.fixture(name="copied")
def fixture_copied(saved, tmp_path):
    """The adapter in a folder that a test may spoil."""
    shutil.copytree(saved[1], tmp_path / "adapter")
    return tmp_path / "adapter"


def change(folder, **fields):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


IDS = torch.randint(3, VOCAB, (40,), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("case", CASES)
def test_a_merged_adapter_has_the_logits_of_peft(case, tmp_path):
    torch.manual_seed(4)
    base, adapter, _ = save_pair(tmp_path, *CASES[case])
    whole = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    plain = their_logits(whole, IDS)
    expected = their_logits(PeftModel.from_pretrained(whole, adapter).eval(), IDS)

    found = our_logits(load_ours(base, adapter=adapter), IDS)

    assert (expected - plain).abs().max() > 0.1  # the adapter changes something
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_an_adapter_finds_its_base_model(saved):
    """The same two folders as with both given, and the same fingerprint."""
    base, adapter, _ = saved

    parts = resolve_parts(str(adapter))

    assert (parts.base, parts.adapter, parts.tokenizer) == (base, adapter, base)
    assert parts == resolve_parts(str(base), str(adapter))


def test_an_adapters_own_tokenizer_is_used(copied, saved):
    (copied / "tokenizer.json").write_text("{}")

    assert resolve_parts(str(saved[0]), str(copied)).tokenizer == copied


def test_another_base_model_than_the_one_named_is_noted(copied, saved):
    change(copied, base_model_name_or_path="mistralai/Mistral-7B-v0.1")

    notes = resolve_parts(str(saved[0]), str(copied)).notes

    assert notes == ("the adapter adapter names mistralai/Mistral-7B-v0.1 as its base model",)


def test_the_adapter_is_part_of_the_fingerprint_and_of_the_notes(saved):
    base, adapter, _ = saved
    alone, with_it = load_checkpoint(base), load_checkpoint(base, adapter=adapter)

    assert alone.fingerprint != with_it.fingerprint
    assert "the LoRA adapter adapter was merged into the base model by peft" in with_it.notes


def test_in_bfloat16_the_sum_is_rounded_once(saved):
    base, adapter, tuned = saved
    theirs = tuned.base_model.model.model.layers[0].self_attn.q_proj
    exact = theirs.base_layer.weight.bfloat16().float() + theirs.get_delta_weight("default")

    found = load_checkpoint(base, adapter=adapter, dtype="bfloat16")

    assert torch.equal(found.weights["layers.0.attention.wq.weight"], exact.bfloat16())


@pytest.mark.parametrize(
    ("fields", "kind", "sentence"),
    [
        ({"peft_type": "IA3"}, UnsupportedError, "peft_type should be LORA for the native engine"),
        ({"target_modules": ["q_proj"]}, CheckpointError, "v_proj.lora_A.weight has no place"),
        ({"target_modules": ALL}, CheckpointError, "down_proj.lora_A.weight is missing"),
        ({"r": 8}, CheckpointError, "size mismatch"),
    ],
)
def test_an_adapter_that_does_not_fit_is_an_error(copied, saved, fields, kind, sentence):
    change(copied, **fields)

    with pytest.raises(kind) as caught:
        load_checkpoint(saved[0], adapter=copied)

    assert sentence in str(caught.value)


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])


def pointer(file):
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n")


def garbage(file):
    file.write_bytes(b"xxxx")


def empty(file):
    file.write_bytes(b"")


@pytest.mark.parametrize("spoil", [cut, pointer, garbage, empty, Path.unlink])
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin"])
def test_a_broken_file_of_weights_is_named(copied, saved, name, spoil):
    file = copied / "adapter_model.safetensors"
    if name != file.name:
        torch.save(load_file(file), copied / name)
        file.unlink()
        load_checkpoint(saved[0], adapter=copied)  # peft's older format is read
    spoil(copied / name)

    for opened in (lambda: load_checkpoint(saved[0], adapter=copied), lambda: open_hf(str(copied))):
        with pytest.raises(CheckpointError) as caught:
            opened()
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_adapter_with_a_field_that_cannot_be_is_an_error(copied, saved):
    change(copied, r="four")

    with pytest.raises(CheckpointError, match="peft cannot load it"):
        load_checkpoint(saved[0], adapter=copied)


def test_a_base_model_in_another_format_is_not_sent_to_hf(copied, tmp_path):
    """No engine merges into it."""
    base = save_raw(make_tiny(), tmp_path / "raw")

    with pytest.raises(CheckpointError, match="Hugging Face's format") as caught:
        load_checkpoint(base, adapter=copied)

    assert not isinstance(caught.value, UnsupportedError)


def test_an_adapter_with_nan_is_an_error(copied, saved):
    file = copied / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors[min(tensors)].view(-1)[0] = float("nan")
    save_file(tensors, file)

    with pytest.raises(CheckpointError, match="NaN or infinity"):
        load_checkpoint(saved[0], adapter=copied)


def test_an_adapter_without_a_base_model_asks_for_it(copied):
    change(copied, base_model_name_or_path=None)

    with pytest.raises(CheckpointError, match="give it as `--model BASE --adapter"):
        resolve_parts(str(copied))


def test_a_base_model_that_is_not_there_is_named(copied):
    change(copied, base_model_name_or_path="/no/such/model")

    with pytest.raises(CheckpointError, match=r"adapter of /no/such/model, .* `--model BASE --ad"):
        resolve_parts(str(copied))


def test_an_adapter_on_an_adapter_is_wrong_usage(saved):
    with pytest.raises(UsageError, match="is an adapter too"):
        resolve_parts(str(saved[1]), str(saved[1]))


def test_a_whole_model_is_no_adapter(saved):
    with pytest.raises(CheckpointError, match=r"should be a folder with adapter_config\.json"):
        resolve_parts(str(saved[0]), str(saved[0]))
