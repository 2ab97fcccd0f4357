"""MT-Bench several times: answers and judgments of their own, one row with mean and deviation."""

import json
from statistics import fmean, stdev

import pytest

from mistral_eval.console import Talk
from mistral_eval.engines.interface import Capabilities
from mistral_eval.errors import UsageError
from mistral_eval.record.run_record import read_run
from mistral_eval.report.table import render_figure
from mistral_eval.run.opening import check_can
from mistral_eval.run.planning import plan_run
from mistral_eval.run.run import rescore, run_suite
from mistral_eval.run.several_models import run_models
from mistral_eval.settings import RunSettings
from mistral_eval.suite.conversations import MT_BENCH
from tests.judge_server import JudgeServer, said

QUIET = Talk(quiet=True)
RUNS = 3


def settings_in(folder, judge, **changed) -> list[RunSettings]:
    fields = {"tasks": (MT_BENCH.id,), "engine": "random", "data": "sample", "limit": 8}
    named = {"judge_url": judge.url, "judge_model": "judge-1", "output_path": folder}
    return [
        RunSettings(**{**fields, **named, "iteration": place, **changed}) for place in range(RUNS)
    ]


def samples_of(folder):
    (file,) = folder.glob(f"samples_{MT_BENCH.id}_*")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def by_arrival(number, body):
    """A judge that rates each answer of the first run 4, of the next 6, of the last 9."""
    return said(f"Rating: [[{(4, 6, 9)[(number - 1) // 16]}]]")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with JudgeServer(by_arrival) as judge:
        outcomes = run_models(settings_in(folder, judge), QUIET)
        again = run_models(settings_in(folder, judge), QUIET)
        asked = len(judge.asked)
    assert not any(one.error for one in outcomes)
    assert again == outcomes
    assert asked == RUNS * 16  # each run is judged by itself, and nothing twice
    return [one.folder for one in outcomes]


def test_each_run_has_draws_of_its_own(runs):
    found = [[row["resps"] for row in samples_of(folder)] for folder in runs]
    assert len(set(map(str, found))) == RUNS
    assert [row["doc"] for row in samples_of(runs[0])] == [
        row["doc"] for row in samples_of(runs[2])
    ]


def test_several_runs_are_one_row_with_the_deviation_over_runs(runs):
    section, *_ = json.loads(render_figure(runs, "chat", "json"))["sections"]
    row, data = section["rows"][-1], section["data"][-1]
    assert row[0] == "random"
    assert row[2] == f"{fmean((4, 6, 9)):.2f} ± {stdev((4, 6, 9)):.2f} ({RUNS} runs)"
    assert data["runs"]["runs"] == RUNS
    assert (data["scores"]["overall"]["questions"], data["scores"]["overall"]["rated"]) == (8, 48)
    assert float(row[3]) <= round(fmean((4, 6, 9)), 2) <= float(row[4])
    assert sum("equal in all runs" in note for note in section["notes"]) == 1


def test_the_same_run_twice_is_no_repetition(runs):
    section, *_ = json.loads(render_figure([runs[1], runs[1]], "chat", "json"))["sections"]
    assert [row[2] for row in section["rows"][-2:]] == ["6.00", "6.00"]


def test_a_rescoring_finds_the_judgments_of_its_own_run(runs):
    before = read_run(runs[2])["ratings"]
    rescore(runs[2], QUIET, unsafe_code=False)
    assert read_run(runs[2])["ratings"] == before
    assert {row["ours"] for row in before[MT_BENCH.id]["rows"]} == {9.0}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"tasks": ("mt_bench", "xstest")}, "--tasks has xstest. Run those by themselves"),
        ({"tasks": ("mt_bench", "lm_eval:arc_easy")}, "--tasks has lm_eval:arc_easy"),
    ],
)
def test_what_cannot_be_repeated_is_refused_before_anything_is_computed(
    tmp_path, changed, sentence
):
    with JudgeServer(by_arrival) as judge, pytest.raises(UsageError, match=sentence):
        run_models(settings_in(tmp_path, judge, **changed), QUIET)
    assert not list(tmp_path.iterdir())


def test_an_engine_without_independent_samples_is_refused(tmp_path):
    with JudgeServer(by_arrival) as judge:
        first, second, _ = settings_in(tmp_path, judge)
    check_can("one", Capabilities(samples=False), first)
    with pytest.raises(UsageError, match="does not support the independent samples that mt_bench"):
        check_can("one", Capabilities(samples=False), second)


@pytest.mark.slow
def test_greedy_categories_have_equal_answers_in_all_runs(tmp_path):
    """FastChat's temperature is 0 there; the native engine computes such an answer once.

    `plan` says how many are computed.
    """
    fields = {"tasks": (MT_BENCH.id,), "model": "tiny", "data": "sample", "limit": 8}
    fields |= {"output_path": tmp_path, "device": "cpu", "engine": "native"}
    folders = [run_suite(RunSettings(**fields, iteration=place), QUIET) for place in (0, 1)]
    computed = sum(read_run(folder)["counts"]["computed"] for folder in folders)
    plan = plan_run(RunSettings(**fields), QUIET, calibrated=False, iterations=2)
    assert plan.together.generate_requests == computed
    first, second = map(samples_of, folders)
    sampled = {"writing", "roleplay", "stem", "humanities"}
    for one, other in zip(first, second, strict=True):
        is_sampled = one["doc"]["category"] in sampled
        assert (one["resps"] != other["resps"]) == is_sampled
