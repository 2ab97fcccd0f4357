"""Every refusal that ends in "run it with `--engine hf`" is true: hf loads and scores the model."""

import ast
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    FineGrainedFP8Config,
    LlamaConfig,
    MinistralConfig,
    MistralConfig,
    Qwen2Config,
    Qwen2MoeConfig,
)

import mistral_eval
from mistral_eval.engines.hf import open_hf
from mistral_eval.engines.native import open_native
from mistral_eval.errors import CheckpointError, EngineError
from mistral_eval.model.export import save_hf
from mistral_eval.model.load.config_params import from_params_json
from mistral_eval.model.load.fields import USE_HF
from mistral_eval.model.load.hub import RemoteFile, files_to_fetch
from mistral_eval.model.load.quantised import refuse_quantised
from mistral_eval.model.tiny import make_tiny, tiny_tokenizer_file

SMALL = {
    "vocab_size": 32000,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
}
MODELS = {
    "another family": lambda: Qwen2Config(**SMALL | {"vocab_size": 32064}),  # adds a token
    "experts": lambda: Qwen2MoeConfig(
        **SMALL | {"vocab_size": 32064},
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=32,
    ),
    "biases of attention": lambda: LlamaConfig(**SMALL, attention_bias=True),
    "biases of the MLP": lambda: LlamaConfig(**SMALL, mlp_bias=True),
    "activation": lambda: MistralConfig(**SMALL, hidden_act="gelu"),
    "no layer types": lambda: MinistralConfig(
        **SMALL,
        sliding_window=8,
        head_dim=16,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    ),
    "another RoPE": lambda: LlamaConfig(
        **SMALL,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "short_factor": [1.0] * 8,
            "long_factor": [2.0] * 8,
            "original_max_position_embeddings": 128,
        },
    ),
    "half of RoPE": lambda: LlamaConfig(
        **SMALL,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.5,
        },
    ),
}
ADAPTERS = {
    "adapter": lambda: IA3Config(
        target_modules=["q_proj"], feedforward_modules=[], task_type="CAUSAL_LM"
    ),
    # peft cannot merge a bias into a matrix without one
    "biases of LoRA": lambda: LoraConfig(
        r=2, target_modules=["q_proj"], lora_bias=True, task_type="CAUSAL_LM"
    ),
}
CASES = [*MODELS, "half of an older RoPE", "pickled", "quantised", *ADAPTERS]
FIELDS = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "n_kv_heads": 1}


def save(folder: Path, config, **options) -> Path:
    """A model of random weights with the tiny model's tokenizer."""
    save_hf(make_tiny(), folder, tokenizer_file=tiny_tokenizer_file())
    (folder / "model.safetensors").unlink()
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder, **options)
    return folder


