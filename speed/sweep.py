"""Measure a sweep over checkpoints of tiny against a run of the command for each.

    python speed/sweep.py [--checkpoints 5] [--rounds 3] [--tasks TASKS] [--limit N]

Each round runs the command once per checkpoint and then `sweep` over all, with new results folders
and one thread. CPU seconds are those of the processes and their children, and are what counts on a
busy machine. The scores of both ways must be equal.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import machine

from mistral_eval.model.export import save_hf
from mistral_eval.model.tiny import make_tiny, tiny_tokenizer_file


@dataclass(frozen=True, slots=True)
class Spent:
    """Wall and CPU seconds."""

    wall: float
    cpu: float


def save_checkpoints(folder: Path, count: int) -> list[Path]:
    """Write tiny models of several seeds as checkpoints of one training."""
    places = [folder / f"checkpoint-{100 * number}" for number in range(1, count + 1)]
    for seed, place in enumerate(places):
        save_hf(make_tiny(seed), place, tokenizer_file=tiny_tokenizer_file() if not seed else None)
        for file in places[0].glob("tokenizer*"):
            if place != places[0]:
                shutil.copyfile(file, place / file.name)
    return places


def started(arguments: Sequence[object]) -> Spent:
    """Run the command line and return what it took.

    Raises:
        SystemExit: it failed.
    """
    began, before = time.perf_counter(), _children()
    command = [sys.executable, "-m", "mistral_eval", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    if done.returncode:
        print(done.stderr.decode())
        raise SystemExit(1)
    return Spent(time.perf_counter() - began, _children() - before)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def scores(folder: Path) -> dict[str, Any]:
    """Return each checkpoint's scores in a results folder."""
    runs = [json.loads(file.read_text()) for file in folder.rglob("run.json")]
    return {run["settings"]["model"]: run["scores"] for run in runs}


def main() -> None:
    """Measure both ways, alternating, and print each round and the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--checkpoints", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", default="paper")
    parser.add_argument("--limit", type=int, default=4)
    options = parser.parse_args()
    chosen = ("-t", options.tasks, "-L", options.limit, "--data", "sample", "--quiet")
    print(f"machine: {machine()}")
    found: dict[str, list[Spent]] = {"runs": [], "sweep": []}
    with tempfile.TemporaryDirectory(prefix="mistral-eval-sweep-") as name:
        places = save_checkpoints(Path(name) / "training", options.checkpoints)
        for number in range(options.rounds):
            apart, together = (Path(name) / f"{way}-{number}" for way in found)
            each = [started(("run", "-m", one, *chosen, "-o", apart)) for one in places]
            found["runs"].append(Spent(sum(s.wall for s in each), sum(s.cpu for s in each)))
            found["sweep"].append(started(("sweep", *places, *chosen, "-o", together)))
            assert scores(apart) == scores(together), "the same scores either way"
            for way, spent in found.items():
                print(f"{way}: {spent[-1].cpu:.1f} s of CPU, {spent[-1].wall:.1f} s")
    cpu, wall = (
        [statistics.median(getattr(one, kind) for one in spent) for spent in found.values()]
        for kind in ("cpu", "wall")
    )
    print(f"runs : sweep = {cpu[0] / cpu[1]:.2f} in CPU seconds, {wall[0] / wall[1]:.2f} in time")
    print(f"machine: {machine()}")


if __name__ == "__main__":
    main()
