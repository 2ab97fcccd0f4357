"""A run with workers: the same table, replies and folder as without."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from mistral_eval.console import Talk
from mistral_eval.errors import UsageError
from mistral_eval.record.replies import Replies
from mistral_eval.run.planning import plan_run
from mistral_eval.run.run import rescore, run_suite
from mistral_eval.settings import RunSettings
from tests.processes import marked

QUIET = Talk(quiet=True)
TASKS = ("mmlu", "piqa", "triviaqa", "gsm8k")


def settings(output, **more):
    given = {"tasks": TASKS, "model": "tiny", "data": "sample", "limit": 4, "device": "cpu"}
    return RunSettings(**{**given, "output_path": output, **more})


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run_suite(settings(tmp_path_factory.mktemp("alone")), QUIET)


@pytest.fixture(scope="module")
def spread(tmp_path_factory):
    output = tmp_path_factory.mktemp("spread")
    return run_suite(settings(output, workers="3", verify=3), QUIET)


def replies_of(folder):
    log = Replies(folder)
    return log.lookup(list(log._places))


def test_a_run_with_workers_has_the_replies_and_the_table_of_one_without(alone, spread):
    one, many = replies_of(alone), replies_of(spread)
    assert one.keys() == many.keys()
    for key, reply in one.items():
        if "text" in reply:
            assert many[key] == reply
        else:
            assert many[key]["logprob"] == pytest.approx(reply["logprob"], abs=1e-5)
            assert many[key]["is_greedy"] == reply["is_greedy"]
    assert (spread / "table.md").read_text() == (alone / "table.md").read_text()
    assert spread.name == alone.name  # the run id does not depend on the workers


def test_counts_are_those_of_all_workers(alone, spread):
    one, many = (
        json.loads((folder / "run.json").read_text())["counts"] for folder in (alone, spread)
    )
    assert many["computed"] == one["computed"]
    ours, theirs = many["engine"], one["engine"]
    for name in ("score_unique", "score_naive", "prompt_naive", "generated"):
        assert ours[name] == theirs[name], name
    assert ours["score_computed"] >= theirs["score_computed"] == theirs["score_unique"]
    verified = json.loads((spread / "run.json").read_text())["verify"]
    assert sum(verified["requests"].values()) >= 3
    assert verified["largest_difference"] <= verified["tolerance"]


def test_a_run_with_workers_is_rescored_without_them(spread):
    before = (spread / "table.md").read_text()
    rescore(spread, QUIET, unsafe_code=False)
    assert (spread / "table.md").read_text() == before


def test_a_stopped_run_goes_on_with_another_number_of_workers(alone, tmp_path):
    command = [sys.executable, "-m", "mistral_eval", "run", "-t", ",".join(TASKS), "-m", "tiny"]
    command += ["--data", "sample", "-L", "4", "--device", "cpu", "-o", str(tmp_path), "--quiet"]
    process = subprocess.Popen(
        [*command, "--workers", "2"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "MISTRAL_EVAL_TEST": str(tmp_path)},
    )
    mark = f"MISTRAL_EVAL_TEST={tmp_path}"
    deadline, most = time.monotonic() + 240, 0
    while not any(file.stat().st_size for file in tmp_path.glob("*/*/replies/*.jsonl")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        most = max(most, len(marked(mark)))
        time.sleep(0.02)
    assert most >= 4  # the driver, the process that forks, two workers
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=240)
    assert process.returncode in (0, 130), said
    (folder,) = tmp_path.glob("*/*")
    kept = len(replies_of(folder))
    assert kept
    if process.returncode:
        assert re.search(r"Stopped by SIGINT. \d+ replies are in", said)
    again = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert again.returncode == 0, again.stderr
    run = json.loads((folder / "run.json").read_text())
    assert run["counts"]["computed"] + run["counts"]["from_log"] == len(replies_of(alone))
    assert run["counts"]["from_log"] >= kept or process.returncode == 0
    deadline = time.monotonic() + 30
    while marked(mark):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"engine": "oracle", "workers": "2"}, "--engine oracle has no model"),
        (
            {
                "engine": "server",
                "workers": "2",
                "base_url": "http://127.0.0.1:1/v1",
                "device": "auto",
            },
            "--engine server has its own workers",
        ),
        ({"workers": "0"}, "--workers: expected a number from 1 up, auto or ray://ADDRESS"),
        ({"workers": "many"}, "found 'many'"),
        ({"workers": "ray://"}, "found 'ray://'"),
        ({"workers": "ray://auto/many"}, "found 'ray://auto/many'"),
        ({"workers": "ray://auto/0"}, "found 'ray://auto/0'"),
    ],
)
def test_workers_that_cannot_be_are_refused(tmp_path, more, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        run_suite(settings(tmp_path, **more), QUIET)


def test_one_worker_is_no_cluster(tmp_path):
    folder = run_suite(settings(tmp_path, tasks=("piqa",), workers="1"), QUIET)
    assert json.loads((folder / "run.json").read_text())["settings"]["workers"] == "1"


def test_plan_says_what_workers_cost(tmp_path):
    found = plan_run(settings(tmp_path, workers="4", engine="native"), QUIET, calibrated=False)
    assert found.spread.workers == 4
    assert found.spread.computed >= found.together.unique
    assert found.spread.seconds is None
    assert plan_run(settings(tmp_path, engine="native"), QUIET, calibrated=False).spread is None
