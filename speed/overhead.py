"""Measure what a run costs without a model: build and score MMLU's requests, here and in lm-eval.

    python speed/overhead.py [--data DIR] [--short]

The peer is lm-eval's own `mmlu` task with five shots over the same rows, with its `dummy` model.
Only `evaluate` is timed, so loading tasks and rows does not count against it. Ours is what
`mistral-eval run -t mmlu --engine random` does up to the verdicts: read and fingerprint the rows,
build the requests, answer them through the replies log, judge. DIR is a folder in the hub's
layout, by default `shared/data` beside the checkout. `--short` takes six subjects of the peer and
as many questions of ours. CPU seconds are given too, because they are more reliable on a busy
machine.
"""

import argparse
import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import lm_eval.utils
from lm_eval.evaluator import evaluate
from lm_eval.models.dummy import DummyLM
from lm_eval.tasks import TaskManager
from machine import machine

from mistral_eval.data import make_source
from mistral_eval.engines.model_free import Random
from mistral_eval.record.replies import RepliesLog
from mistral_eval.run.answering import Answering
from mistral_eval.run.judging import judge_benchmark
from mistral_eval.run.questions import Asking, load_benchmarks
from mistral_eval.suite.benchmark import JudgeContext

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
SPLITS = ("test", "validation", "dev")
SHOTS = 5  # as `--num_fewshot 5`
SHORT = ("anatomy", "astronomy", "marketing", "philosophy", "virology", "world_religions")


@dataclass(frozen=True, slots=True)
class Measured:
    """Number of questions and the seconds they took."""

    questions: int
    wall: float
    cpu: float

    def __str__(self) -> str:
        each = 1000 * self.wall / self.questions
        return (
            f"{self.wall:.2f} s ({self.cpu:.2f} s of CPU) for {self.questions} questions, "
            f"{each:.2f} ms each"
        )


def timed(work: Callable[[], int]) -> Measured:
    """Time `work`, which returns its number of questions."""
    wall, cpu = time.perf_counter(), time.process_time()
    questions = work()
    return Measured(questions, time.perf_counter() - wall, time.process_time() - cpu)


def stock(data: Path, subjects: tuple[str, ...]) -> Measured:
    """Time lm-eval's own evaluation; its tasks read our files instead of the hub."""
    assert lm_eval.utils.apply_template.__module__ == "lm_eval.utils", "measure stock first"
    load = datasets.load_dataset
    datasets.load_dataset = _from_folder(load, data)
    try:
        loaded = TaskManager().load([f"mmlu_{subject}" for subject in subjects] or ["mmlu"])
    finally:
        datasets.load_dataset = load
    for task in loaded["tasks"].values():
        task.set_config(key="num_fewshot", value=SHOTS)
        task.set_fewshot_seed(seed=1234)  # lm-eval's default

    def work() -> int:
        results = evaluate(DummyLM(), loaded, bootstrap_iters=0)
        return sum(part["effective"] for part in results["n-samples"].values())

    return timed(work)


def ours(data: Path, questions: int | None) -> Measured:
    """The same through our harness, with a replies log that is thrown away."""

    def work() -> int:
        asking = Asking(make_source(str(data)), questions, None, unpinned=False)
        (loaded,) = load_benchmarks(["mmlu"], asking)
        found = iter(Answering(Random(0), log).answer(loaded.requests))
        replies = [
            [(reply.logprob, reply.is_greedy) for reply in islice(found, len(question.requests))]
            for question in loaded.questions
        ]
        return len(judge_benchmark(loaded, replies, JudgeContext()).questions)

    with (
        tempfile.TemporaryDirectory(prefix="mistral-eval-overhead-") as folder,
        RepliesLog(Path(folder)) as log,
    ):
        return timed(work)


def _from_folder(load: Callable[..., Any], data: Path) -> Callable[..., Any]:
    """Return a `load_dataset` for cais/mmlu that reads a folder's parquet files."""

    def from_folder(path: str, name: str | None = None, **_: Any) -> Any:
        assert path == "cais/mmlu", path
        files = {split: str(data / "mmlu" / str(name) / f"{split}.parquet") for split in SPLITS}
        return load("parquet", data_files=files)

    return from_folder


def main() -> None:
    """Measure both and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=BESIDE)
    parser.add_argument("--short", action="store_true", help="under a minute")
    options = parser.parse_args()
    if not (options.data / "mmlu").is_dir():
        print(f"Nothing measured: {options.data} should hold mmlu/<subject>/<split>.parquet.")
        raise SystemExit(0 if options.data == BESIDE else 1)
    logging.disable(logging.WARNING)
    datasets.disable_progress_bars()
    print(f"machine: {machine()}")
    theirs = stock(options.data, SHORT if options.short else ())
    mine = ours(options.data, theirs.questions if options.short else None)
    print(f"stock lm-eval, dummy: {theirs}")
    print(f"mistral-eval, random: {mine}")
    print(f"ratio: {theirs.wall / mine.wall:.1f} (CPU: {theirs.cpu / mine.cpu:.1f})")
    print(f"machine: {machine()}")


if __name__ == "__main__":
    main()
