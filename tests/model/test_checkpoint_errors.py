"""Each way a model folder can be wrong is one sentence: expected, found, what to do."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mistral_eval.errors import CheckpointError, ResourceError, UsageError
from mistral_eval.model import memory
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.export import save_hf
from mistral_eval.model.load import weights
from mistral_eval.model.load.checkpoint import Checkpoint, load_checkpoint
from mistral_eval.model.load.layout import expected_shapes
from tests.checkpoints import save_raw, save_sharded

CONFIG = ModelConfig(
    dim=8,
    n_layers=2,
    head_dim=4,
    hidden_dim=12,
    n_heads=2,
    n_kv_heads=1,
    norm_eps=1e-5,
    vocab_size=16,
    rope_theta=10000.0,
    context_len=64,
    sliding_window=(None, None),
)


@pytest.fixture
def checkpoint():
    torch.manual_seed(0)
    return Checkpoint(CONFIG, {n: torch.randn(s) for n, s in expected_shapes(CONFIG).items()}, "")


@pytest.fixture
def hf(checkpoint, tmp_path):
    return save_hf(checkpoint, tmp_path / "model")


def change_tensors(folder: Path, change) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def change_config(folder: Path, **fields) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def message(folder: Path, kind=CheckpointError, **options) -> str:
    with pytest.raises(kind) as caught:
        load_checkpoint(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_tensor_is_named_with_its_shape(hf):
    change_tensors(hf, lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))

    assert (
        f"{hf}: tensor model.layers.1.mlp.up_proj.weight of shape (12, 8) is missing: "
        "copy or download the checkpoint again."
    ) == message(hf)


def test_several_missing_tensors_are_counted(hf):
    change_tensors(hf, lambda t: [t.pop(n) for n in list(t) if "layers.1.mlp" in n])

    assert "is missing (and 2 more)" in message(hf)


def test_a_missing_output_matrix_suggests_that_the_embeddings_are_tied(hf):
    change_tensors(hf, lambda t: t.pop("lm_head.weight"))

    assert "`--model-args tie_word_embeddings=true`" in message(hf)
    assert load_checkpoint(hf, overrides={"tie_word_embeddings": "true"}).config.tied_embeddings


def test_an_output_matrix_that_differs_from_the_embeddings_it_is_tied_to_is_used(hf):
    """As in transformers, which unties the embeddings then; the note names both places."""
    change_config(hf, tie_word_embeddings=True)

    found = load_checkpoint(hf)

    assert not found.config.tied_embeddings
    assert "output.weight" in found.weights
    assert any("tie_word_embeddings true, and lm_head.weight differs" in n for n in found.notes)


def test_tied_embeddings_with_the_same_output_matrix_are_fine(hf):
    change_config(hf, tie_word_embeddings=True)
    change_tensors(hf, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] + 0}))

    assert "output.weight" not in load_checkpoint(hf).weights


def test_a_tensor_left_over_is_named(hf):
    change_config(hf, num_hidden_layers=1)

    assert "model.layers.1.input_layernorm.weight of shape (8,) has no place" in message(hf)
    assert "(and 8 more)" in message(hf)


def test_a_wrong_shape_is_named_with_both_shapes(hf):
    change_tensors(hf, lambda t: t.update({"lm_head.weight": torch.zeros(15, 8)}))

    assert (
        f"{hf}: tensor lm_head.weight should have shape (16, 8) by the configuration and has "
        "(15, 8): configuration and weights are of different models."
    ) == message(hf)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_no_number_is_an_error(hf, value):
    change_tensors(hf, lambda t: t["model.norm.weight"].__setitem__(3, value))

    assert "tensor model.norm.weight holds NaN or infinity" in message(hf)


def test_a_weight_too_large_for_the_dtype_is_told_from_a_damaged_one(hf):
    change_tensors(hf, lambda t: t["model.norm.weight"].__setitem__(3, 1e6))

    assert "model.norm.weight holds values too large for float16" in message(
        hf, dtype=torch.float16
    )


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, -1])
def test_a_truncated_safetensors_file_is_an_error_with_its_size(hf, keep):
    file = hf / "model.safetensors"
    whole = file.read_bytes()
    end = int(len(whole) * keep) if isinstance(keep, float) else keep
    file.write_bytes(whole[:end])

    assert f"{file} is not a complete safetensors file" in message(hf)
    assert f"{len(whole[:end])} bytes): copy or download it again." in message(hf)


def test_quantised_tensors_are_sent_to_hf(hf):
    change_tensors(hf, lambda t: t.update({"lm_head.weight": torch.zeros(16, 8, dtype=torch.int8)}))

    assert "lm_head.weight should have dtype F64, F32, F16, BF16 and has I8" in message(hf)
    assert message(hf).endswith("run it with `--engine hf`.")


def test_a_missing_shard_is_named(checkpoint, tmp_path):
    folder = save_sharded(checkpoint, tmp_path / "m", 500)
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()

    assert (
        f"{folder} lacks {shard.name}, which model.safetensors.index.json names: "
        "copy or download the missing shard."
    ) == message(folder)


def test_a_shard_of_another_model_is_an_error(checkpoint, tmp_path):
    folder = save_sharded(checkpoint, tmp_path / "m", 500)
    first, second, *_ = sorted(folder.glob("model-*.safetensors"))
    shutil.copyfile(second, first)

    assert f"{first} lacks model.embed_tokens.weight" in message(folder)


def test_an_index_without_a_map_is_an_error(checkpoint, tmp_path):
    folder = save_sharded(checkpoint, tmp_path / "m", 500)
    (folder / "model.safetensors.index.json").write_text("{}")

    assert "should have a weight_map" in message(folder)


def test_shards_without_an_index_ask_for_it(checkpoint, tmp_path):
    folder = save_sharded(checkpoint, tmp_path / "m", 500)
    (folder / "model.safetensors.index.json").unlink()

    assert "holds shards and no model.safetensors.index.json" in message(folder)


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
def test_a_config_that_is_no_json_object_is_an_error(hf, text):
    (hf / "config.json").write_bytes(text.encode("latin-1"))

    assert str(hf / "config.json") in message(hf)


def test_a_path_that_is_not_there_or_is_a_file_is_an_error(hf, tmp_path):
    assert "should be a folder with a model's files and does not exist" in message(tmp_path / "no")
    assert "and is a file" in message(hf / "config.json")


def test_an_empty_folder_says_what_a_model_folder_holds(tmp_path):
    assert (
        f"{tmp_path} should hold config.json with model.safetensors, or params.json with "
        "consolidated.safetensors; it holds nothing. "
        "Copy the missing files there, or give another model's folder."
    ) == message(tmp_path)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("config.json", "model.safetensors or model.safetensors.index.json beside config.json"),
        ("params.json", "consolidated.safetensors or consolidated.00.pth beside params.json"),
    ],
)
def test_a_folder_without_weights_says_which_file_is_missing(tmp_path, given, wanted):
    (tmp_path / given).write_text("{}")

    assert f"should hold {wanted}; it holds {given}. Copy the missing files there" in message(
        tmp_path
    )


def test_pytorch_bin_files_are_sent_to_hf(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model-00001-of-00002.bin").touch()

    assert "pytorch_model*.bin" in message(tmp_path)
    assert message(tmp_path).endswith("run it with `--engine hf`.")


def test_a_raw_model_in_parts_is_an_error(checkpoint, tmp_path):
    save_raw(checkpoint, tmp_path, as_pickle=True)
    (tmp_path / "consolidated.01.pth").touch()

    assert "raw model in several parts" in message(tmp_path)


class Malicious:
    """Unpickling it would call a function."""

    def __reduce__(self):
        return (print, ("the pickle ran",))


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(checkpoint, tmp_path, capsys):
    save_raw(checkpoint, tmp_path, as_pickle=True)
    torch.save({"norm.weight": Malicious()}, tmp_path / "consolidated.00.pth")

    assert "a pickle can run code" in message(tmp_path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nonsense", pickle.dumps({"a": 1})])
def test_a_file_that_is_no_torch_save_is_an_error(checkpoint, tmp_path, content):
    save_raw(checkpoint, tmp_path, as_pickle=True)
    (tmp_path / "consolidated.00.pth").write_bytes(content)

    assert str(tmp_path / "consolidated.00.pth") in message(tmp_path)


def test_a_truncated_pickle_is_an_error(checkpoint, tmp_path):
    save_raw(checkpoint, tmp_path, as_pickle=True)
    file = tmp_path / "consolidated.00.pth"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    assert "is not a complete torch.save file" in message(tmp_path)


@pytest.mark.parametrize("value", [[1, 2], {"norm.weight": [1.0]}, {"epoch": 3}])
def test_a_pickle_of_other_things_is_an_error(checkpoint, tmp_path, value):
    save_raw(checkpoint, tmp_path, as_pickle=True)
    torch.save(value, tmp_path / "consolidated.00.pth")

    assert str(tmp_path / "consolidated.00.pth") in message(tmp_path)


def test_a_model_that_does_not_fit_is_refused_before_it_is_read(hf, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda device: 1000)
    monkeypatch.setattr(weights, "tensor_digest", None)  # reading would need it

    assert message(hf, ResourceError) == (
        "model in float32 needs 0.00 GiB on cpu and 0.00 GiB are free: free some, take a smaller "
        "--dtype or a larger machine, or try `--model tiny --data sample`."
    )


def test_an_unknown_dtype_is_wrong_usage(hf):
    assert "--dtype should be auto, float32" in message(hf, UsageError, dtype="int4")
