"""A LoRA adapter on both engines: --adapter, or --model with the adapter's folder."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from mistral_eval.engines.hf import open_hf
from mistral_eval.engines.native import open_native
from mistral_eval.errors import UsageError
from mistral_eval.model.export import save_hf
from mistral_eval.model.load.outline import read_outline
from mistral_eval.model.tiny import make_tiny, tiny_tokenizer_file
from mistral_eval.settings import RunSettings

PAIRS = [("Question: why?\nAnswer:", " because"), ("1 + 1 =", " 2"), ("", "It is")]


@pytest.fixture(name="folders", scope="module")
def fixture_folders(tmp_path_factory):
    """A base model with a tokenizer, and a random adapter of it."""
    folder = tmp_path_factory.mktemp("lora")
    save_hf(make_tiny(), folder / "base", tokenizer_file=tiny_tokenizer_file())
    torch.manual_seed(0)
    options = {"target_modules": ["q_proj", "o_proj", "down_proj"], "task_type": "CAUSAL_LM"}
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    tuned = get_peft_model(base, LoraConfig(r=4, **options))
    for weight in tuned.parameters():
        if weight.requires_grad:
            weight.data.normal_(0.0, 0.2)
    tuned.save_pretrained(folder / "tuned")
    return str(folder / "base"), str(folder / "tuned")


def scores(engine, ask):
    encoded = [engine.encode(ask(*pair)) for pair in PAIRS]
    replies = dict(engine.answer(encoded))
    return [replies[n].logprob for n in range(len(PAIRS))]


def test_both_engines_and_both_spellings_score_the_same(folders, ask):
    base, tuned = folders
    plain = scores(open_native(base, device="cpu"), ask)
    found = [
        scores(open_native(base, adapter=tuned, device="cpu"), ask),
        scores(open_native(tuned, device="cpu"), ask),
        scores(open_hf(base, adapter=tuned, device="cpu"), ask),
        scores(open_hf(tuned, device="cpu"), ask),
    ]

    assert all(abs(a - b) > 1e-2 for a, b in zip(found[0], plain, strict=True))
    for other in found[1:]:
        assert other == pytest.approx(found[0], abs=1e-3)


def test_both_spellings_are_one_model_and_not_the_base(folders):
    base, tuned = folders
    weights = [
        open_native(base, adapter=tuned, device="cpu").identity.weights,
        open_native(tuned, device="cpu").identity.weights,
        open_native(base, device="cpu").identity.weights,
    ]

    assert weights[0] == weights[1] != weights[2]


def test_the_outline_of_an_adapter_is_its_base_models(folders):
    base, tuned = folders
    device = torch.device("cpu")

    alone = read_outline(tuned, device=device)

    assert alone.config == read_outline(base, device=device).config
    assert alone.config == read_outline(base, adapter=tuned, device=device).config


def settings(**options):
    return RunSettings(tasks=("piqa",), data="sample", **options)


def test_an_adapter_has_its_own_label_folder_and_run_id(folders):
    base, tuned = folders
    without, with_it = settings(model=base), settings(model=base, adapter=tuned)

    assert (without.model_label, with_it.model_label) == ("base", "base+tuned")
    assert with_it.model_folder == "base-tuned"
    assert without.run_id({}) != with_it.run_id({})
    assert RunSettings(**with_it.as_json()) == with_it


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"model": "tiny"}, "--adapter needs the model that it was trained on"),
        ({"model": "x/y", "engine": "oracle"}, "--engine oracle has none"),
    ],
)
def test_an_adapter_without_its_model_is_wrong_usage(options, sentence):
    with pytest.raises(UsageError, match=sentence):
        settings(adapter="somewhere", **options)


def test_one_adapter_on_several_models_is_wrong_usage(cli):
    code, _, said = cli("run", "-m", "a/b", "-m", "c/d", "--adapter", "x/y", "-t", "piqa")

    assert code == 2
    assert "--adapter is put on one model, and 2 are given" in said


@pytest.fixture(name="with_tokenizer")
def fixture_with_tokenizer(folders, tmp_path):
    """The base with an end token in generation_config.json, and an adapter with a tokenizer."""
    base, tuned = (Path(shutil.copytree(one, tmp_path / Path(one).name)) for one in folders)
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 28705]}))
    for file in base.glob("tokenizer*"):
        shutil.copy(file, tuned)
    return str(base), str(tuned)


def test_the_base_models_end_tokens_count_where_the_adapter_has_a_tokenizer(with_tokenizer):
    """An adapter's folder rarely has a generation_config.json, and a chat model needs its own."""
    base, tuned = with_tokenizer
    device = torch.device("cpu")
    native = open_native(base, adapter=tuned, device="cpu")
    encoder = type(native).encoder(
        RunSettings(tasks=("piqa",), model=base, adapter=tuned), native.identity
    )
    assert native.tokenizer.eos_ids == (2, 28705)
    assert native.runner.eos_ids == (2, 28705)
    assert encoder.tokenizer.eos_ids == (2, 28705)
    assert read_outline(base, adapter=tuned, device=device).tokenizer.eos_ids == (2, 28705)
    assert "ends [2, 28705]" in open_hf(base, adapter=tuned, device="cpu").identity.arguments
