"""A sweep over checkpoints: what is done once, its rows and their order, and what fails."""

import inspect
import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mistral_eval.cli import cluster
from mistral_eval.cli.run import run
from mistral_eval.cli.sweep import OF_ONE_MODEL, sweep
from mistral_eval.console import Talk
from mistral_eval.engines.native_encoder import NativeEncoder, watch_stops
from mistral_eval.errors import LockedError
from mistral_eval.model.tiny import tiny_tokenizer_file
from mistral_eval.model.tokenizers.tokenizer import ANY_VOCAB, load_tokenizer
from mistral_eval.record.replies import Replies
from mistral_eval.record.run_folder import RUN_FILE
from mistral_eval.record.run_locks import take_locks
from mistral_eval.record.run_record import read_record
from mistral_eval.run import run as running
from mistral_eval.run.run import run_suite
from mistral_eval.run.several_models import run_models
from mistral_eval.run.shared import Shared
from mistral_eval.settings import RunSettings
from tests.trainings import save_training

NAMES = ("checkpoint-1000", "checkpoint-200", "checkpoint-30")
TASKS = ("winogrande", "nq", "gsm8k")


@pytest.fixture(scope="module")
def training(tmp_path_factory) -> list[Path]:
    return save_training(tmp_path_factory.mktemp("training"), NAMES)


def settings(model: Path, output_path: Path, **more: Any) -> RunSettings:
    chosen = {"tasks": TASKS, "data": "sample", "limit": 1, **more}
    return RunSettings(model=str(model), output_path=output_path, **chosen)


@pytest.fixture
def counted(monkeypatch) -> Counter[str]:
    """Count questions that are built and requests that are encoded, by what does it."""
    counts: Counter[str] = Counter()
    encode, load = NativeEncoder.encode, running.load_benchmarks

    def counted_encode(self, request):
        counts["encoded"] += 1
        return encode(self, request)

    def counted_load(*arguments):
        for loaded in load(*arguments):
            counts["built"] += len(loaded.questions)
            yield loaded

    monkeypatch.setattr(NativeEncoder, "encode", counted_encode)
    monkeypatch.setattr(running, "load_benchmarks", counted_load)
    return counts


def test_questions_are_built_and_encoded_once_for_equal_tokenizers(training, tmp_path, counted):
    """And each run's replies are those of a run of its own."""
    shared = Shared()
    each = [settings(model, tmp_path / "sweep") for model in training]
    outcomes = run_models(each, Talk(quiet=True), shared)
    requests = 2 + 1 + 8
    checks = len(TASKS) * len(training)  # a run encodes a request of each to see that it fits
    assert counted == {"built": len(TASKS), "encoded": requests + checks}
    assert (shared.encodings.encoded, shared.encodings.reused) == (requests, 2 * requests)
    alone = run_suite(settings(training[-1], tmp_path / "alone"), Talk(quiet=True))
    assert replies_of(outcomes[-1].folder) == replies_of(alone) != replies_of(outcomes[0].folder)
    assert read_record(outcomes[-1].folder).scores == read_record(alone).scores


def replies_of(folder: Path | None) -> dict[bytes, Any]:
    assert folder is not None
    found = Replies(folder)
    assert found.count() == 2 + 1 + 8
    return found.lookup(list(found._places))


@pytest.mark.slow
def test_checkpoints_spread_over_workers_share_the_encoding_too(training, tmp_path):
    shared = Shared()
    each = [settings(m, tmp_path, tasks=("winogrande",), workers="2") for m in training[:2]]
    outcomes = run_models(each, Talk(quiet=True), shared)
    assert (shared.encodings.encoded, shared.encodings.reused) == (2, 2)
    for model, outcome in zip(training, outcomes, strict=False):
        alone = run_suite(settings(model, tmp_path / "x", tasks=("winogrande",)), Talk(quiet=True))
        assert outcome.folder is not None
        assert read_record(outcome.folder).scores == read_record(alone).scores


