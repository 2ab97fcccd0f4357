"""Questions of several turns: the second one follows the model's own first reply."""

import base64
import json
import zlib

import pytest

from mistral_eval.console import Talk
from mistral_eval.data import make_source
from mistral_eval.engines.interface import engine_class
from mistral_eval.engines.model_free import Random
from mistral_eval.errors import UnansweredError
from mistral_eval.model.chat.messages import Messages
from mistral_eval.record.run_record import read_run
from mistral_eval.report.frames import load_run
from mistral_eval.report.html.bundle import bundle
from mistral_eval.report.sample_pages import Wanted, chosen
from mistral_eval.run.planned_requests import requests_of
from mistral_eval.run.questions import Asking, load_benchmarks
from mistral_eval.run.run import rescore, run_suite
from mistral_eval.settings import RunSettings
from mistral_eval.suite.conversations import MT_BENCH

QUIET = Talk(quiet=True)


def settings_in(folder, **changed) -> RunSettings:
    fields = {"tasks": (MT_BENCH.id,), "engine": "random", "data": "sample", "limit": 4}
    return RunSettings(**{**fields, "output_path": folder, **changed})


def loaded(limit=16):
    (found,) = load_benchmarks(
        [MT_BENCH.id], Asking(make_source("sample"), limit, None, unpinned=False)
    )
    return found


def samples_of(folder):
    (file,) = folder.glob(f"samples_{MT_BENCH.id}_*.jsonl")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_the_temperature_is_fastchats_by_category():
    found = {q.doc["category"]: q.requests[0].generation for q in loaded().questions}

    assert {name: one.temperature for name, one in found.items()} == {
        "writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1,
        "reasoning": 0.0, "math": 0.0, "coding": 0.0, "extraction": 0.0,
    }  # fmt: skip
    assert {(one.max_tokens, one.until, one.top_p) for one in found.values()} == {(1024, (), 1.0)}


def test_the_second_turn_holds_the_first_and_draws_otherwise():
    benchmark = loaded(1)
    (question,) = benchmark.questions
    (first,) = question.requests
    second = benchmark.next_turn(question, ["My answer."])

    turns = question.doc["turns"]
    assert second.context == Messages(
        (("user", turns[0]), ("assistant", "My answer."), ("user", turns[1]))
    )
    assert second.settings == first.settings
    assert second.draw != first.draw
    assert benchmark.next_turn(question, ["My answer.", "Another."]) is None
    assert benchmark.later_turns(question, ["My answer.", "Another."]) == [second]
    assert str(second).endswith("question 0, turn 2, sample 0")


def test_the_display_says_which_turn_it_counts(tmp_path, capsys):
    run_suite(settings_in(tmp_path, limit=2), Talk())
    labels = [line.split(":")[0] for line in capsys.readouterr().err.splitlines()]
    asked = [label for label in labels if label.startswith("Generating")]
    assert asked == ["Generating replies"] * 2 + ["Generating replies, turn 2"] * 2


@pytest.mark.parametrize("engine", ["random", "oracle", "native", "hf"])
def test_each_question_is_asked_twice_and_a_rescoring_finds_both(tmp_path, engine):
    changed = {"model": "tiny"} if engine in ("native", "hf") else {}
    folder = run_suite(settings_in(tmp_path, engine=engine, limit=2, **changed), QUIET)
    before = samples_of(folder)

    for row in before:
        (first,), (second,) = row["resps"]
        asked = row["arguments"]["gen_args_1"]["arg_0"]
        assert asked.endswith(f"[assistant]\n{first}\n\n[user]\n{row['doc']['turns'][1]}")
        assert isinstance(second, str)
    assert read_run(folder)["counts"]["computed"] == 4
    for file in folder.glob("samples_*"):
        file.unlink()
    rescore(folder, QUIET, unsafe_code=False)
    assert [row["resps"] for row in samples_of(folder)] == [row["resps"] for row in before]


def test_samples_frames_and_report_show_all_turns(tmp_path):
    folder = run_suite(settings_in(tmp_path, limit=1), QUIET)
    (row,) = samples_of(folder)
    (first,), (second,) = row["resps"]
    (shown,) = chosen(folder, Wanted())
    (frame,) = load_run(folder).samples["replies"]

    assert shown["prompt"] == row["arguments"]["gen_args_1"]["arg_0"]
    assert [one["text"] for one in shown["replies"]] == [first, second]
    assert list(frame) == [first, second]
    (file,) = folder.glob(f"samples_{MT_BENCH.id}_*.jsonl")
    (chunk,) = bundle(MT_BENCH.id, [file]).chunks
    ((_, title, _, prompt, more, ((*_, replies, _),)),) = unpacked(chunk)
    turns = row["doc"]["turns"]
    assert prompt == f"[user]\n{turns[0]}\n\n[user]\n{turns[1]}"
    assert (title, more) == (turns[0][:200], {})  # nothing is called the right answer
    assert [text for *_, text in replies] == [first, second]


def unpacked(data):
    return json.loads(zlib.decompress(base64.b64decode(data)))


class Stopping(Random):
    """Answers first turns only: the second ones fail for good."""

    def answer(self, encoded, known=(), stop=lambda: False):
        if any(item.request.turn for item in encoded):
            left = [n for n in range(len(encoded)) if n not in known]
            raise UnansweredError([(n, "no second turn today") for n in left])
        yield from super().answer(encoded, known, stop)


def test_a_run_resumes_after_its_first_turns(tmp_path, monkeypatch):
    """First replies are in the log before a second turn is asked, and none is computed twice."""
    settings = settings_in(tmp_path)
    with monkeypatch.context() as changed:
        changed.setattr("mistral_eval.engines.model_free.Random", Stopping)
        assert engine_class("random") is Stopping
        with pytest.raises(Exception, match=r"turn 2.*no second turn today"):
            run_suite(settings, QUIET)
    counts = read_run(run_suite(settings, QUIET))["counts"]

    assert (counts["from_log"], counts["computed"]) == (4, 4)


def test_a_plan_counts_the_second_turn_after_a_reply_of_the_expected_length():
    class Words:
        def encode(self, request):
            return type("Encoded", (), {"work": str(request.context).split(), "truncated": False})

    benchmark = loaded(1)
    first, second = requests_of(benchmark, Words(), 30.4).generations
    _, longest = requests_of(benchmark, Words()).generations

    assert len(longest) - len(second) == 1024 - 30
    assert second[: len(first)] == first


@pytest.mark.parametrize(
    ("replies", "outcome", "said"),
    [
        (["a", "b"], "correct", ""),
        (["a", " \n"], "no_answer", "no answer in turn 2"),
        (["", ""], "no_answer", "no answer in turn 1 and 2"),
    ],
)
def test_the_cell_counts_questions_that_were_answered_in_every_turn(replies, outcome, said):
    (found,) = MT_BENCH.judge([{"turns": ["1", "2"]}], [replies])

    assert (found.verdict.outcome.value, found.verdict.reason) == (outcome, said)
