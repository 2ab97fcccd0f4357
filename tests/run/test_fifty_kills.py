"""SIGKILL at fifty moments of all phases: each time the run goes on, and it comes to the same bits.

The killing is done by kill_driver.py, which says how; here is what must have come of it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mistral_eval.sandbox import probe
from tests.processes import marked

DRIVER = Path(__file__).with_name("kill_driver.py")
SEED = 20261126
CHOICES, DRAWN, CODE = ("mmlu", "arc_easy", "winogrande"), ("nq", "gsm8k"), ("mbpp",)
KILLS, BATCH = 50, 16  # the driver's
PHASES = {"building", "loading", "scoring", "generating", "judging", "saving"}
REQUESTS = 4 * (4 + 4 + 2) + 4 + 4 * 8  # choices, nq, gsm8k's samples
MARK = "MISTRAL_EVAL_TEST_OF_KILLS"


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """The folder of all runs, number 0 undisturbed, and the driver's report."""
    folder = tmp_path_factory.mktemp("kills")
    tasks = (*CHOICES, *DRAWN, *(CODE if probe("auto").available else ()))
    done = subprocess.run(
        [sys.executable, DRIVER, folder, str(SEED), ",".join(tasks)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", MARK: str(folder)},
        check=False,
    )
    said = (folder / "said.log").read_text()
    assert done.returncode == 0, f"{done.stderr}\n{said[-3000:]}"
    report = json.loads((folder / "report.json").read_text())
    hits = Counter((one["phase"], one["by"]) for one in report["attempts"] if one["code"] < 0)
    print(f"seed {SEED}, {len(report['attempts'])} attempts, kills: {dict(hits)}")
    return folder, report


def outcome(output: Path) -> dict[str, Any]:
    """Scores, every line of the samples (texts, answers, verdicts), and the log's replies."""
    (run,) = output.rglob("run.json")
    logs = [file.read_bytes() for file in output.rglob("replies/*.jsonl")]
    lines = [json.loads(line) for log in logs for line in log.split(b"\n")[:-1]]
    replies = [(line["key"], json.dumps(line["reply"])) for line in lines]
    assert len({key for key, _ in replies}) == len(replies)
    return {
        "scores": json.loads(run.read_text())["scores"],
        "samples": {
            name.rpartition("_")[0]: lines
            for name, lines in sorted(
                (path.name, path.read_text()) for path in output.rglob("samples_*.jsonl")
            )
        },
        "replies": dict(replies),  # JSON: ids, texts, and log-likelihoods to the last digit
    }


def latest(output: Path) -> None:
    """Take away the samples that an attempt wrote which was killed before its run.json."""
    (run,) = output.rglob("run.json")
    stamp = json.loads(run.read_text())["results_file"].removeprefix("results_")[:-5]
    for path in output.rglob("samples_*.jsonl"):
        if stamp not in path.name:
            path.unlink()


@pytest.mark.slow
def test_fifty_kills_fell_into_all_phases(killed):
    _, report = killed
    hits = [one for one in report["attempts"] if one["code"] == -signal.SIGKILL]
    assert len(hits) == KILLS
    by_phase = Counter(one["phase"] for one in hits)
    assert set(by_phase) == PHASES
    assert min(by_phase.values()) >= 3, by_phase
    assert min(Counter(one["by"] for one in hits).values()) >= 10
    assert all(one["code"] in (0, -signal.SIGKILL) for one in report["attempts"])


@pytest.mark.slow
def test_every_killed_run_ends_as_the_undisturbed_one(killed):
    """Scores, verdicts, texts and ids; and log-likelihoods, which would be allowed 1e-5."""
    folder, report = killed
    undisturbed = outcome(folder / "0")
    assert len(undisturbed["replies"]) >= REQUESTS
    runs = sorted({one["run"] for one in report["attempts"]} - {0})
    assert len(runs) >= 5
    for run in runs:
        latest(folder / str(run))
        assert outcome(folder / str(run)) == undisturbed


@pytest.mark.slow
def test_no_reply_that_was_durable_is_lost_or_computed_again(killed):
    """So nothing is computed twice but what was on its way when the kill came: one batch."""
    _, report = killed
    twice, lost = 0, 0
    for one in report["attempts"]:
        before, computed, after = map(set, (one["before"], one["computed"], one["after"]))
        assert len(computed) == len(one["computed"])
        assert not computed & before
        assert before <= after <= before | computed
        lost += len(computed - after)
        assert len(computed - after) <= (BATCH if one["code"] else 0)
    for run in {one["run"] for one in report["attempts"]}:
        of_run = [key for one in report["attempts"] if one["run"] == run for key in one["computed"]]
        twice += len(of_run) - len(set(of_run))
    print(f"lost at kills and computed again: {lost} replies")
    assert twice == lost


@pytest.mark.slow
def test_no_attempt_leaves_a_traceback_or_a_process(killed):
    folder, _ = killed
    said = (folder / "said.log").read_text()
    assert "Traceback" not in said
    for _ in range(600):
        left = marked(f"{MARK}={folder}")
        if not left:
            return
        time.sleep(0.1)
    pytest.fail(f"still there: {left}")
