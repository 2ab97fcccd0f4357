"""The same run by two builds of mistral_eval, by turns: CPU seconds, peak memory, decoding steps.

    python speed/builds.py --before DIR [--rounds N] [--threads N] -- RUN-OPTIONS

DIR is a checkout of the other build; both run with this Python and its packages. RUN-OPTIONS are
those of `mistral-eval run`, e.g. `--tasks gsm8k --limit 100 --model FILE --data DIR`. Each round
runs both builds, each into a new folder. CPU seconds are those of the process and its children,
from start to end, so that they count loading, building, answering and judging; "answer" is wall
time of the answer phase alone. Prints a line a run, then the ratio of the sums, and last one JSON
document.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import machine

HERE = Path(__file__).resolve().parents[1]


def measured(checkout: Path, options: list[str], threads: int) -> dict[str, Any]:
    """Run one build in a process of its own; return its costs and counts.

    Raises:
        SystemExit: the run failed; its last lines are shown.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "PYTHONPATH": str(checkout),
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
        }
        command = [sys.executable, "-m", "mistral_eval", "run", *options, "--output-path", folder]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            command, cwd=checkout, env=environment, capture_output=True, text=True, check=False
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise SystemExit(f"{checkout}: the run failed.\n{done.stderr[-2000:]}")
        [file] = Path(folder).rglob("run.json")
        run = json.loads(file.read_text(encoding="utf-8"))
    counters = run["counts"].get("engine", {})
    cpu = sum(getattr(after, name) - getattr(before, name) for name in ("ru_utime", "ru_stime"))
    steps, rows = counters.get("decode_steps"), counters.get("decode_rows")
    return {
        "cpu": round(cpu, 1),
        "answer": run["seconds"].get("answer"),
        "peak_mb": round(counters.get("peak_bytes", 0) / 1e6),
        "generated": counters.get("generated"),
        "steps": steps,
        "of_ideal": round(steps * rows / counters["generated"], 3) if steps and rows else None,
        "scores": {name: cell.get("value") for name, cell in run["scores"].items()},
    }


def main() -> None:
    """Run both builds by turns and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("options", nargs="+", help="options of `mistral-eval run`, after --")
    args = parser.parse_args()
    runs: dict[str, list[dict[str, Any]]] = {"before": [], "now": []}
    for _ in range(args.rounds):
        for name, checkout in (("before", args.before.resolve()), ("now", HERE)):
            runs[name].append(measured(checkout, args.options, args.threads))
            print(name, runs[name][-1], flush=True)
    cpu = {name: sum(run["cpu"] for run in each) for name, each in runs.items()}
    ratio = cpu["before"] / cpu["now"]
    print(f"CPU seconds, before over now: {ratio:.2f}  ({machine()})")
    print(json.dumps({"machine": machine(), "options": args.options, "ratio": ratio, **runs}))


if __name__ == "__main__":
    main()
