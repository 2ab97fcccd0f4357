"""A language model judges refusals: known labels, everything that judges get wrong, no mixing."""

import json

import pytest

from mistral_eval.answers.refusals.judge import Response
from mistral_eval.answers.refusals.model_judge import LABELS, SYSTEM
from mistral_eval.console import Talk
from mistral_eval.data import make_source
from mistral_eval.engines.interface import never
from mistral_eval.errors import EngineError, TaskError, UsageError
from mistral_eval.record.comparison import compare_against
from mistral_eval.record.run_record import read_record, read_run
from mistral_eval.record.run_scores import load_scores
from mistral_eval.record.sample_files import load_samples
from mistral_eval.report.html import write_report
from mistral_eval.report.table import markdown_of, render_figure
from mistral_eval.run.asking_judge import ATTEMPTS
from mistral_eval.run.judges import judging
from mistral_eval.run.judging_refusals import judge_refusals
from mistral_eval.run.questions import Asking, load_benchmarks
from mistral_eval.run.run import rescore, run_suite
from mistral_eval.settings import RunSettings
from mistral_eval.suite.chats import REFUSES, SIMPLE_SAFETY_TESTS, XSTEST
from mistral_eval.suite.conversations import MT_BENCH
from tests.judge_server import JudgeServer, said

QUIET = Talk(quiet=True)
COMPLIES, FULL, PARTLY = LABELS
N = 16  # questions of the sample: of XSTest's 8 safe and 8 unsafe


def settings_in(folder, judge=None, **changed) -> RunSettings:
    fields = {"tasks": (XSTEST.id,), "engine": "oracle", "data": "sample", "output_path": folder}
    if judge:
        fields |= {"judge_url": judge.url, "judge_model": "judge-1", "refusal_judge": "llm"}
    return RunSettings(**{**fields, **changed})


def user_of(body) -> str:
    return body["messages"][1]["content"]


def by_answer(number, body):
    """The label that the oracle's answer deserves."""
    return said(FULL if REFUSES in user_of(body) else COMPLIES)


def cell_of(folder, benchmark=XSTEST):
    return read_run(folder)["scores"][benchmark.id]


def judge_of(folder, benchmark=XSTEST):
    return read_run(folder)["refusal_judges"][benchmark.id]


def rows_of(folders):
    _, refusals, _ = json.loads(render_figure(folders, "guardrails", "json"))["sections"]
    return refusals["rows"][4:], refusals["notes"]


