"""Measure scoring's share of the machine's matrix rate: useful arithmetic per second on MMLU.

    python speed/rate.py [--data DIR] [--shapes base,wide] [--dtypes float32,bfloat16]
                         [--questions N] [--batch-tokens N] [--threads N] [--cpu]
                         [--profile] [--json FILE]

Scores MMLU's anatomy, five shots, in Mistral's v1 ids, on the native engine with random weights.
Useful arithmetic is counted by `mistral_eval.native.requests.Flops`: linear layers, attention over
visible keys, LM head over requested rows. Seconds are those of the best of three passes over all
requests, including building the prefix tree, excluding encoding. The matrix rate is that of square
products in the same dtype, measured just before and just after; the larger value is used, so that
a busy minute cannot improve the result. `--cpu` measures CPU seconds, which are more reliable on a
busy machine, on one thread. `--profile` adds one pass under torch's profiler. Shapes: `base` (60
million parameters, as in `vs_lm_eval.py`), `wide` (393 million, narrow and deep) and `tiny`, which
only shows that the program works.
"""

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter, process_time

import torch
from machine import machine
from real_requests import DATA, questions_of
from torch.profiler import ProfilerActivity, profile

from mistral_eval.bench.shapes import SHAPES
from mistral_eval.engines.interface import EngineIdentity
from mistral_eval.engines.native_encoder import NativeEncoder
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.load.stored import DTYPES
from mistral_eval.model.tiny import tiny_tokenizer_file
from mistral_eval.model.tokenizers.tokenizer import load_tokenizer
from mistral_eval.native.calibrate import matrix_rate, random_weights
from mistral_eval.native.choose_products import choose_ways
from mistral_eval.native.requests import ScoreRequest
from mistral_eval.native.runner import ModelRunner

CPU = torch.device("cpu")
WIDE = replace(
    SHAPES["small"],
    dim=1024,
    n_layers=24,
    hidden_dim=3584,
    n_heads=16,
    n_kv_heads=4,
    sliding_window=(4096,) * 24,
)
CONFIGS = {"base": SHAPES["small"], "wide": WIDE, "tiny": SHAPES["tiny"]}
QUESTIONS = {"base": 135, "wide": 60, "tiny": 8}  # 135: the whole of anatomy
PASSES = 3
# per cent of the matrix rate: what is aimed at, and what must not be undercut
AIMS = {
    ("base", "float32"): (70, 50),
    ("wide", "float32"): (80, 65),
    ("base", "bfloat16"): (50, 35),
    ("wide", "bfloat16"): (50, 35),
}
TOP = 12  # lines of a profile
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Line:
    """One shape in one dtype: tokens computed, useful FLOP, and the seconds of each pass.

    `matrix_rate` is in FLOP per second; `goal` and `floor` are percentages of it, None where none
    is set.
    """

    shape: str
    dtype: str
    questions: int
    tokens: int
    flop: int
    passes: tuple[float, ...]
    matrix_rate: float
    goal: int | None
    floor: int | None

    @property
    def seconds(self) -> float:
        """Seconds of the best pass."""
        return min(self.passes)

    @property
    def rate(self) -> float:
        """Useful FLOP per second."""
        return self.flop / self.seconds

    @property
    def share(self) -> float:
        """Rate as a share of the matrix rate."""
        return self.rate / self.matrix_rate


def requests_of(config: ModelConfig, data: str, count: int) -> list[ScoreRequest]:
    """The score requests of so many questions of MMLU, in Mistral's v1 ids."""
    tokenizer = load_tokenizer(tiny_tokenizer_file(), expected_vocab=config.vocab_size)
    encoder = NativeEncoder(tokenizer, config.context_len, 0, EngineIdentity("rate"))
    questions = questions_of("mmlu", data, count)
    return [encoder.encode(one).work for asked in questions for one in asked]


def open_engine(config: ModelConfig, dtype: torch.dtype, batch_tokens: int | None) -> ModelRunner:
    """The engine with random weights; EOS plays no part in scoring."""
    weights = random_weights(config, dtype, CPU)
    return ModelRunner(
        config,
        weights,
        n_words=config.vocab_size,
        eos_ids=(2,),
        batch_tokens=batch_tokens,
        ways=choose_ways(config, dtype, CPU),
    )


def timed_pass(engine: ModelRunner, requests: list[ScoreRequest], clock: Clock) -> float:
    """Return the seconds that scoring all requests takes."""
    start = clock()
    for _ in engine.score(requests):
        pass
    return clock() - start


