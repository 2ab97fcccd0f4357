"""A plan says what a run will compute, to the token, without a model's weights."""

import json
import subprocess
import sys
from dataclasses import replace
from heapq import heapreplace

import numpy as np
import pytest
import torch

from mistral_eval.console import Talk
from mistral_eval.errors import CheckpointError, UsageError
from mistral_eval.model.export import save_hf
from mistral_eval.model.load.outline import read_outline
from mistral_eval.model.tiny import TINY_CONFIG, make_tiny, tiny_tokenizer_file
from mistral_eval.native.admission import Budget
from mistral_eval.native.work import decoding_steps
from mistral_eval.run.planning import plan_run
from mistral_eval.run.run import run_suite
from mistral_eval.settings import RunSettings
from mistral_eval.suite.registry import paper_benchmarks

CHOICES = ("mmlu", "hellaswag", "winogrande", "piqa", "arc_easy", "arc_challenge")
ALL = tuple(benchmark.id for benchmark in paper_benchmarks())
QUIET = Talk(quiet=True)


def settings(*tasks: str, **more) -> RunSettings:
    return RunSettings(
        tasks=tasks, **{"model": "tiny", "engine": "native", "data": "sample", **more}
    )


def computed(folder) -> dict:
    return json.loads((folder / "run.json").read_text())["counts"]["engine"]


@pytest.fixture(scope="module")
def suite():
    """The plan of the whole suite on the bundled sample, nothing timed."""
    return plan_run(settings(*ALL), QUIET, calibrated=False)


@pytest.mark.parametrize("name", CHOICES)
def test_a_benchmarks_prediction_is_what_its_run_computes_to_the_token(suite, tmp_path, name):
    counts = computed(run_suite(settings(name, output_path=tmp_path), QUIET))
    work = suite.benchmarks[name]
    assert counts["score_computed"] == counts["score_unique"] == work.score_unique > 0
    assert counts["score_naive"] == work.score_naive


def test_the_suites_score_requests_are_computed_together_as_predicted(suite, tmp_path):
    counts = computed(run_suite(settings(*CHOICES, output_path=tmp_path), QUIET))
    assert counts["score_computed"] == counts["score_unique"] == suite.together.score_unique
    assert counts["score_naive"] == suite.together.score_naive
    alone = sum(work.score_unique for work in suite.benchmarks.values())
    assert suite.together.score_unique < alone  # BOS at least is shared


def test_prompts_are_counted_as_the_run_counts_them(suite, tmp_path):
    """Fewer tokens may be shared than could be: what questions share beyond the block."""
    tasks = settings("nq", "triviaqa", output_path=tmp_path)
    counts = computed(run_suite(tasks, QUIET))
    together = plan_run(tasks, QUIET, calibrated=False).together
    assert counts["prompt_unique"] == together.prompt_unique
    assert counts["prompt_naive"] == together.prompt_naive
    assert 1 <= counts["prompt_computed"] / together.prompt_unique < 1.1
    assert counts["generated"] <= together.decode_most


def test_samples_are_counted_and_bounded_by_their_limit(suite):
    work = suite.benchmarks["gsm8k"]
    assert work.generate_requests == 16 * 8
    assert work.decode_most == 16 * 8 * 512
    assert work.naive / work.unique > 8


def test_a_short_calibration_gives_an_estimate_that_grows_with_the_work():
    found = plan_run(settings("winogrande", "mmlu", limit=4), QUIET)
    small, large = found.benchmarks["winogrande"], found.benchmarks["mmlu"]
    assert 0 < found.rates.seconds(small, 10, 1) < found.rates.seconds(large, 20, 2)
    assert found.as_json()["together"]["estimated_seconds"] > 0


def test_a_calibration_times_a_step_and_what_a_row_adds(tmp_path):
    found = plan_run(settings("gsm8k", limit=2, output_path=tmp_path), QUIET)
    assert found.rates.step > 0
    assert found.rates.token(8) == found.rates.decode + found.rates.step / 8
    steps = 512  # 16 replies in 16 rows, all as long as they may be
    assert found.estimate("gsm8k") == found.rates.seconds(found.together, 16 * 512, steps)


