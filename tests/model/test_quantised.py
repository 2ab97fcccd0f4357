"""Quantised checkpoints get a true sentence: its claims are checked against transformers."""

import json
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.quantizers.auto import AutoHfQuantizer

from mistral_eval.errors import EngineError, UnsupportedError
from mistral_eval.model.load.config_hf import from_hf_config
from mistral_eval.model.load.quantised import PACKAGES, check_hf_dtype
from tests.pairs import SHAPE, VOCAB, make_theirs, their_logits, with_images

FIELDS = {"model_type": "llama", **SHAPE, "rope_theta": 1e4, "hidden_act": "silu"}
SETTINGS = {
    "awq": {"bits": 4, "group_size": 128},
    "bitsandbytes": {"load_in_8bit": True},
    "compressed-tensors": {"format": "float-quantized"},
    "gptq": {"bits": 4},
    "torchao": {"quant_type": "int8"},
}
IDS = torch.randint(3, VOCAB, (20,), generator=torch.Generator().manual_seed(2))
CPU = torch.device("cpu")


def refused(**quantised):
    with pytest.raises(UnsupportedError) as caught:
        from_hf_config(FIELDS | {"quantization_config": quantised}, {})
    return str(caught.value)


@pytest.mark.parametrize("method", PACKAGES)
def test_the_packages_named_are_those_that_transformers_asks_for(method):
    sentence = refused(quant_method=method, **SETTINGS[method])
    assert f"({method})" in sentence
    assert f"`pip install {' '.join(PACKAGES[method])}`, then run it with" in sentence
    if all(find_spec(name.replace("-", "_")) for name in PACKAGES[method]):
        pytest.skip(f"{method} can run here")

    with pytest.raises((ImportError, RuntimeError)) as theirs:
        quantizer = AutoHfQuantizer.from_config(
            {"quant_method": method, **SETTINGS[method]}, pre_quantized=True
        )
        quantizer.validate_environment()

    first = str(theirs.value).replace("compressed_tensors", "compressed-tensors").lower()
    assert any(name in first for name in PACKAGES[method]), first


def test_a_method_without_a_name_is_refused():
    assert "(of an unnamed kind)" in refused(bits=4)


def test_the_outer_quantisation_of_a_model_with_images_counts():
    fields = with_images(FIELDS, quantization_config={"quant_method": "fp8"})

    with pytest.raises(UnsupportedError, match=r"\(fp8\).*`--engine hf --dtype bfloat16`"):
        from_hf_config(fields, {})


@pytest.fixture(name="fp8", scope="module")
def fixture_fp8(tmp_path_factory):
    """A folder in the layout of Ministral 3's published weights, and the logits before rounding."""
    folder = tmp_path_factory.mktemp("fp8")
    theirs = make_theirs(FIELDS)
    theirs.save_pretrained(folder)
    file = folder / "model.safetensors"
    tensors = {}
    for name, weight in load_file(file).items():
        if "proj" not in name:
            tensors[name] = weight.bfloat16()
            continue
        scale = weight.abs().max() / torch.finfo(torch.float8_e4m3fn).max
        tensors[name] = (weight / scale).to(torch.float8_e4m3fn)
        tensors[name.replace("weight", "weight_scale_inv")] = scale
    save_file(tensors, file, metadata={"format": "pt"})
    quantised = {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": None,
        "modules_to_not_convert": ["lm_head"],
    }
    config = json.loads((folder / "config.json").read_text())
    config |= {"dtype": "bfloat16", "quantization_config": quantised}
    (folder / "config.json").write_text(json.dumps(config))
    return folder, their_logits(theirs, IDS)


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_transformers_computes_fp8_on_the_cpu_in_bfloat16(fp8, dtype):
    folder, exact = fp8

    found = their_logits(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval(), IDS)

    check_hf_dtype(json.loads((folder / "config.json").read_text()), dtype, CPU)
    assert (found.float() - exact).abs().mean() < 0.3 * exact.std()  # three bits of mantissa


def test_fp8_in_float32_on_the_cpu_is_refused_because_transformers_fails(fp8):
    folder, _ = fp8
    with pytest.raises(EngineError, match="should be auto or bfloat16"):
        check_hf_dtype(json.loads((folder / "config.json").read_text()), "float32", CPU)

    with pytest.raises(RuntimeError, match="same dtype"):
        their_logits(AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval(), IDS)
