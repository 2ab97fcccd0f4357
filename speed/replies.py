"""What the replies log costs: 200,000 requests alone, and its share of a whole run.

    python speed/replies.py [--data DIR]

The replies of the first part are those of a run: mostly scores, some texts with their ids. The
second part is `mistral-eval run -t paper --engine random` over the real test sets, the run in which
answering costs least, with the log's calls timed inside the process: writes (`put`, its batches and
`close`), and all work of the log (keys, look-ups and opening as well). DIR is a folder in
the hub's layout, by default `shared/data` beside the checkout; without it the second part is left
out. Prints one line a figure, and last one JSON document.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import machine

from mistral_eval.console import Talk
from mistral_eval.engines.keys import reply_key, request_key
from mistral_eval.record.replies import RepliesLog
from mistral_eval.record.run_record import read_run
from mistral_eval.run import answering
from mistral_eval.run.run import run_suite
from mistral_eval.settings import RunSettings
from mistral_eval.suite.registry import parse_tasks

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
REQUESTS = 200_000
CONTEXT = tuple(range(200))  # token ids of a prompt, which the key holds
WRITES = ("put", "flush", "close")  # `put` flushes when it is time


def reply(number: int) -> dict[str, object]:
    """A score; every tenth a text of 60 tokens."""
    if number % 10:
        return {"logprob": -number / 7, "is_greedy": False}
    return {"text": "a word " * 60, "ids": list(range(number, number + 60)), "finish": "stop"}


def alone() -> dict[str, Any]:
    """Key, put, look up, open again: seconds and megabytes."""
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        start = time.perf_counter()
        keys = [request_key("model", "score", CONTEXT, (n,)) for n in range(REQUESTS)]
        seconds["keys"] = time.perf_counter() - start
        replies = [reply(n) for n in range(REQUESTS)]
        start = time.perf_counter()
        with RepliesLog(path) as log:
            for key, one in zip(keys, replies, strict=True):
                log.put(key, one)
        seconds["put and close"] = time.perf_counter() - start
        start = time.perf_counter()
        with RepliesLog(path) as log:
            seconds["open and check"] = time.perf_counter() - start
            start = time.perf_counter()
            found = log.lookup(keys)
            seconds["look up all"] = time.perf_counter() - start
        if len(found) != REQUESTS:
            raise SystemExit(f"only {len(found)} of {REQUESTS} replies came back")
        megabytes = sum(f.stat().st_size for f in path.rglob("*.jsonl")) / 1e6
    for name, value in seconds.items():
        print(f"{name:15} {value:7.2f} s")
    print(f"{'size':15} {megabytes:7.1f} MB")
    return {
        "requests": REQUESTS,
        "megabytes": round(megabytes, 1),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }


class Spent:
    """Seconds in each of the log's calls; a call made inside another is part of that one."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._is_inside = False

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, its time counted under a name."""

        def counted(*arguments: Any, **named: Any) -> Any:
            if self._is_inside:
                return call(*arguments, **named)
            self._is_inside = True
            start = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                self.seconds[name] += time.perf_counter() - start
                self._is_inside = False

        return counted


def share(data: Path) -> dict[str, Any]:
    """A whole run of the random engine, and what of it the replies log took."""
    spent = Spent()
    for method in ("__init__", "lookup", *WRITES):
        setattr(RepliesLog, method, spent.timed(method, getattr(RepliesLog, method)))
    setattr(answering, "reply_key", spent.timed("keys", reply_key))  # noqa: B010 - not exported
    with tempfile.TemporaryDirectory() as folder:
        settings = RunSettings(
            tasks=parse_tasks("paper"), engine="random", data=str(data), output_path=Path(folder)
        )
        wall, cpu = time.perf_counter(), time.process_time()
        run = run_suite(settings, Talk(quiet=True))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        replies = read_run(run)["counts"]["computed"]
    writes = sum(spent.seconds[name] for name in WRITES)
    work = sum(spent.seconds.values())
    print(f"whole run: {wall:.1f} s ({cpu:.1f} s of CPU in this process), {replies} replies")
    print(f"writes: {writes:.2f} s, {100 * writes / wall:.1f} % of it")
    print(f"all work of the log: {work:.2f} s, {100 * work / wall:.1f} % of it")
    return {
        "replies": replies,
        "run_seconds": round(wall, 2),
        "run_cpu_seconds": round(cpu, 2),
        "log_seconds": {name: round(value, 3) for name, value in spent.seconds.items()},
        "share_of_writes": round(writes / wall, 4),
        "share_of_log": round(work / wall, 4),
    }


def main() -> None:
    """Measure both parts and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=BESIDE)
    options = parser.parse_args()
    print(f"machine: {machine()}")
    figures = alone()
    if options.data.is_dir():
        figures["run"] = share(options.data)
    else:
        print(f"No share measured: {options.data} should hold the real test sets.")
    print(f"machine: {machine()}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
