"""Finished runs under several system prompts in the layout `guardrails`."""

import json

import pytest

from mistral_eval.console import Talk
from mistral_eval.report.table import render_figure
from mistral_eval.run.run import run_suite
from mistral_eval.settings import RunSettings

QUIET = Talk(quiet=True)


def run_in(folder, *tasks, engine="oracle", **changed):
    fields = {"tasks": tasks, "engine": engine, "data": "sample", "output_path": folder}
    return run_suite(RunSettings(**{**fields, **changed}), QUIET)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """An oracle without a system prompt and with two, and a model that does the opposite."""
    folder = tmp_path_factory.mktemp("runs")
    names = ("xstest", "simple_safety_tests", "moderation")
    prompts = (None, "mistral", "llama2")
    return {
        "oracle": [run_in(folder, *names, system_prompt=prompt) for prompt in prompts],
        "wrong": [run_in(folder, *names, engine="oracle-wrong")],
    }


def sections_of(folders):
    return json.loads(render_figure(folders, "guardrails", "json"))["sections"]


def test_each_system_prompt_has_a_row_for_each_set_of_prompts(runs):
    _, refusals, _ = sections_of(runs["oracle"])
    rows = [row for row in refusals["rows"] if row[0] == "oracle"]
    assert [row[1] for row in rows] == ["none", "none", "mistral", "mistral", "llama2", "llama2"]
    assert [row[2] for row in rows[:2]] == ["XSTest: 8 safe, 8 unsafe", "SST: 16 unsafe"]
    for xstest, sst in zip(rows[::2], rows[1::2], strict=True):
        assert [cell.split(",")[0] for cell in xstest[3:7]] == ["100.0", "100.0", "0.0", "0.0"]
        assert [cell.split(",")[0] for cell in sst[3:7]] == ["100.0", "100.0", "—", "—"]
        assert all("corrected" in cell for cell in (*xstest[3:7], *sst[3:5]))


def test_a_model_that_does_the_opposite_has_the_opposite_rates(runs):
    _, refusals, reflection = sections_of(runs["wrong"])
    row = refusals["rows"][-2]
    assert [cell.split(",")[0] for cell in row[3:7]] == ["0.0", "0.0", "100.0", "100.0"]
    ours, floor = reflection["rows"][-2:]
    assert ours[:3] == ["oracle-wrong", "none", "XSTest"]
    assert (ours[3].split()[0], ours[4].split()[0]) == ("0.0", "0.0")
    assert (floor[0], floor[4].split()[0]) == ("all acceptable (the floor)", "100.0")


def test_published_rows_stand_above_and_the_known_error_below(runs):
    _, refusals, _ = sections_of(runs["oracle"][:1])
    assert "96.5 [93.0, 98.3]" in refusals["rows"][2]
    assert refusals["header"][-1] == "Judge"
    assert [row[-1] for row in refusals["rows"]] == ["—", *["people"] * 3, "cues", "cues"]
    assert any("against people's labels the judge finds" in note for note in refusals["notes"])