def made(name: str, folder: Path) -> Path:
    """The folder of one case."""
    if name == "half of an older RoPE":
        save(folder, LlamaConfig(**SMALL))
        file = folder / "config.json"
        fields = json.loads(file.read_text()) | {"partial_rotary_factor": 0.5}
        file.write_text(json.dumps(fields))
        return folder
    if name == "pickled":
        save(folder, MistralConfig(**SMALL))
        model = AutoModelForCausalLM.from_pretrained(folder)
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        return folder
    if name == "quantised":
        save(folder, MistralConfig(**SMALL | {"hidden_size": 128, "intermediate_size": 128}))
        config = json.loads((folder / "config.json").read_text())
        settings = FineGrainedFP8Config(modules_to_not_convert=["lm_head"]).to_dict()
        quantise(folder, settings["weight_block_size"][0])
        (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
        return folder
    if name in ADAPTERS:
        whole = AutoModelForCausalLM.from_pretrained(save(folder / "base", MistralConfig(**SMALL)))
        settings = ADAPTERS[name]()
        get_peft_model(whole, settings).save_pretrained(folder / "adapter")
        return folder / "adapter"
    save(folder, MODELS[name]())
    if name == "no layer types":
        file = folder / "config.json"
        fields = json.loads(file.read_text())
        file.write_text(json.dumps({k: v for k, v in fields.items() if k != "layer_types"}))
    return folder


def quantise(folder: Path, block: int) -> None:
    """Store the matrices of the layers as float8 with one scale of 1 per block."""
    from safetensors.torch import load_file, save_file

    found = load_file(folder / "model.safetensors")
    for name, tensor in list(found.items()):
        if name.endswith("_proj.weight"):
            found[name] = tensor.to(torch.float8_e4m3fn)
            rows, columns = (-(-size // block) for size in tensor.shape)
            found[f"{name}_scale_inv"] = torch.ones(rows, columns)
        else:
            found[name] = tensor.bfloat16()
    save_file(found, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("name", CASES)
def test_what_native_sends_to_hf_runs_there(tmp_path, ask, name):
    folder = made(name, tmp_path / "model")
    with pytest.raises(CheckpointError) as caught:
        open_native(str(folder), device="cpu")
    assert "run it with `--engine hf" in str(caught.value)
    dtype = "bfloat16" if "--dtype bfloat16" in str(caught.value) else "auto"
    engine = open_hf(str(folder), device="cpu", dtype=dtype)
    ((_, reply),) = engine.answer([engine.encode(ask("One", " two three"))])
    assert -1000 < reply.logprob < -math.log(2)


def test_a_generation_setting_that_native_lacks_works_in_hf(tiny, ask):
    settings = {"until": [], "max_gen_toks": 4, "do_sample": False, "repetition_penalty": 0.01}
    request = ask("one one one", settings, kind="generate")
    with pytest.raises(EngineError, match="Use --engine hf for this task"):
        tiny.encode(request)
    engine = open_hf("tiny", device="cpu")
    plain = ask("one one one", {**settings, "repetition_penalty": 1.0}, kind="generate")
    texts = [dict(engine.answer([engine.encode(one)]))[0].text for one in (request, plain)]
    assert texts[0] != texts[1]


def test_a_repository_of_pickles_is_fetched_for_hf_and_only_there():
    files = [RemoteFile(name, 1) for name in ("config.json", "pytorch_model.bin", "own.py")]
    with pytest.raises(CheckpointError, match=USE_HF):
        files_to_fetch("org/name", files)
    fetched = files_to_fetch("org/name", files, "transformers")
    assert [file.name for file in fetched] == ["config.json", "pytorch_model.bin"]
    trusted = files_to_fetch("org/name", files, "transformers", programs=True)
    assert "own.py" in [file.name for file in trusted]


def test_every_sentence_that_names_hf_is_walked(tmp_path):
    """The constant parts of each sentence occur in a message of a case above."""
    messages = []
    for name in CASES:
        with pytest.raises(CheckpointError) as caught:
            open_native(str(made(name, tmp_path / name)), device="cpu")
        messages.append(str(caught.value))
    with pytest.raises(CheckpointError) as caught:
        from_params_json(FIELDS | {"softmax_scale": 2.0}, {})
    messages.append(str(caught.value))
    with pytest.raises(CheckpointError) as caught:
        refuse_quantised({"quantization_config": {"quant_method": "gptq"}})
    messages.append(str(caught.value))
    with pytest.raises(CheckpointError) as caught:
        files_to_fetch("org/name", [RemoteFile("pytorch_model.bin", 1)])
    messages.append(str(caught.value))
    unseen = [
        parts
        for parts in sentences()
        if not any(all(part in message for part in parts) for message in messages)
    ]
    assert unseen == []


def sentences() -> Iterator[list[str]]:
    """The constant parts of every f-string of the package that holds USE_HF."""
    for file in Path(mistral_eval.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr) and any(
                isinstance(part, ast.FormattedValue) and getattr(part.value, "id", "") == "USE_HF"
                for part in node.values
            ):
                yield [part.value for part in node.values if isinstance(part, ast.Constant)]


def test_a_model_type_that_nobody_knows_is_not_sent_to_hf(tmp_path):
    folder = save(tmp_path / "model", MistralConfig(**SMALL))
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"model_type": "bert5"}))
    with pytest.raises(CheckpointError, match="upgrade transformers"):
        open_native(str(folder), device="cpu")
    with pytest.raises(ValueError, match="bert5"):
        AutoConfig.from_pretrained(folder)
