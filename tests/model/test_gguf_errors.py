"""Each way a GGUF file can be wrong is one sentence: expected, found, what to do."""

import re
import shutil
import struct
from dataclasses import replace

import numpy as np
import pytest
from gguf import GGUFEndian, GGUFWriter

from mistral_eval.engines.hf import open_hf
from mistral_eval.errors import CheckpointError, EngineError, ResourceError, UsageError
from mistral_eval.model import memory
from mistral_eval.model.load.checkpoint import load_checkpoint
from mistral_eval.model.load.config_gguf import NAMES
from mistral_eval.model.load.gguf_file import read_gguf
from mistral_eval.model.load.hub import RemoteFile, files_to_fetch
from tests.gguf_files import save_gguf
from tests.model.test_gguf import CONFIG, OTHERS

SMALL = replace(
    CONFIG, dim=32, head_dim=8, hidden_dim=32, vocab_size=8, n_layers=1, sliding_window=(None,)
)


def message(path, kind=CheckpointError, **options):
    with pytest.raises(kind) as caught:
        load_checkpoint(path, **options)
    return str(caught.value)


@pytest.fixture
def file(tmp_path):
    return save_gguf(tmp_path / "model.gguf", SMALL)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("block_count", None, "has no field block_count"),
        ("embedding_length", None, "has no field embedding_length"),
        ("context_length", None, "supply it with `--model-args context_length=32768`"),
        ("attention.layer_norm_rms_epsilon", None, "has no field attention.layer_norm_rms_eps"),
        ("feed_forward_length", [32, 64], "feed_forward_length should be a positive whole number"),
        ("attention.head_count", 0, "attention.head_count should be a positive whole number"),
        ("rope.dimension_count", 4, "rope.dimension_count should be the length of a head, 8"),
        ("attention.value_length", 4, "attention.value_length should be the length of a head, 8"),
        ("attention.causal", False, "attention.causal should be true and is False"),
        ("attention.sliding_window", -4.0, "attention.sliding_window should be null, a positive"),
        ("rope.scaling.type", "longrope", "rope.scaling.type should be none, linear or yarn"),
        ("rope.scaling.yarn_ext_factor", 0.5, "does not know the metadata rope.scaling.yarn_ext"),
        ("expert_count", 8, "a mixture of experts"),
        ("logit_scale", 0.5, "does not know the metadata logit_scale"),
        ("attention.sliding_window_pattern", 2, "attention.sliding_window_pattern"),
        ("/general.architecture", "gemma2", "should be llama or mistral3 for the native engine"),
        ("/general.type", "adapter", "should hold a model and holds 'adapter'"),
    ],
)
def test_metadata(key, value, words, tmp_path):
    file = save_gguf(tmp_path / "model.gguf", SMALL, change={key: value})
    said = message(file)
    assert words in said
    for option in re.findall(r"--model-args ([\w.]+)=", said):
        assert option in {*NAMES, *NAMES.values()}  # advice that works


def test_tensors(tmp_path):
    def found(**options):
        return message(save_gguf(tmp_path / "model.gguf", SMALL, **options))

    ones = np.ones((8,), np.float32)
    assert "tensor blk.0.ffn_up.weight of shape (32, 32) is missing: copy" in found(
        without=("blk.0.ffn_up.weight",)
    )
    assert "tensor blk.0.attn_q.bias of shape (8,) has no place in the model" in found(
        extra={"blk.0.attn_q.bias": ones}
    )
    assert "rope_freqs.weight should have 4 values and be the only scaling" in found(
        extra={"rope_freqs.weight": ones}
    )
    assert "it has the shape (4,) beside rope.scaling.type linear" in found(
        extra={"rope_freqs.weight": ones[:4]}, change={"rope.scaling.factor": 2.0}
    )
    assert "tensor blk.0.ffn_gate.weight should have shape (64, 32)" in found(
        change={"feed_forward_length": 64}
    )
    assert "a two-dimensional tensor token_embd.weight" in found(without=("token_embd.weight",))


def test_a_value_that_is_not_finite_is_an_error(tmp_path):
    bad = np.full((32, 32), np.inf, np.float32)
    name = "blk.0.ffn_up.weight"
    file = save_gguf(tmp_path / "m.gguf", SMALL, without=(name,), extra={name: bad})
    assert "holds NaN or infinity" in message(file)


@pytest.mark.parametrize("kind", OTHERS, ids=lambda kind: kind.name)
def test_every_type_that_gguf_cannot_dequantise_is_named(kind, tmp_path, file):
    """The types of a file are changed in its header, where GGUFWriter would refuse."""
    changed = retyped(file, kind.value)
    assert f"has the type {kind.name}, which the gguf package cannot dequantise" in message(changed)