@pytest.mark.parametrize("more", [{"add_bos_token": "false"}, None])
def test_another_tokenizer_or_context_is_encoded_again(training, tmp_path, counted, more):
    """One checkpoint of three has another context length, or all are told to leave BOS out."""
    other = shutil.copytree(training[0], tmp_path / "step-5")
    config = json.loads((other / "config.json").read_text())
    config["max_position_embeddings"] = 1024
    (other / "config.json").write_text(json.dumps(config))
    shared, each = Shared(), [settings(m, tmp_path, tasks=("nq",)) for m in (*training[:2], other)]
    if more:
        each = [one.model_copy(update={"model_args": more}) for one in each]
    run_models(each, Talk(quiet=True), shared)
    assert (shared.encodings.encoded, shared.encodings.reused) == (2, 1)


def test_stop_strings_are_watched_anew_for_another_reply():
    """The second reply of one request is as long as the first, and has no stop string."""
    tokenizer = load_tokenizer(tiny_tokenizer_file(), expected_vocab=ANY_VOCAB)
    is_done = watch_stops(("\nQ",), tokenizer, tokenizer.encode("A", bos=True))
    with_stop, without = (tokenizer.encode(text, bos=False) for text in ("no\nQ", "no\nA"))
    assert [is_done(ids) for ids in (with_stop, without, with_stop)] == [True, False, True]


@pytest.fixture
def broken(training, tmp_path) -> Path:
    """A folder with the training's checkpoints and one without weights."""
    folder = shutil.copytree(training[0].parent, tmp_path / "training")
    shutil.copytree(folder / NAMES[0], folder / "checkpoint-500")
    (folder / "checkpoint-500" / "model.safetensors").unlink()
    return folder


def test_rows_are_in_order_of_step_and_a_checkpoint_that_fails_is_one(cli, broken, tmp_path):
    options = ("-t", "nq", "--data", "sample", "-L", 2, "-o", tmp_path / "out")
    file = tmp_path / "report.html"
    code, out, err = cli("sweep", broken, *options, "--json", "--report", file)
    assert code == 1
    rows = [row for row in json.loads(out)["rows"] if row["kind"] == "run"]
    steps = (30, 200, 500, 1000)
    assert [row["name"] for row in rows] == [f"checkpoint-{step}" for step in steps]
    done = [{"number": step, "source": "its name"} for step in steps if step != 500]
    assert [row["step"] for row in rows if "error" not in row] == done
    (failed,) = [row for row in rows if "error" in row]
    assert failed["name"] == "checkpoint-500"
    assert (failed["path"], failed["cells"]["nq"]) == (None, None)
    assert f"mistral-eval: {failed['error']}" in err
    assert "checkpoint-500" in failed["error"]
    assert err.count("NQ: 2 questions") == 1
    assert "training-nq" in file.read_text()
    code, out, err = cli("sweep", broken, *options)
    assert code == 1
    assert out.count("(failed)") == 1
    assert err.count("This run is finished") == 3


@pytest.mark.parametrize("place", ["", "file/report.html"])
def test_a_report_that_cannot_be_written_is_said_before_any_checkpoint_runs(
    cli, training, tmp_path, place
):
    (tmp_path / "file").touch()
    options = ("-t", "nq", "--data", "sample", "-L", 1, "-o", tmp_path / "out")
    code, out, err = cli("sweep", *training, *options, "--report", tmp_path / place)
    assert code in (1, 2)
    assert out == ""
    assert str(tmp_path) in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_report_may_lie_in_the_folder_that_the_runs_will_make(cli, training, tmp_path):
    report = tmp_path / "out" / "curves" / "report.html"
    options = ("-t", "nq", "--data", "sample", "-L", 1, "-o", tmp_path / "out")
    code, _, err = cli("sweep", *training[:2], *options, "--report", report)
    assert code == 0, err
    assert report.is_file()


