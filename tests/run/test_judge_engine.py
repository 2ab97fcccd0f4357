"""A local checkpoint as judge: kept, counted, rescored, never asked the same twice."""

import json

import pytest

from mistral_eval.answers.judge_prompt import JudgePrompt
from mistral_eval.answers.mt_bench.judge_prompts import single_prompt
from mistral_eval.console import Talk
from mistral_eval.engines.native import NativeEngine
from mistral_eval.errors import UsageError
from mistral_eval.record.judgments import Judgments
from mistral_eval.record.run_record import read_run
from mistral_eval.report.table import render_figure
from mistral_eval.run.asking_judge import JudgeQueue
from mistral_eval.run.judge_engine import TOO_LONG
from mistral_eval.run.judges import judge_name, opened_judge
from mistral_eval.run.rating import is_rated
from mistral_eval.run.run import rescore, run_suite
from mistral_eval.settings import RunSettings
from mistral_eval.suite.conversations import MT_BENCH

QUIET = Talk(quiet=True)


def settings_in(folder, **changed) -> RunSettings:
    fields = {"tasks": (MT_BENCH.id,), "engine": "random", "data": "sample", "limit": 1}
    judge = {"judge_model": "tiny", "judge_engine": "native", "device": "cpu"}
    return RunSettings(**{**fields, **judge, "output_path": folder, **changed})


@pytest.fixture
def short(monkeypatch):
    """Judgments of eight tokens, so that random weights do not write a page."""
    monkeypatch.setattr("mistral_eval.answers.mt_bench.judge_prompts.JUDGE_TOKENS", 8)


@pytest.fixture
def opened(monkeypatch):
    """The models that are loaded."""
    found = []
    real = NativeEngine.open.__func__

    def opening(cls, settings, gold, say):
        found.append(settings.model)
        return real(cls, settings, gold, say)

    monkeypatch.setattr(NativeEngine, "open", classmethod(opening))
    return found


@pytest.mark.usefixtures("short")
def test_a_local_judge_rates_once_and_says_how_many_were_unread(tmp_path, opened):
    folder = run_suite(settings_in(tmp_path), QUIET)
    run = read_run(folder)
    ratings = run["ratings"][MT_BENCH.id]
    unread = sum(row["ours"] is None for row in ratings["rows"])

    assert opened == ["tiny"]
    assert ratings["judge"].startswith("tiny (native, ")
    assert (len(ratings["rows"]), ratings["asked"]) == (2, 2)  # greedy: asked again it is the same
    notes = " ".join(run["scores"][MT_BENCH.id]["notes"])
    assert f"{unread} of 2 judgments hold no readable rating after 2 attempts" in notes
    (file,) = folder.glob("judge-*.json")
    identity = json.loads(file.read_text())["identity"]
    assert (identity["engine"], bool(identity["weights"])) == ("native", True)
    assert ratings["judge"] in render_figure([folder], "chat", "md")

    rescore(folder, QUIET, unsafe_code=False)
    assert read_run(folder)["ratings"] == run["ratings"]
    assert run_suite(settings_in(tmp_path), QUIET) == folder
    larger = run_suite(settings_in(tmp_path, limit=2), QUIET)
    assert read_run(larger)["ratings"][MT_BENCH.id]["judge"] == ratings["judge"]
    assert opened == ["tiny", "tiny"]  # the larger run has another question


@pytest.mark.usefixtures("short")
def test_judgments_are_the_engines_greedy_replies(tmp_path):
    prompt = single_prompt(["Why?"], ["Because."], 1)
    settings = settings_in(tmp_path)
    with opened_judge(settings, tmp_path, QUIET) as judge:
        ((_, one),) = judge.judgments([prompt], lambda: False)
        ((_, other),) = judge.judgments([prompt], lambda: False)
    assert one == other
    assert (one.prompt, one.digest, one.refused) == (prompt.name, prompt.digest, "")
    assert one.finish in ("length", "eos")
    assert judge_name(settings, tmp_path) == one.judge


@pytest.mark.usefixtures("short")
def test_a_prompt_that_does_not_fit_is_refused_and_counted(tmp_path):
    long = JudgePrompt("single-v1", "You are a judge.", "word " * 9000, 8)
    fits = single_prompt(["Why?"], ["Because."], 1)
    with (
        opened_judge(settings_in(tmp_path), tmp_path, QUIET) as judge,
        Judgments.writing(tmp_path, judge.name, reuses=False) as kept,
    ):
        JudgeQueue(judge, kept, QUIET, is_rated).ask([long, fits])
        (refused,), (answered,) = kept.attempts(long), kept.attempts(fits)
    assert (refused.text, refused.refused) == ("", TOO_LONG)
    assert answered.refused == ""


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"judge_url": "http://localhost:1/v1"}, "--judge-url names a server and --judge-engine"),
        ({"judge_model": None}, "Give --judge-model too"),
        ({"judge_engine": None}, "Give --judge-url or --judge-engine too"),
        ({"judge_model": "no-such-model"}, "should be a folder, a GGUF file, a hub name"),
        ({"judge_engine": "oracle"}, "--judge-engine: "),
    ],
)
def test_a_judge_that_cannot_be_is_refused_before_anything_is_computed(tmp_path, changed, sentence):
    with pytest.raises(UsageError, match=sentence):
        run_suite(settings_in(tmp_path, **changed), QUIET)
    assert not list(tmp_path.iterdir())