def test_a_type_that_gguf_does_not_know_is_named_by_its_number(file):
    assert "has the type number 255" in message(retyped(file, 255))


def retyped(file, number):
    """Give the embeddings another type."""
    content = file.read_bytes()
    at = content.index(b"token_embd.weight") + len(b"token_embd.weight") + 4 + 16
    file.write_bytes(content[:at] + struct.pack("<I", number) + content[at + 4 :])
    return file


def test_a_file_cut_off_anywhere_is_said_to_be(file):
    """At every 97th byte of the header and at every 997th of the weights."""
    content = file.read_bytes()
    for size in (*range(4, 1500, 97), *range(1500, len(content), 997), len(content) - 1):
        file.write_bytes(content[:size])
        assert f"is cut off or damaged: it has {size} bytes" in message(file)


@pytest.mark.parametrize("content", [b"", b"GG", b"PK\x03\x04 another format"])
def test_what_is_no_gguf_file(content, file):
    file.write_bytes(content)
    assert f"should begin with GGUF and begins with {content[:4]!r}" in message(file)


def test_a_git_lfs_pointer_names_the_command_that_fetches_the_file(file):
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "is a Git LFS pointer and not the model itself: fetch it with `git lfs" in message(file)


@pytest.mark.parametrize(("version", "words"), [(1, "has version 1"), (9, "has version 9")])
def test_versions(version, words, file):
    content = file.read_bytes()
    file.write_bytes(content[:4] + struct.pack("<I", version) + content[8:])
    assert words in message(file)


def test_big_endian(tmp_path):
    writer = GGUFWriter(tmp_path / "model.gguf", "llama", endianess=GGUFEndian.BIG)
    writer.add_block_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert "little-endian GGUF file of version 2 or 3 and is big-endian" in message(
        tmp_path / "model.gguf"
    )


def test_an_unknown_type_of_metadata(file):
    content = bytearray(file.read_bytes())
    at = content.index(b"llama.block_count") + len(b"llama.block_count")
    content[at] = 99
    file.write_bytes(content)
    assert "a metadata value has the unknown type 99" in message(file)


def test_a_missing_part_is_named(tmp_path):
    first = save_gguf(tmp_path / "model.gguf", SMALL, tensors_per_part=4)
    (tmp_path / "model-00002-of-00003.gguf").unlink()
    assert "lacks model-00002-of-00003.gguf: model-00001-of-00003.gguf is one of 3" in message(
        first
    )
    assert "lacks model-00002-of-00003.gguf" in message(tmp_path)


def test_a_part_under_another_name(tmp_path):
    first = save_gguf(tmp_path / "model.gguf", SMALL, tensors_per_part=4)
    alone = shutil.copy(first, tmp_path / "alone.gguf")
    assert "should be one of 3 parts named NAME-00001-of-00003.gguf" in message(alone)


def test_parts_of_two_models(tmp_path):
    first = save_gguf(tmp_path / "model.gguf", SMALL, tensors_per_part=4)
    other = save_gguf(
        tmp_path / "other.gguf",
        replace(SMALL, n_layers=2, sliding_window=(None,) * 2),
        tensors_per_part=7,
    )
    assert len(read_gguf(other).files) == 3
    shutil.copy(tmp_path / "other-00003-of-00003.gguf", tmp_path / "model-00003-of-00003.gguf")
    assert "they are of different models" in message(first)


def test_several_models_in_a_folder_are_listed(tmp_path):
    for name in ("b.Q8_0.gguf", "a.Q4_0.gguf"):
        save_gguf(tmp_path / name, SMALL)
    assert "holds 2 in GGUF format (a.Q4_0.gguf, b.Q8_0.gguf): give the path" in message(tmp_path)


def test_memory_is_asked_for_before_a_value_is_read(file, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda _device: 1000)
    assert "model.gguf in float32 needs" in message(file, ResourceError)


def test_an_override_that_names_no_field(file):
    assert "knows no field rope_thta: did you mean rope_theta" in message(
        file, UsageError, overrides={"rope_thta": "1"}
    )


def test_the_hf_engine_refuses_and_says_why(file):
    with pytest.raises(EngineError, match=r"ignores the sliding window.*Use --engine native"):
        open_hf(str(file))


def test_a_hub_repository_of_gguf_files_is_to_be_downloaded_by_hand():
    files = [RemoteFile("a.Q4_0.gguf", 1), RemoteFile("config.json", 1)]
    with pytest.raises(CheckpointError, match=r"holds GGUF files \(a.Q4_0.gguf\): download one"):
        files_to_fetch("org/name", files)