@pytest.mark.parametrize(("replies", "rows"), [(800, 92), (32, 64), (64, 64), (5, 1)])
def test_decoding_steps_are_those_of_exponential_lengths(suite, replies, rows):
    """A new reply enters when another ends, as generation does it."""
    mean, limit, found = 68.7, 512, []
    rng = np.random.default_rng(0)
    for _ in range(200):
        ends = [0] * min(rows, replies)
        for length in np.ceil(rng.exponential(mean, replies)).clip(max=limit):
            heapreplace(ends, ends[0] + int(length))
        found.append(max(ends))
    work = replace(
        suite.benchmarks["gsm8k"], generate_requests=replies, decode_most=replies * limit
    )
    budget = Budget(rows, 2048, 10**9)
    estimate = decoding_steps(work, replies * mean, budget)
    assert estimate == pytest.approx(np.mean(found), rel=0.08)
    assert decoding_steps(work, work.decode_most, budget) == pytest.approx(
        max(replies / rows, 1) * limit
    )


def test_no_more_tokens_are_in_a_pass_than_there_are(suite):
    """However many are allowed."""
    few, many = (
        plan_run(settings("arc_easy", batch_tokens=tokens), QUIET, calibrated=False)
        for tokens in (suite.benchmarks["arc_easy"].score_unique, 10**9)
    )
    assert many.peak_bytes == pytest.approx(few.peak_bytes, rel=0.01)


def test_replies_that_the_cache_has_no_room_for_wait(suite):
    work = replace(suite.benchmarks["gsm8k"], generate_requests=64, decode_most=64 * 512)
    roomy, tight = Budget(64, 2048, 64 * 512), Budget(64, 2048, 16 * 512)
    assert decoding_steps(work, work.decode_most, roomy) == 512
    assert decoding_steps(work, work.decode_most, tight) == 4 * 512


def test_the_plan_of_a_folder_needs_configuration_and_tokenizer_alone(tmp_path, suite):
    save_hf(make_tiny(), tmp_path, tokenizer_file=tiny_tokenizer_file())
    for file in tmp_path.glob("*.safetensors*"):
        file.unlink()
    cpu = torch.device("cpu")
    outline = read_outline(str(tmp_path), device=cpu)
    assert (outline.config, outline.dtype) == (TINY_CONFIG, torch.float32)
    assert read_outline(str(tmp_path), dtype="bfloat16", device=cpu).dtype == torch.bfloat16
    plan = plan_run(settings("arc_easy", model=str(tmp_path)), QUIET, calibrated=False)
    assert plan.together == suite.benchmarks["arc_easy"]


def test_a_folder_without_a_configuration_is_named(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(tiny_tokenizer_file().read_bytes())
    with pytest.raises(CheckpointError, match=r"config.json or params.json and holds neither"):
        read_outline(str(tmp_path), device=torch.device("cpu"))


def test_replies_count_with_the_length_that_earlier_runs_measured(tmp_path):
    """A reply of 8 tokens on average must not be planned with its limit."""
    asked = settings("winogrande", "nq", output_path=tmp_path)
    before = plan_run(asked, QUIET, calibrated=False)
    assert before.decoded("nq") == before.benchmarks["nq"].decode_most
    assert (before.is_measured("nq"), before.is_measured("winogrande")) == (False, True)
    run = run_suite(settings("nq", output_path=tmp_path, limit=4), QUIET)
    counts = json.loads((run / "run.json").read_text())["counts"]
    assert counts["reply_tokens"] == {"nq": round(counts["generated_tokens"] / 4, 1)}
    (tmp_path / "tiny" / "damaged").mkdir()
    (tmp_path / "tiny" / "damaged" / "run.json").write_text("{")
    after = plan_run(asked, QUIET, calibrated=False)
    assert after.reply_tokens == counts["reply_tokens"]
    assert after.decoded("nq") == pytest.approx(counts["reply_tokens"]["nq"] * 16)
    assert after.decoded("together") == after.decoded("nq") + after.decoded("winogrande")
    assert after.is_measured("together")
    assert not plan_run(
        settings("gsm8k", output_path=tmp_path), QUIET, calibrated=False
    ).reply_tokens


def test_stock_tasks_are_refused():
    with pytest.raises(UsageError, match="not stock tasks such as arc_easy"):
        plan_run(settings("lm_eval:arc_easy"), QUIET)


def test_the_command_prints_a_table_or_json(cli):
    common = ("plan", "-t", "winogrande,nq", "-m", "tiny", "--data", "sample", "--no-calibrate")
    code, out, err = cli(*common)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[2:5]] == ["winogrande", "nq", "together"]
    assert "WinoG: 16 questions" in err
    code, out, err = cli(*common, "--json", "--quiet")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert found["benchmarks"]["winogrande"]["score_requests"] == 32
    assert found["rates"] is None
    assert found["together"]["estimated_seconds"] is None


