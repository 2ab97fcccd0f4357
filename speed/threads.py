"""One thread, two that spin, and two that wait: CPU seconds and wall time, by turns.

    python speed/threads.py [--busy N] [--rounds N]

Scores 300 requests on the shape `mini` (four layers, random weights, float32), each time in a
process of its own, since how threads wait is read when torch is loaded (`cli/app.py` sets it).
With `--busy N`, N further processes compute all the time, so that cores are shared. Prints a line a
measurement, then the ratios to one thread, and last one JSON document.
"""

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from time import perf_counter, process_time

from machine import machine

CASES = {"one thread": ("1", "PASSIVE"), "two, spinning": ("2", "ACTIVE")}
CASES |= {"two, waiting": ("2", "PASSIVE")}
BUSY = "while True: sum(range(10**6))"


def measure() -> None:
    """Score in this process and print CPU seconds and wall time."""
    import torch

    from mistral_eval.bench.shapes import SHAPES
    from mistral_eval.native.calibrate import random_weights
    from mistral_eval.native.requests import ScoreRequest
    from mistral_eval.native.runner import ModelRunner

    config = SHAPES["mini"]
    weights = random_weights(config, torch.float32, torch.device("cpu"))
    runner = ModelRunner(config, weights, n_words=config.vocab_size, eos_ids=(2,))
    shared = tuple(range(3, 200))
    requests = [ScoreRequest((*shared, 300 + n, 301, n + 3), (5, 6, 7)) for n in range(300)]
    list(runner.score(requests[:20]))
    wall, cpu = perf_counter(), process_time()
    list(runner.score(requests))
    print(json.dumps([process_time() - cpu, perf_counter() - wall]))


def main() -> None:
    """Measure all cases by turns."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--busy", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        measure()
        return
    found: dict[str, list[list[float]]] = defaultdict(list)
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(args.busy)]
    try:
        for _ in range(args.rounds):
            for name, (threads, policy) in CASES.items():
                settings = {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": policy}
                done = subprocess.run(
                    [sys.executable, __file__, "--here"],
                    env={**os.environ, **settings},
                    capture_output=True,
                    text=True,
                    check=True,
                )
                cpu, wall = json.loads(done.stdout.splitlines()[-1])
                found[name].append([round(cpu, 2), round(wall, 2)])
                print(f"{name:14} {cpu:6.1f} s of CPU {wall:6.1f} s", flush=True)
    finally:
        for other in others:
            other.kill()
            other.wait()
    base = [sum(column) for column in zip(*found["one thread"], strict=True)]
    for name, each in found.items():
        cpu, wall = (sum(column) for column in zip(*each, strict=True))
        print(f"{name}: {cpu / base[0]:.2f} of its CPU time, {base[1] / wall:.2f} times as fast")
    print(json.dumps({"machine": machine(), "busy": args.busy, "runs": found}))


if __name__ == "__main__":
    main()
