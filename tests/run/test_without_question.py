"""Choices scored a second time without their question: asked, kept, shown and judged again."""

import json
from pathlib import Path

import pytest

import mistral_eval
from mistral_eval.console import Talk
from mistral_eval.data import make_source
from mistral_eval.record.comparison import compare_against
from mistral_eval.record.run_folder import RUN_FILE
from mistral_eval.record.run_record import read_record
from mistral_eval.record.sample_files import halves_of, load_samples, read_rows, sample_files
from mistral_eval.report.html.bundle import bundle
from mistral_eval.report.sample_pages import Wanted, as_text, chosen
from mistral_eval.run.planning import plan_run
from mistral_eval.run.questions import Asking, load_benchmarks
from mistral_eval.run.run import rescore, run_suite
from mistral_eval.run.task_pages import task_page
from mistral_eval.settings import RunSettings
from mistral_eval.suite.registry import BENCHMARKS, BY_ID
from tests.report.html.test_bundle import unpacked

TASKS = tuple(one.id for one in BENCHMARKS if one.unconditional is not None)
QUIET = Talk(quiet=True)


def settings(output: Path, *tasks: str, **more) -> RunSettings:
    chosen = {"model": "tiny", "engine": "native", "data": "sample", **more}
    return RunSettings(tasks=tasks, output_path=output, **chosen)


def loaded_sample(name: str):
    (loaded,) = load_benchmarks([name], Asking(make_source("sample"), None, None, unpinned=False))
    return loaded


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return run_suite(settings(tmp_path_factory.mktemp("runs"), *TASKS), QUIET)


def rows_of(run: Path, name: str) -> list[dict]:
    return list(read_rows(sample_files(read_record(run), run)[name]))


@pytest.mark.parametrize("name", TASKS)
def test_each_choice_is_asked_after_its_question_and_after_the_neutral_context(name):
    benchmark = BY_ID[name]
    for question in loaded_sample(name).questions:
        asked, alone = benchmark.halves(question.requests)
        assert len(asked) == len(alone) == len(benchmark.gold(question.doc).texts)
        assert {request.context for request in alone} == {"Answer:"}
        assert [r.continuation for r in alone] == [r.continuation for r in asked]
        assert [r.choice for r in question.requests] == list(range(len(question.requests)))


def test_what_questions_share_is_computed_once(run):
    """Two choices without any question are two requests, however many questions have them."""
    requests = [request for name in TASKS for request in loaded_sample(name).requests]
    distinct = {(request.context, request.continuation) for request in requests}
    assert json.loads((run / RUN_FILE).read_text())["counts"]["computed"] == len(distinct)
    assert len(requests) - len(distinct) >= 15 * 2  # BoolQ's "no" and "yes", of sixteen questions


def test_a_plan_counts_what_the_run_computes(run, tmp_path):
    counts = read_record(run).counts.engine
    work = plan_run(settings(tmp_path, *TASKS), QUIET, calibrated=False).together
    assert counts["score_computed"] == counts["score_unique"] == work.score_unique > 0
    assert counts["score_naive"] == work.score_naive


@pytest.mark.parametrize("name", TASKS)
def test_the_cell_is_the_largest_gain_over_the_neutral_context(run, name):
    """Counted here from the samples file, without the judge."""
    right, plain = 0, 0
    rows = rows_of(run, name)
    for row in rows:
        asked, alone = halves_of(name, row)
        logprobs = [logprob for _, logprob in asked]
        gains = [logprob - without for logprob, without in zip(logprobs, alone, strict=True)]
        gold = BY_ID[name].gold(row["doc"]).index
        right += gains.index(max(gains)) == gold
        plain += logprobs.index(max(logprobs)) == gold
    cell = read_record(run).scores[name]
    assert cell.correct == right
    assert cell.secondary["acc"] == pytest.approx(100 * plain / len(rows))


def test_equal_requests_have_equal_replies_in_every_question(run):
    name = "boolq"  # whose choices are the same in every question
    assert len({tuple(halves_of(name, row)[1]) for row in rows_of(run, name)}) == 1


def test_a_run_is_rescored_to_the_same_cells(run):
    before = read_record(run).scores
    rescore(run, QUIET, unsafe_code=False)
    assert read_record(run).scores == before


@pytest.mark.parametrize("name", TASKS)
def test_a_question_is_shown_with_each_choice_once_and_both_likelihoods(run, name):
    rows = rows_of(run, name)
    shown = list(chosen(run, Wanted(tasks=(name,))))
    frame = mistral_eval.load_run(run).samples.query("benchmark == @name")
    found = bundle(name, [sample_files(read_record(run), run)[name]])
    assert (found.index["relative"], found.index["normalised"]) == (True, False)
    packed = [question for chunk in found.chunks for question in unpacked(chunk)]
    assert len(rows) == len(shown) == len(frame) == len(packed) == 16
    for row, page, logprobs, question in zip(rows, shown, frame.logprobs, packed, strict=True):
        asked, alone = halves_of(name, row)
        expected = [logprob for _, logprob in asked]
        assert [choice["text"] for choice in page["choices"]] == [one["arg_1"] for one, _ in asked]
        assert [choice["logprob"] for choice in page["choices"]] == logprobs == expected
        assert [choice["without_question"] for choice in page["choices"]] == alone
        assert f"without the question {alone[0]:.3f}:" in as_text(page)
        *_, more, (answer,) = question
        assert more["c"] == [one["arg_1"] for one, _ in asked]
        assert "d" not in more  # the choices have one prompt
        assert answer[4:] == [pytest.approx(expected, abs=1e-3), pytest.approx(alone, abs=1e-3)]


@pytest.mark.parametrize("name", TASKS)
def test_the_protocol_s_page_says_what_is_asked_besides(name):
    page = task_page(name)
    (question, *_) = loaded_sample(name).questions
    for text in BY_ID[name].gold(question.doc).texts:
        assert page.splitlines().count(repr(f" {text}")) == 1
    assert page.endswith("The same continuations, scored after 'Answer:' alone.")


def test_two_runs_are_compared(run, tmp_path):
    other = run_suite(settings(tmp_path, *TASKS, engine="random"), QUIET)
    reference, random = load_samples([run, other])
    (comparison,) = compare_against(reference, [random])
    assert [one.id for one in comparison.benchmarks] == list(TASKS)


@pytest.mark.parametrize(("engine", "value"), [("oracle", 100.0), ("oracle-wrong", 0.0)])
def test_an_oracle_s_second_answers_do_not_change_its_score(tmp_path, engine, value):
    done = read_record(run_suite(settings(tmp_path, *TASKS, engine=engine), QUIET))
    for cell in done.scores.values():
        assert {cell.value, *cell.secondary.values()} == {value}