def planned(iterations, **more):
    asked = settings("mt_bench", limit=8, **more)
    return plan_run(asked, QUIET, calibrated=False, iterations=iterations)


def test_several_runs_count_a_greedy_reply_once():
    """8 questions of two turns, of which four are sampled (FastChat's temperatures)."""
    one, two, ten = (planned(iterations).together for iterations in (1, 2, 10))
    assert (one.generate_requests, two.generate_requests) == (16, 16 + 8)
    assert ten.generate_requests == 16 + 9 * 8
    assert (one.decode_most, ten.decode_most) == (16 * 1024, (16 + 9 * 8) * 1024)
    for name in ("prompt_naive", "prompt_unique"):
        step = getattr(two, name) - getattr(one, name)
        assert 0 < step < getattr(one, name)
        assert getattr(ten, name) == getattr(one, name) + 9 * step
    assert ten.cache_bytes == one.cache_bytes  # one run after the other


def test_several_runs_are_judged_anew():
    plans = [planned(iterations) for iterations in (1, 10)]
    assert [plan.judgments for plan in plans] == [16, 160]
    assert plans[1].benchmarks["mt_bench"] == plans[1].together
    assert plan_run(settings("nq", limit=2), QUIET, calibrated=False).judgments == 0


def test_workers_cost_what_each_of_several_runs_costs():
    one, two, three = (planned(iterations, workers="2").spread for iterations in (1, 2, 3))
    assert one.computed < two.computed < 2 * one.computed
    assert three.computed - two.computed == two.computed - one.computed
    assert three.seconds is None


def test_only_conversations_are_planned_several_times(cli):
    with pytest.raises(UsageError, match="--iterations repeats conversations"):
        plan_run(settings("mt_bench", "xstest"), QUIET, calibrated=False, iterations=2)
    common = ("-m", "tiny", "--data", "sample", "--no-calibrate", "--iterations", 10)
    assert cli("plan", "-t", "xstest", *common)[0] == 2
    code, out, _ = cli("plan", "-t", "mt_bench", "-L", 8, *common)
    assert code == 0
    text = " ".join(out.split())
    assert "All figures are of 10 runs together." in text
    assert "A judge, if one is given, is asked for 160 ratings." in text
    found = json.loads(cli("plan", "-t", "mt_bench", "-L", 8, *common, "--json")[1])
    assert (found["iterations"], found["judgments"]) == (10, 160)


PEAK = """
import sys
from pathlib import Path
from mistral_eval.console import Talk
from mistral_eval.record.run_record import read_record
from mistral_eval.run.planning import plan_run
from mistral_eval.run.run import run_suite
from mistral_eval.settings import RunSettings

asked = RunSettings(
    tasks=("mmlu", "gsm8k"), model="tiny", engine="native", data="sample", output_path=sys.argv[1]
)
expected = plan_run(asked, Talk(quiet=True), calibrated=False).peak_bytes
print(expected, read_record(run_suite(asked, Talk(quiet=True))).counts.engine["peak_bytes"])
"""


def test_the_peak_memory_of_a_run_is_foreseen(tmp_path):
    """In a process of its own, whose peak is the run's; most of it are libraries here."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path)], capture_output=True, check=True, text=True
    )
    expected, found = map(int, done.stdout.split())
    assert found < 1.3 * expected
    assert expected < 3 * found
