"""`rescore` judges a run's replies again, from its replies log and without its model."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from lm_eval.models.huggingface import HFLM

from mistral_eval.answers import votes
from mistral_eval.answers.verdict import Outcome
from mistral_eval.console import Talk
from mistral_eval.engines import hf, native
from mistral_eval.errors import OutputError, RepliesError, SandboxError
from mistral_eval.model.transformer import Transformer
from mistral_eval.record.run_folder import REPLIES_FOLDER, RUN_FILE
from mistral_eval.run.run import rescore, run_suite
from mistral_eval.settings import RunSettings

TINY = {"model": "tiny", "engine": "native", "limit": 2}
HF = {"model": "tiny", "engine": "hf", "limit": 2}
CHANCE = {"engine": "random"}


@pytest.fixture
def finish(tmp_path):
    """A finished run in the test's own folder: (tasks, **settings) to the run's folder."""

    def call(*tasks: str, **settings: Any) -> Path:
        chosen = RunSettings(tasks=tasks, data="sample", output_path=tmp_path, **settings)
        return run_suite(chosen, Talk(quiet=True))

    return call


def forbid_models(monkeypatch) -> None:
    """No engine can load weights from here on."""

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("rescoring loaded a model")

    monkeypatch.setattr(native, "open_native", refuse)
    monkeypatch.setattr(native, "tiny_model", refuse)
    monkeypatch.setattr(hf, "open_hf", refuse)
    monkeypatch.setattr(HFLM, "__init__", refuse)
    monkeypatch.setattr(Transformer, "__init__", refuse)


def again(folder: Path, **settings: Any) -> dict[str, Any]:
    rescore(folder, Talk(quiet=True), **{"unsafe_code": False, **settings})
    return run_json(folder)


def run_json(folder: Path) -> dict[str, Any]:
    return json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))


def verdicts(folder: Path) -> dict[str, list[list[Any]]]:
    """Each benchmark's verdicts and replies in the newest samples file, by question."""
    newest = {file.name.rsplit("_", 1)[0]: file for file in sorted(folder.glob("samples_*.jsonl"))}
    return {
        name: [[row["doc_id"], row["resps"], row["verdict"], row["metrics"]] for row in rows(file)]
        for name, file in newest.items()
    }


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("settings", [CHANCE, TINY, HF], ids=["random", "native", "hf"])
def test_the_same_replies_get_the_same_scores_and_verdicts_without_the_model(
    finish, settings, monkeypatch
):
    sampled = "nq" if settings is HF else "gsm8k"  # of which eight samples take it ten seconds
    folder = finish("winogrande", sampled, **settings)
    before, judged = run_json(folder), verdicts(folder)
    forbid_models(monkeypatch)
    after = again(folder)

    assert before["scores"] == after["scores"]
    assert judged == verdicts(folder)
    assert "rescored" in after
    assert "rescored" not in before
    same = ("id", "date", "engine", "model", "settings", "counts", "data", "protocol", "seconds")
    assert {key: before[key] for key in same} == {key: after[key] for key in same}


@pytest.mark.sandbox
@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize(("settings", "score"), [({"engine": "oracle"}, 100.0), (TINY, 0.0)])
def test_programs_run_again(finish, monkeypatch, settings, score):
    """The oracle's are right, a model's with random weights are not."""
    folder = finish("humaneval", **settings)
    before = run_json(folder)["scores"]
    forbid_models(monkeypatch)
    after = again(folder)["scores"]

    assert score == before["humaneval"]["value"]
    assert before == after


def test_a_changed_verdict_function_changes_the_scores_and_the_old_files_stay(finish, monkeypatch):
    folder = finish("winogrande", "gsm8k", **CHANCE)
    before = run_json(folder)
    old = {f.name: f.read_bytes() for f in folder.iterdir() if f.name.startswith(("res", "sam"))}
    true_judge = votes.vote_on_numbers

    def generous(*arguments: Any) -> list[Any]:
        return [
            dataclasses.replace(
                question,
                verdict=dataclasses.replace(question.verdict, outcome=Outcome.CORRECT),
                metrics=dict.fromkeys(question.metrics, 1.0),
            )
            for question in true_judge(*arguments)
        ]

    monkeypatch.setattr(votes, "vote_on_numbers", generous)
    after = again(folder)

    assert before["scores"]["gsm8k"]["value"] < after["scores"]["gsm8k"]["value"] == 100.0
    assert before["scores"]["winogrande"] == after["scores"]["winogrande"]
    assert before["results_file"] != after["results_file"]
    assert {name: (folder / name).read_bytes() for name in old} == old
    assert "100.0" in (folder / "table.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("settings", [CHANCE, TINY, HF], ids=["random", "native", "hf"])
def test_a_reply_that_is_not_there_is_said_and_nothing_changes(finish, settings, monkeypatch):
    folder = finish("winogrande", **settings)
    (log,) = folder.glob(f"{REPLIES_FOLDER}/*")
    _, *others = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(others))
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    forbid_models(monkeypatch)
    with pytest.raises(
        RepliesError,
        match=r"lacks 1 of \d+ replies to questions of winogrande: lines are",
    ):
        again(folder)

    assert before == {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_damaged_log_is_said_to_be_the_cause(finish, capsys):
    folder = finish("winogrande", **CHANCE)
    (log,) = folder.glob(f"{REPLIES_FOLDER}/*")
    log.write_bytes(log.read_bytes().replace(b"logprob", b"logprop", 1))
    with pytest.raises(
        RepliesError, match=f"^{log.parent} lacks 1 of 32 replies to questions of winogrande: lines"
    ):
        rescore(folder, Talk(), unsafe_code=False)
    said = " ".join(capsys.readouterr().err.split())
    assert f"1 damaged line was skipped in {log.parent}." in said
    assert "computed again" not in said


def test_a_run_without_its_replies_is_said(finish):
    folder = finish("winogrande", **CHANCE)
    shutil.rmtree(folder / REPLIES_FOLDER)
    with pytest.raises(RepliesError, match=r"there are none\. Repeat .* with --fresh"):
        again(folder)


def test_a_folder_that_holds_no_run_is_said(tmp_path):
    with pytest.raises(OutputError, match=r"run\.json"):
        again(tmp_path)


def test_a_sandbox_that_does_not_work_stops_it_before_anything_is_built(finish, monkeypatch):
    folder = finish("humaneval", engine="oracle", unsafe_code=True, limit=1)
    before = run_json(folder)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("mistral_eval.run.run.load_benchmarks", pytest.fail)
    with pytest.raises(SandboxError, match=r"--sandbox podman was asked for, .* not installed"):
        again(folder, sandbox="podman")

    assert before == run_json(folder)


def test_a_run_that_does_not_say_which_engine_answered_is_refused(finish):
    folder = finish("winogrande", **CHANCE)
    run = run_json(folder)
    del run["identity"]
    (folder / RUN_FILE).write_text(json.dumps(run), encoding="utf-8")
    with pytest.raises(OutputError, match=r"should hold the engine's identity"):
        again(folder)


@pytest.mark.parametrize("value", [None, "many"])
def test_a_run_that_does_not_say_how_long_a_context_is_is_refused(finish, value):
    folder = finish("winogrande", model="tiny", limit=1)
    run = run_json(folder)
    run["model"]["max_length"] = value
    (folder / RUN_FILE).write_text(json.dumps(run), encoding="utf-8")
    with pytest.raises(OutputError, match=r"should hold model\.max_length, the context in tokens"):
        again(folder)