def test_one_part_of_a_split_model_ends_no_other_model_s_run(cli, tmp_path):
    part = tmp_path / "m-00001-of-00002.gguf"
    part.write_bytes(b"GGUF")
    options = ("-t", "nq", "--data", "sample", "-L", 1, "-o", tmp_path / "out")
    code, out, err = cli("run", "-m", "tiny", "-m", part, *options)
    assert code == 1
    assert out.count("(failed)") == 1
    assert f"{part} will have no scores: " in err


def test_a_model_that_is_nowhere_is_said_before_the_others_run(cli, training, tmp_path):
    """And has its row all the same; once the others are finished, and with --no-compute, too."""
    models = ("-m", training[0], "-m", "./nowhere")
    options = ("-t", "nq", "--data", "sample", "-L", 1, "-o", tmp_path / "out")
    code, out, err = cli("run", *models, *options)
    assert code == 1
    assert out.count("(failed)") == 1
    sentence = "./nowhere will have no scores: ./nowhere should be a folder"
    assert " ".join(err.split()).startswith(sentence)
    again = cli("run", *models, *options)
    assert again[0] == 1
    assert sentence in " ".join(again[2].split())
    code, _, err = cli("run", "-m", "./nowhere", "-m", "./nor/here", *options)
    assert code == 1
    assert err.startswith("mistral-eval: ./nowhere should be a folder")
    assert err.count("\n") == 1


def test_a_checkpoint_that_another_process_works_on_is_one(training, tmp_path):
    each = [settings(model, tmp_path / "out", tasks=("nq",)) for model in training[:2]]
    folder = run_suite(each[0], Talk(quiet=True))
    (folder / RUN_FILE).unlink()
    held = take_locks(folder, "")
    try:
        first, second = run_models(each, Talk(quiet=True))
    finally:
        for lock in held:
            os.close(lock)
    assert isinstance(first.error, LockedError)
    assert second.folder is not None


def test_all_that_fail_are_an_error(cli, tmp_path):
    models = (tmp_path / "step-1", tmp_path / "step-2")
    code, out, err = cli("sweep", *models, "-t", "nq", "--data", "sample", "-o", tmp_path / "out")
    assert (code, out) == (1, "")
    assert f"mistral-eval: {models[0]} should be a folder" in err


def test_a_checkpoint_given_twice_is_refused(cli, training):
    code, _, err = cli("sweep", training[0], training[0].parent, "-t", "nq", "--data", "sample")
    assert code == 2
    assert f"The model {training[0]} is given twice" in err


def test_revisions_of_one_hub_model_are_checkpoints(cli, tmp_path):
    """They are asked for by name and revision, in order of the revisions' steps."""
    given = ("org/model@step3000", "org/model@step200", "org/model")
    options = ("-t", "nq", "--data", "sample", "-o", tmp_path, "--engine", "random", "--json")
    code, out, _ = cli("sweep", *given, *options)
    assert code == 0
    rows = [row for row in json.loads(out)["rows"] if row["kind"] == "run"]
    assert [row["model"] for row in rows] == ["org/model"] * 3
    assert len({row["path"] for row in rows}) == 3
    assert [row["name"] for row in rows] == [
        f"random, {at}" for at in ("step200", "step3000", "main")
    ]
    code, _, err = cli("sweep", given[0], given[0], *options)
    assert code == 2
    assert "The model org/model is given twice" in err


def test_the_options_are_those_of_run():
    ours, theirs = inspect.signature(sweep).parameters, inspect.signature(run).parameters
    assert {*theirs} - {*ours} == {*OF_ONE_MODEL}
    assert {*ours} - {*theirs} == {"checkpoints", "report"}
    assert all(ours[name] == theirs[name] for name in {*ours} & {*theirs})
    said = re.findall(r"--([\w-]+)", str(sweep.__doc__))
    assert [name.replace("-", "_") for name in said] == [*OF_ONE_MODEL]


def test_cluster_names_the_options_of_run_that_it_lacks():
    said = re.findall(r"--([\w-]+)", str(cluster.app.info.help))
    assert [name.replace("-", "_") for name in said] == [*cluster.LEFT_OUT]
