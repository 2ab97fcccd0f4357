"""--stream-layers as a user meets it: the same results, and sentences about what it costs."""

import json

import pytest

from mistral_eval.model import memory
from mistral_eval.model.export import save_hf
from mistral_eval.model.load.by_layer import streamed_bytes
from mistral_eval.model.load.checkpoint import load_checkpoint
from mistral_eval.model.load.weights import weight_bytes
from mistral_eval.model.tiny import make_tiny, tiny_tokenizer_file

RUN = ("run", "-t", "winogrande,gsm8k", "--data", "sample", "--limit", 1, "--json")


@pytest.fixture(name="folder", scope="module")
def fixture_folder(tmp_path_factory):
    """The tiny model in Hugging Face's format."""
    target = tmp_path_factory.mktemp("model") / "toy"
    return save_hf(make_tiny(), target, tokenizer_file=tiny_tokenizer_file())


def replies_in(results) -> dict[str, object]:
    """Every logged reply of a run, by its key."""
    lines = [
        json.loads(line)
        for file in results.glob("*/*/replies/*.jsonl")
        for line in file.read_text().splitlines()
    ]
    return {line["key"]: line["reply"] for line in lines if "key" in line}


def test_a_streamed_run_gives_the_replies_of_an_ordinary_one(cli, folder, tmp_path):
    """Under the same keys: each reuses the other's."""
    code, _, err = cli(*RUN, "-m", folder, "-o", tmp_path / "a", "--no-stream-layers")
    assert code == 0, err
    assert "a layer at a time" not in err
    code, _, err = cli(*RUN, "-m", folder, "-o", tmp_path / "b", "--stream-layers")
    assert code == 0, err
    assert "a layer at a time, as --stream-layers asks" in err
    assert "Each step of generation reads all layers" in err
    assert "--tasks" in err
    resident, streamed = replies_in(tmp_path / "a"), replies_in(tmp_path / "b")
    assert len(resident) > 2
    assert resident.keys() == streamed.keys()
    for key, reply in resident.items():
        logprob = reply.pop("logprob", None)
        assert streamed[key].pop("logprob", None) == pytest.approx(logprob, abs=1e-5)
        assert streamed[key] == reply
    code, _, err = cli(*RUN, "-m", folder, "-o", tmp_path / "a", "--stream-layers")
    assert code == 0
    assert "is finished" in err


def test_a_run_that_only_scores_is_told_of_no_steps(cli, folder, tmp_path):
    only = ("run", "-t", "winogrande", "--data", "sample", "--limit", 1)
    code, _, err = cli(*only, "-m", folder, "-o", tmp_path, "--stream-layers")
    assert code == 0, err
    assert "Each step" not in err


def test_streaming_is_chosen_and_refused_by_the_free_memory(cli, folder, tmp_path, monkeypatch):
    found = load_checkpoint(folder)
    size = weight_bytes(found.config, next(iter(found.weights.values())).dtype)
    monkeypatch.setattr(memory, "available_memory", lambda _device: size - 1)
    only = ("run", "-t", "winogrande", "--data", "sample", "--limit", 1, "-m", folder)
    code, _, err = cli(*only, "-o", tmp_path / "a", "--no-stream-layers")
    assert code == 1
    assert "GiB are free" in err
    code, _, err = cli(*only, "-o", tmp_path / "b")
    assert code == 0, err
    assert "since they do not fit in cpu's memory" in err


def test_plan_chooses_as_the_run_does(cli, folder, monkeypatch):
    """And names the memory that each way needs."""
    found = load_checkpoint(folder)
    config, dtype = found.config, next(iter(found.weights.values())).dtype
    size = weight_bytes(config, dtype)
    plan = ("plan", "-t", "winogrande", "--data", "sample", "-m", folder, "--no-calibrate")
    for free, options, is_streamed in (
        (size, (), False),
        (size - 1, (), True),
        (size - 1, ("--no-stream-layers",), False),
        (size, ("--stream-layers",), True),
    ):
        monkeypatch.setattr(memory, "available_memory", lambda _device, free=free: free)
        code, out, err = cli(*plan, *options, "--json")
        assert code == 0, err
        planned = json.loads(out)
        assert planned["stream_layers"] is is_streamed
        assert planned["weight_bytes"] == (streamed_bytes(config, dtype) if is_streamed else size)
        assert (planned["together"]["states_bytes"] > 0) is is_streamed
    code, out, _ = cli(*plan, "--stream-layers")
    assert code == 0
    assert "layers are read one at a time" in out.replace("\n", " ")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("-m", "tiny"), "--model tiny"),
        (("-m", "FOLDER", "--engine", "hf"), "--engine is hf"),
        (("-m", "FOLDER", "--adapter", "FOLDER"), "--adapter"),
    ],
)
def test_what_cannot_be_streamed_is_refused_at_once(cli, folder, options, named):
    given = [folder if option == "FOLDER" else option for option in options]
    code, _, err = cli("run", "-t", "winogrande", "--data", "sample", *given, "--stream-layers")
    assert code == 2
    assert "--stream-layers" in err
    assert named in err
