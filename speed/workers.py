"""Two workers of one thread against one process of two threads, by turns.

    python speed/workers.py --model FILE [--rounds 2] [--questions 16] [--workers 2] [--tasks gsm8k]

Scores ARC-Challenge's choices and generates GSM8K's votes on a real checkpoint, both through the
engine that a run would use, after it has been opened and has answered a question. FILE is a
checkpoint, e.g. the one that `make trained` fetches. `--data DIR` takes whole test sets instead of
the bundled sample. Prints wall time and CPU seconds of all processes, the ratios, and the share of
the CPU seconds that the driver takes. Last comes one JSON document.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from time import perf_counter

from machine import machine

from mistral_eval.data import make_source
from mistral_eval.engines.auto import open_by_name
from mistral_eval.engines.cluster.engine import ClusterEngine
from mistral_eval.engines.cluster.local_pool import LocalPool
from mistral_eval.engines.interface import Request
from mistral_eval.run.questions import Asking, load_benchmarks
from mistral_eval.settings import RunSettings

TASKS = {"arc_challenge": 4, "gsm8k": 1}  # how many questions count as one of `--questions`


def no_gold(request: Request, right: bool) -> str | int:  # noqa: FBT001
    """Fail: no oracle is opened here."""
    raise AssertionError((request, right))


def cpu(who: int) -> float:
    """Return CPU seconds of this process or its ended children."""
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def of_children(pids: list[int]) -> float:
    """Return CPU seconds of living processes."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(given: argparse.Namespace) -> None:
    """Answer in this process, or with workers, and print wall time and CPU seconds by task."""
    settings = RunSettings(
        tasks=tuple(given.tasks.split(",")),
        model=given.model,
        engine="native",
        device="cpu",
        dtype="float32",
        data=given.data,
        workers=str(given.workers) if given.workers > 1 else None,
    )
    open_ = ClusterEngine.open if settings.workers else open_by_name
    engine = open_(settings, no_gold, lambda _: None)
    found = {}
    for task in settings.tasks:
        asking = Asking(
            make_source(given.data), given.questions * TASKS[task], None, unpinned=False
        )
        (loaded,) = load_benchmarks([task], asking)
        requests = loaded.requests
        encoded = [engine.encode(request) for request in requests]
        warm = encoded[: 2 * given.workers * len(loaded.questions[0].requests)]
        list(engine.answer(warm))
        pids = []
        if isinstance(engine, ClusterEngine):
            pool = engine._team.pool  # noqa: SLF001
            assert isinstance(pool, LocalPool), pool
            pids = list(pool._pids.values())  # noqa: SLF001
        start, own, others = perf_counter(), cpu(resource.RUSAGE_SELF), of_children(pids)
        list(engine.answer(encoded))
        wall = perf_counter() - start
        driver = cpu(resource.RUSAGE_SELF) - own
        found[task] = [wall, driver, of_children(pids) - others]
    engine.close()
    print(json.dumps(found))


def main() -> None:
    """Measure both sides by turns."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", default="sample")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        measure(given)
        return
    sides = {"one process": (1, given.workers), "workers": (given.workers, 1)}
    sums: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0] * 3))
    for _ in range(given.rounds):
        for side, (workers, threads) in sides.items():
            command = [sys.executable, __file__, "--here", "--model", given.model]
            command += ["--data", given.data, "--questions", str(given.questions)]
            command += ["--tasks", given.tasks]
            done = subprocess.run(
                [*command, "--workers", str(workers)],
                env={**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            for task, values in json.loads(done.stdout.splitlines()[-1]).items():
                wall, driver, others = values
                print(
                    f"{side:12} {task:14} {wall:7.1f} s, {driver + others:7.1f} s of CPU",
                    flush=True,
                )
                sums[task][side] = [a + b for a, b in zip(sums[task][side], values, strict=True)]
    for task, by_side in sums.items():
        (wall, driver, others), alone = by_side["workers"], by_side["one process"]
        print(
            f"{task}: {alone[0] / wall:.2f} times the throughput of one process, "
            f"{sum(alone[1:]) / (driver + others):.2f} times less CPU time; the driver takes "
            f"{100 * driver / (driver + others):.1f} % of it"
        )
    print(json.dumps({"machine": machine(), "seconds": {k: dict(v) for k, v in sums.items()}}))


if __name__ == "__main__":
    main()