def measure(shape: str, dtype: str, chosen: argparse.Namespace) -> Line:
    """Measure one shape in one dtype, and print its profile if asked to."""
    config, clock = CONFIGS[shape], process_time if chosen.cpu else perf_counter
    count = chosen.questions or QUESTIONS[shape]
    requests = requests_of(config, chosen.data, count)
    engine = open_engine(config, DTYPES[dtype], chosen.batch_tokens)
    timed_pass(engine, requests[: max(4, len(requests) // 8)], clock)  # the first is slow
    before = matrix_rate(DTYPES[dtype], CPU, seconds=1.0, clock=clock)
    flop, tokens = engine.stats.score_flop, engine.stats.score_computed
    passes = tuple(timed_pass(engine, requests, clock) for _ in range(PASSES))
    flop, tokens = engine.stats.score_flop - flop, engine.stats.score_computed - tokens
    after = matrix_rate(DTYPES[dtype], CPU, seconds=1.0, clock=clock)
    if chosen.profile:
        print(f"\n{shape}, {dtype}:", end=" ")
        print_profile(engine, requests)
    goal, floor = AIMS.get((shape, dtype), (None, None))
    return Line(
        shape,
        dtype,
        len(requests) // 4,  # choices
        tokens // PASSES,
        flop // PASSES,
        passes,
        max(before, after),
        goal,
        floor,
    )


def print_profile(engine: ModelRunner, requests: list[ScoreRequest]) -> None:
    """Print where one pass spends its time: torch's operators by self CPU time, and the rest.

    The rest is Python, NumPy and torch's dispatch; the profiler makes each call slower, so it is an
    upper bound. All are wall-clock seconds, whichever clock timed the pass. With several threads,
    an operator's time is that of the calling thread.
    """
    with profile(activities=[ProfilerActivity.CPU]) as found:
        seconds = timed_pass(engine, requests, perf_counter)
    events = sorted(found.key_averages(), key=lambda one: one.self_cpu_time_total, reverse=True)
    inside = sum(one.self_cpu_time_total for one in events) / 1e6
    print(f"{seconds:.2f} s of the clock profiled, {inside:.2f} s of it in operators")
    print(f"Python and the way into torch: {seconds - inside:.2f} s\n")
    print("| operator | own CPU, s | share of operators | calls |\n| :-- | --: | --: | --: |")
    for one in events[:TOP]:
        own = one.self_cpu_time_total / 1e6
        print(f"| {one.key} | {own:.3f} | {100 * own / inside:.1f} % | {one.count} |")
    print()


def row(line: Line) -> str:
    """A line of the table in Markdown."""
    aims = " | ".join("" if aim is None else f"{aim} %" for aim in (line.goal, line.floor))
    return (
        f"| {line.shape} | {line.dtype} | {line.questions} | {line.tokens} | {line.seconds:.2f} "
        f"| {line.rate / 1e9:.0f} | {line.matrix_rate / 1e9:.0f} | {100 * line.share:.0f} % "
        f"| {aims} |"
    )


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="share of the matrix rate while scoring MMLU")
    parser.add_argument("--data", default=DATA)
    parser.add_argument("--shapes", default="base,wide", help=f"of {', '.join(CONFIGS)}")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--questions", type=int, help="135 of base, 60 of wide")
    parser.add_argument("--batch-tokens", type=int)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--cpu", action="store_true", help="count seconds of CPU")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    """Measure shape after shape and print the table."""
    chosen = read_options()
    torch.set_num_threads(chosen.threads)
    clock = "CPU" if chosen.cpu else "wall-clock"
    where = f"{machine()}, {chosen.threads} threads, {clock} seconds"
    print(where, flush=True)
    lines = [
        measure(shape, dtype, chosen)
        for shape in chosen.shapes.split(",")
        for dtype in chosen.dtypes.split(",")
    ]
    head = "shape | dtype | questions | tokens | s | GFLOP/s | matrix rate | share | goal | floor"
    print(f"\n| {head} |\n| :-- | :-- |{' --: |' * 8}")
    print(*map(row, lines), sep="\n")
    if chosen.json:
        found = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": where,
            "batch_tokens": chosen.batch_tokens,
            "lines": [
                {**asdict(line), "seconds": line.seconds, "rate": line.rate, "share": line.share}
                for line in lines
            ],
        }
        chosen.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
