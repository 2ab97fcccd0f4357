"""run.json says how fast the native engine was; the machine is measured where that is worth it."""

import json
from pathlib import Path

import pytest

from mistral_eval.console import Talk
from mistral_eval.engines import native as speed
from mistral_eval.record.run_record import read_record
from mistral_eval.report.html import provenance
from mistral_eval.run.run import rescore, run_suite
from mistral_eval.settings import RunSettings


def run(output: Path, *tasks: str, **settings) -> dict:
    chosen = {"model": "tiny", "data": "sample", "limit": 2, "device": "cpu", **settings}
    folder = run_suite(RunSettings(tasks=tasks, output_path=output, **chosen), Talk(quiet=True))
    return {"folder": folder, **json.loads((folder / "run.json").read_text())}


def test_a_short_run_has_its_speed_without_the_machines(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "matrix_rate", pytest.fail)
    found = run(tmp_path, "winogrande", "nq")
    counts = found["counts"]["engine"]
    scored, generated = found["speed"]["score"], found["speed"]["generate"]
    seconds = counts["score_seconds"], counts["generate_seconds"]
    assert found["speed"]["matrix_flop_per_second"] is None
    assert scored["tokens_per_second"] == pytest.approx(counts["score_computed"] / seconds[0])
    assert scored["flop_per_second"] == pytest.approx(counts["score_flop"] / seconds[0])
    drawn, read = "decoded_tokens_per_second", "prompt_tokens_per_second"
    assert generated[drawn] == pytest.approx(counts["generated"] / seconds[1])
    assert generated[read] == pytest.approx(counts["prompt_computed"] / seconds[1])
    assert generated["flop_per_second"] == pytest.approx(counts["generate_flop"] / seconds[1])
    assert (scored["share"], generated["share"]) == (None, None)


def test_a_long_run_is_a_share_of_the_machines_matrix_rate(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "MEASURED_FROM", 0.0)
    found = run(tmp_path, "winogrande")
    rate, scored = found["speed"]["matrix_flop_per_second"], found["speed"]["score"]
    assert rate > 0
    assert scored["share"] == pytest.approx(scored["flop_per_second"] / rate)
    assert found["speed"]["generate"] == dict.fromkeys(found["speed"]["generate"])
    shown = {
        row[0]: row[1] for row in provenance.speed([read_record(found["folder"])], ["tiny"]).rows
    }
    assert shown["share of the matrix rate scoring, %"] == f"{100 * scored['share']:,.1f}"
    assert "share of the matrix rate generating, %" not in shown


def test_judging_again_keeps_the_speed_of_who_computed(tmp_path):
    found = run(tmp_path, "winogrande")
    rescore(found["folder"], Talk(quiet=True), unsafe_code=False)
    again = json.loads((found["folder"] / "run.json").read_text())
    assert again["speed"] == found["speed"]


def test_other_engines_have_no_speed(tmp_path):
    assert run(tmp_path, "winogrande", engine="random")["speed"] is None
