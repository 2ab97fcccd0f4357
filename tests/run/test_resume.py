"""A run that was killed goes on where it stopped, and comes to the same."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = "from mistral_eval.cli.app import main; main()"
# a small budget: one reply after the other, so that a kill falls between two of them
OPTIONS = ("run", "-t", "winogrande,gsm8k", "-m", "tiny", "--data", "sample", "-L", "12", "--quiet")
SLOWLY = ("--batch-tokens", "8")


def command(output: Path, *more: str) -> list[str]:
    return [sys.executable, "-c", PROGRAM, *OPTIONS, "-o", str(output), *more]


def replies(output: Path) -> int:
    """How many replies are in the log; 0 while there is none yet."""
    return sum(file.read_bytes().count(b"\n") for file in output.rglob("replies/*.jsonl"))


def outcome(output: Path) -> tuple[dict, dict, dict]:
    """Scores, all results and all replies of the one run in `output`."""
    (run,) = output.rglob("run.json")
    (results,) = output.rglob("results_*.json")
    samples = {
        file.name.rpartition("_")[0]: [json.loads(line)["resps"] for line in file.open()]
        for file in output.rglob("samples_gsm8k_*.jsonl")
    }
    return json.loads(run.read_text()), json.loads(results.read_text())["results"], samples


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_was_stopped_in_the_middle_of_generating_ends_as_an_undisturbed_one(
    tmp_path, kind
):
    stopped, undisturbed = tmp_path / "stopped", tmp_path / "undisturbed"
    process = subprocess.Popen(
        command(stopped, *SLOWLY), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    scored, drawn = 24, 96  # winogrande's choices, gsm8k's samples
    while replies(stopped) <= scored and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, kind)
    out, err = process.communicate(timeout=300)
    known = replies(stopped)
    assert scored < known < scored + drawn, "the kill should fall in the middle; change OPTIONS"
    assert out == ""
    if kind == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        (log,) = stopped.rglob("replies")
        again = shlex.join(["mistral-eval", *command(stopped, *SLOWLY)[3:]])
        assert process.returncode == 128 + kind
        assert err == (
            f"mistral-eval: Stopped by {kind.name}. {known} replies are in {log}; "
            f"the same command resumes from there.\n  {again}\n"
        )
    assert not list(stopped.rglob("run.json"))

    subprocess.run(command(stopped), check=True, capture_output=True, timeout=500)
    subprocess.run(command(undisturbed), check=True, capture_output=True, timeout=500)
    run, results, samples = outcome(stopped)
    other_run, other_results, other_samples = outcome(undisturbed)
    assert run["counts"]["from_log"] == known
    assert run["counts"]["computed"] == scored + drawn - known
    assert other_run["counts"]["from_log"] == 0
    assert run["scores"] == other_run["scores"]
    assert results == other_results
    assert samples == other_samples
