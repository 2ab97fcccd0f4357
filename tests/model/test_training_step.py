"""Steps of checkpoints, and the checkpoints that a folder holds."""

import json

import pytest

from mistral_eval.model.load.training_step import TrainingStep, checkpoints_in, step_of


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("checkpoint-500", 500),
        ("step_1000", 1000),
        ("step1000", 1000),
        ("global_step2000", 2000),
        ("Steps-00030", 30),
        ("ckpt-7", 7),
        ("iter_0001500", 1500),
        ("my-model-step500.gguf", 500),
        ("org/model-step-40", 40),
        ("runs/a-checkpoint-1/checkpoint-2", 2),
        ("Mistral-7B-v0.1", None),
        ("mistral-step-7b", None),
        ("footstep-5", None),
        ("500", None),
        ("checkpoint", None),
    ],
)
def test_a_step_is_read_from_the_name(name, step):
    found = step_of(name)
    assert (found and found.number) == step


def test_the_trainers_state_counts_where_the_name_has_no_step(tmp_path):
    state = tmp_path / "trainer_state.json"
    state.write_text(json.dumps({"global_step": 12}))
    assert step_of(str(tmp_path)) == TrainingStep(12, "trainer_state.json")
    for broken in ("{", "[]", "{}", '{"global_step": "x"}'):
        state.write_text(broken)
        assert step_of(str(tmp_path)) is None


def test_a_name_that_contradicts_the_trainers_state_says_so(tmp_path):
    folder = tmp_path / "checkpoint-10"
    folder.mkdir()
    assert step_of(str(folder)) == TrainingStep(10, "its name")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 12}))
    found = TrainingStep(10, "its name, and trainer_state.json says 12")
    assert step_of(str(folder)) == found


def test_a_revision_has_a_step_too():
    assert step_of("org/model", "step3000") == TrainingStep(3000, "its revision")
    assert step_of("org/model", "main") is None


@pytest.mark.parametrize("marker", ["config.json", "params.json", "adapter_config.json"])
def test_a_folder_of_checkpoints_is_these_in_order_and_its_own_model_last(tmp_path, marker):
    for name in ("checkpoint-1000", "checkpoint-200", "warm", "logs"):
        (tmp_path / name).mkdir()
    (tmp_path / "warm" / marker).touch()
    (tmp_path / "notes.txt").touch()
    names = ["checkpoint-200", "checkpoint-1000", "warm"]
    assert checkpoints_in(tmp_path) == [tmp_path / name for name in names]
    (tmp_path / marker).touch()
    assert checkpoints_in(tmp_path) == [*(tmp_path / name for name in names), tmp_path]


def test_a_folder_of_gguf_files_is_one_model_for_each(tmp_path):
    names = ["m-step10.gguf", "m-step9.gguf", "big-00001-of-00002.gguf", "big-00002-of-00002.gguf"]
    for name in (*names, "mmproj-m.gguf"):
        (tmp_path / name).touch()
    found = [file.name for file in checkpoints_in(tmp_path)]
    assert found == ["m-step9.gguf", "m-step10.gguf", "big-00001-of-00002.gguf"]


def test_a_single_checkpoint_is_its_own_only_one(tmp_path):
    (tmp_path / "m.gguf").touch()
    assert checkpoints_in(tmp_path) == [tmp_path]
    assert checkpoints_in(tmp_path / "m.gguf") == [tmp_path / "m.gguf"]