def notes_of(folder, benchmark=XSTEST):
    return " | ".join(cell_of(folder, benchmark)["notes"])


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A run whose judge gives each answer the label that it deserves, and one by cues."""
    folder = tmp_path_factory.mktemp("judged")
    tasks = (XSTEST.id, SIMPLE_SAFETY_TESTS.id)
    with JudgeServer(by_answer) as judge:
        by_model = run_suite(settings_in(folder, judge, tasks=tasks), QUIET)
        assert run_suite(settings_in(folder, judge, tasks=tasks), QUIET) == by_model
        bodies = judge.asked
    return by_model, run_suite(settings_in(folder, tasks=tasks), QUIET), bodies


def test_known_labels_give_known_rates_and_say_whose_they_are(judged):
    by_model, by_cues, _ = judged
    for benchmark in (XSTEST, SIMPLE_SAFETY_TESTS):
        cell = cell_of(by_model, benchmark)
        assert (cell["value"], cell["n"], cell["judged_by"]) == (100.0, N, "judge-1")
        assert judge_of(by_model, benchmark) == {
            "judge": "judge-1", "versions": {"judge-1": N}, "asked": N, "refused": 0,
        }  # fmt: skip
    notes = notes_of(by_model)
    assert "refusals judged by the language model judge-1; how often that judge errs" in notes
    assert "any refusal of safe prompts: 0.0 % [0.0, 32.4] of 8 |" in notes
    assert "full refusal of unsafe prompts: 100.0 % [67.6, 100.0] of 8" in notes
    assert "known error" not in notes + notes_of(by_model, SIMPLE_SAFETY_TESTS)
    assert "judged by cues; corrected by that judge's known error" in notes_of(by_cues)
    assert "refusal_judges" not in read_run(by_cues)


def test_the_judge_is_asked_once_for_each_answer_with_the_published_prompt(judged):
    *_, bodies = judged
    assert len({user_of(body) for body in bodies}) == len(bodies) == 2 * N
    assert {body["messages"][0]["content"] for body in bodies} == {SYSTEM}
    assert {(b["model"], b["temperature"]) for b in bodies} == {("judge-1", 0.0)}


def test_a_partial_refusal_is_no_full_one(tmp_path):
    def answer(number, body):
        return said(PARTLY if REFUSES in user_of(body) else COMPLIES)

    with JudgeServer(answer) as judge:
        folder = run_suite(settings_in(tmp_path, judge), QUIET)
    ((*_, any_unsafe, full_unsafe, any_safe, full_safe, name),), _ = rows_of([folder])
    assert (any_unsafe, full_unsafe) == ("100.0 [67.6, 100.0]", "0.0 [0.0, 32.4]")
    assert (any_safe, full_safe, name) == ("0.0 [0.0, 32.4]", "0.0 [0.0, 32.4]", "judge-1")


def test_judges_are_not_mixed_silently_in_tables(judged):
    by_model, by_cues, _ = judged
    rows, notes = rows_of([by_model, by_cues])
    assert [row[-1] for row in rows] == ["judge-1", "judge-1", "cues", "cues"]
    assert all("corrected" not in cell for row in rows[:2] for cell in row[3:7])
    assert all("corrected" in cell for cell in rows[2][3:7])
    assert any("several judges of refusals (judge-1, cues). Compare rows of" in n for n in notes)
    own = rows_of([by_model])[1]
    assert not any("several judges" in note or "known error" in note for note in own)
    assert any("by a language model (judge-1) is as judged" in note for note in own)
    text = markdown_of(read_record(by_model), by_model)
    assert "not the column's protocol: XSTest, SST: judged by judge-1" in text
    assert "not the column's protocol" not in markdown_of(read_record(by_cues), by_cues)


def test_runs_by_different_judges_are_not_compared(judged):
    by_model, by_cues, _ = judged
    one, other = load_samples([by_cues, by_model])
    with pytest.raises(TaskError, match=r"the judge of refusals is cues in .* and judge-1 in"):
        compare_against(one, [other])
    (same,) = compare_against(one, [one])
    assert [found.n for found in same.benchmarks] == [N, N]


def test_the_report_names_the_judge_and_shows_its_text(judged, tmp_path):
    write_report(judged[:2], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "XSTest by judge-1 safe 0.0, unsafe 100.0" in text
    assert "the judge of refusals is judge-1 in" in text  # why the two runs are not compared
    (file,) = judged[0].glob("samples_xstest_*")
    reasons = {json.loads(line)["verdict"]["reason"] for line in file.open(encoding="utf-8")}
    assert reasons == {f"judge-1 wrote: {FULL}", f"judge-1 wrote: {COMPLIES}"}


def test_a_rescoring_reads_the_labels_without_the_judge(judged):
    folder = judged[0]
    before = (cell_of(folder), judge_of(folder))
    rescore(folder, QUIET, unsafe_code=False)
    assert (cell_of(folder), judge_of(folder)) == before


def test_a_rescoring_without_the_judgments_is_an_error(tmp_path):
    with JudgeServer(by_answer) as judge:
        folder = run_suite(settings_in(tmp_path, judge, limit=4), QUIET)
    for file in (folder / "judgments" / "replies").iterdir():
        file.unlink()
    with pytest.raises(EngineError, match="judgments of xstest by judge-1 should be in the run's"):
        rescore(folder, QUIET, unsafe_code=False)


@pytest.mark.parametrize(
    "text",
    ["", None, "It refuses.", "4_other", f"{COMPLIES}, {FULL}, {PARTLY}", [{"type": "text"}]],
    ids=["nothing", "null", "no label", "an unknown label", "a list", "no text"],
)
def test_an_unread_judgment_is_asked_again_then_left_out_and_shown(tmp_path, text):
    """Of the 16 judgments that of one safe prompt is never readable."""
    bad: list[str] = []

    def answer(number, body):
        user = user_of(body)
        if not bad and REFUSES not in user:
            bad.append(user)
        return said(text) if bad and user == bad[0] else by_answer(number, body)

    with JudgeServer(answer) as judge:
        folder = run_suite(settings_in(tmp_path, judge), QUIET)
        run_suite(settings_in(tmp_path, judge), QUIET)
        assert len(judge.asked) == N - 1 + ATTEMPTS
    cell, notes = cell_of(folder), notes_of(folder)

    assert (cell["value"], cell["correct"], cell["n"], cell["no_answer"]) == (100.0, 15, 15, 0)
    assert "1 of 16 judgments hold no readable label after 18 attempts in all" in notes
    assert "any refusal of safe prompts: 0.0 % [0.0, 35.4] of 7 |" in notes
    (row,), _ = rows_of([folder])
    assert row[2] == "XSTest: 7 safe, 8 unsafe, 1 unread"
    (one,) = load_samples([folder])
    assert len(one.benchmarks[XSTEST.id].questions) == 15
    rescore(folder, QUIET, unsafe_code=False)
    assert (cell_of(folder), notes_of(folder)) == (cell, notes)


def test_a_judge_that_nobody_can_read_leaves_nothing_known(tmp_path, capsys):
    with JudgeServer(lambda number, body: said("Hm.")) as judge:
        folder = run_suite(settings_in(tmp_path, judge), Talk())
    assert "XSTest 16/16 no answer could be judged" in capsys.readouterr().err
    cell = cell_of(folder)
    assert (cell["n"], cell["low"], cell["high"]) == (0, 0.0, 100.0)
    assert "16 of 16 judgments hold no readable label after 48 attempts" in notes_of(folder)
    (row,), _ = rows_of([folder])
    assert row[2:7] == ["XSTest: 16 unread", "—", "—", "—", "—"]
    assert cell["secondary"] == {}
    text = markdown_of(read_record(folder), folder)
    assert "16 of 16 judgments" in text
    assert "prompts refused:" not in text
    assert not [one for one in text.splitlines() if one.startswith("|") and "0.0" in one]
    assert load_scores(folder).cells[XSTEST.id].n == 0
    write_report([folder, folder], tmp_path / "report.html")


def test_a_later_attempt_that_can_be_read_counts(tmp_path):
    seen: dict[str, int] = {}

    def answer(number, body):
        user = user_of(body)
        seen[user] = seen.get(user, 0) + 1
        return said("Hm.") if seen[user] < ATTEMPTS else by_answer(number, body)

    with JudgeServer(answer) as judge:
        folder = run_suite(settings_in(tmp_path, judge, limit=4), QUIET)
        assert len(judge.asked) == 4 * ATTEMPTS
    assert (cell_of(folder)["value"], judge_of(folder)["asked"]) == (100.0, 12)


def test_an_answer_without_text_is_not_paid_for(tmp_path):
    given = Asking(make_source("sample"), 4, None, unpinned=False)
    loaded = list(load_benchmarks([XSTEST.id], given))
    replies = [["Yes."], [" \n"], ["<think>No.</think>"], [REFUSES]]
    with (
        JudgeServer(by_answer) as judge,
        judging(tmp_path, settings_in(tmp_path, judge), QUIET, stop=never) as at_work,
    ):
        found = judge_refusals(loaded, [replies], at_work)[XSTEST.id]
        assert len(judge.asked) == found.judge.asked == 2
    assert [one.response for one in found.found] == [
        Response.FULL_COMPLIANCE, Response.EMPTY, Response.EMPTY, Response.FULL_REFUSAL,
    ]  # fmt: skip


@pytest.mark.parametrize("status", [401, 404])
def test_a_judge_that_fails_keeps_what_arrived(tmp_path, status):
    def fails(number, body):
        return by_answer(number, body) if number <= 5 else (status, {})

    with JudgeServer(fails) as judge, pytest.raises(EngineError, match="did not answer all of 16"):
        run_suite(settings_in(tmp_path, judge), QUIET)
    with JudgeServer(by_answer) as judge:
        folder = run_suite(settings_in(tmp_path, judge), QUIET)
        assert len(judge.asked) == N - 5
    assert cell_of(folder)["value"] == 100.0


def test_a_prompt_that_the_server_refuses_is_unread(tmp_path):
    first: list[str] = []

    def answer(number, body):
        first.append(user_of(body))
        if user_of(body) == first[0] and number > 1:
            return 400, {"error": {"message": "content filter"}}
        return said("Hm.") if number == 1 else by_answer(number, body)

    with JudgeServer(answer) as judge:
        folder = run_suite(settings_in(tmp_path, judge), QUIET)
    assert judge_of(folder)["refused"] == 1
    assert "1 of 16 judgments hold no readable label" in notes_of(folder)
    assert "1 of them refused by the server" in notes_of(folder)


def test_a_judge_under_several_names_is_named_by_all(tmp_path):
    def answer(number, body):
        status, reply = by_answer(number, body)
        return status, {**reply, "model": "new" if REFUSES in user_of(body) else "old"}

    with JudgeServer(answer) as judge:
        folder = run_suite(settings_in(tmp_path, judge), QUIET)
    assert cell_of(folder)["judged_by"] == "judge-1 (new, old)"
    assert "the judge answered under 2 names, new (8), old (8)" in notes_of(folder)


def test_ratings_and_refusals_have_one_judge_and_cues_stay_the_default(tmp_path):
    def answer(number, body):
        rates = "[[rating]]" in str(body["messages"])
        return said("Rating: [[7]]") if rates else by_answer(number, body)

    both = (MT_BENCH.id, XSTEST.id)
    with JudgeServer(answer) as judge:
        cues = {"tasks": both, "limit": 2, "refusal_judge": "cues", "engine": "oracle"}
        by_cues = run_suite(settings_in(tmp_path, judge, **cues), QUIET)
        assert len(judge.asked) == 4  # two turns of two questions
        by_model = run_suite(settings_in(tmp_path, judge, tasks=both, limit=2), QUIET)
        assert len(judge.asked) == 4 + 2  # the ratings are those of the run beside it
    assert cell_of(by_cues)["judged_by"] == ""
    assert cell_of(by_model)["judged_by"] == "judge-1"
    assert set(read_run(by_model)["ratings"]) == {MT_BENCH.id}
    assert by_cues != by_model


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"judge_url": None, "judge_model": None}, "--refusal-judge llm needs a judge"),
        ({"tasks": ("piqa",)}, "asks nothing that should be refused. Add xstest or simple_safety"),
        ({"tasks": (MT_BENCH.id,)}, "asks nothing that should be refused"),
        ({"refusal_judge": "cues"}, "Add mt_bench to --tasks, give --refusal-judge llm, or leave"),
        ({"refusal_judge": "cues", "tasks": ("piqa",)}, "Add mt_bench to --tasks, or leave the"),
        ({"refusal_judge": "people"}, "--refusal-judge: "),
    ],
)
def test_bad_input_is_said_before_anything_is_computed(tmp_path, changed, sentence):
    with JudgeServer(by_answer) as judge, pytest.raises(UsageError, match=sentence) as raised:
        run_suite(settings_in(tmp_path, judge, **changed), QUIET)
    assert raised.value.exit_code == 2
    assert not list(tmp_path.iterdir())


def test_the_default_leaves_the_runs_id_as_it_was(tmp_path):
    plain = settings_in(tmp_path)
    cues = settings_in(tmp_path, refusal_judge="cues")
    assert plain.run_id({}) == cues.run_id({})
