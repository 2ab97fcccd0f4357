"""Measure whether the cost of scoring is proportional to its unique tokens, on parts of MMLU.

    python speed/scaling.py [--data DIR] [--limits N,N,...] [--short] [--threads N] [--cpu]

Each line is one scoring run with random weights in float32 at the 60-million-parameter shape of
`vs_lm_eval.py`, over that many questions of MMLU, chosen as `--limit` chooses them (`all` for the
whole test set). Building and encoding the requests is not timed; building the prefix tree is.
`--short` takes few questions; `--cpu` measures CPU seconds. "Spread" is the highest cost per token
over the lowest, minus one; the goal is 20 %. Tokens behind longer prompts attend to more keys:
"MFLOP a token" is the useful arithmetic that the engine counts, and GFLOP/s its rate.
"""

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from time import perf_counter, process_time

import torch
from machine import machine
from real_requests import DATA
from vs_lm_eval import CONFIG

from mistral_eval.data import make_source
from mistral_eval.engines.interface import EngineIdentity
from mistral_eval.engines.native_encoder import NativeEncoder
from mistral_eval.model.tiny import tiny_tokenizer_file
from mistral_eval.model.tokenizers.tokenizer import load_tokenizer
from mistral_eval.native.calibrate import random_weights
from mistral_eval.native.choose_products import choose_ways
from mistral_eval.native.requests import ScoreRequest
from mistral_eval.native.runner import ModelRunner
from mistral_eval.run.planned_requests import requests_of
from mistral_eval.run.questions import Asking, load_benchmarks

LIMITS, SHORT = "100,1000,all", "20,60"


@dataclass(frozen=True, slots=True)
class Line:
    """One run: tokens as `hf` would feed them and as computed, useful FLOP, seconds."""

    limit: str
    questions: int
    naive: int
    unique: int
    flop: int
    seconds: float

    @property
    def microseconds(self) -> float:
        """Microseconds per unique token."""
        return 1e6 * self.seconds / self.unique


def requests(limit: str, data: str) -> list[ScoreRequest]:
    """Return the score requests of `limit` questions of MMLU, in Mistral's v1 ids."""
    tokenizer = load_tokenizer(tiny_tokenizer_file(), expected_vocab=CONFIG.vocab_size)
    encoder = NativeEncoder(tokenizer, CONFIG.context_len, 0, EngineIdentity("scaling"))
    count = None if limit == "all" else int(limit)
    asking = Asking(make_source(data), count, None, unpinned=False)
    (loaded,) = load_benchmarks(("mmlu",), asking)
    return requests_of(loaded, encoder).scores


def measure(limit: str, data: str, clock: Callable[[], float]) -> Line:
    """Score `limit` questions with a new engine, after scoring a few to warm up."""
    asked = requests(limit, data)
    weights = random_weights(CONFIG, torch.float32, torch.device("cpu"))
    ways = choose_ways(CONFIG, torch.float32, torch.device("cpu"))
    engine = ModelRunner(CONFIG, weights, n_words=CONFIG.vocab_size, eos_ids=(2,), ways=ways)
    for _ in engine.score(asked[:4]):
        pass
    stats = engine.stats
    before = stats.score_naive, stats.score_computed, stats.score_flop
    start = clock()
    replies = sum(1 for _ in engine.score(asked))
    seconds = clock() - start
    assert replies == len(asked), f"{replies} replies to {len(asked)} requests"
    return Line(
        limit,
        len(asked) // 4,
        stats.score_naive - before[0],
        stats.score_computed - before[1],
        stats.score_flop - before[2],
        seconds,
    )


def main() -> None:
    """Measure each limit and print each line as soon as it is known."""
    parser = argparse.ArgumentParser(description="seconds per unique token of MMLU")
    parser.add_argument("--data", default=DATA)
    parser.add_argument("--limits", help=f"questions, or all; by default {LIMITS}")
    parser.add_argument("--short", action="store_true", help=f"the limits {SHORT}")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--cpu", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    clock, name = (process_time, "CPU") if chosen.cpu else (perf_counter, "wall-clock")
    where, lines = machine(), []
    print(f"{where}, {chosen.threads} thread(s), {name} seconds\n")
    head = "limit | questions | tokens of `hf` | unique | MFLOP a token | seconds | µs a unique"
    print(f"| {head} | GFLOP/s |\n|{' --: |' * 8}")
    for limit in (chosen.limits or (SHORT if chosen.short else LIMITS)).split(","):
        line = measure(limit, chosen.data, clock)
        lines.append(line)
        print(
            f"| {line.limit} | {line.questions:,} | {line.naive:,} | {line.unique:,} "
            f"| {line.flop / line.unique / 1e6:.1f} | {line.seconds:.1f} "
            f"| {line.microseconds:.1f} | {line.flop / line.seconds / 1e9:.0f} |",
            flush=True,
        )
    costs = [line.microseconds for line in lines]
    spread = max(costs) / min(costs) - 1
    print(f"\nspread {100 * spread:.0f} %")
    found = [{**asdict(line), "microseconds": line.microseconds} for line in lines]
    print(json.dumps({"machine": where, "clock": name, "spread": spread, "lines": found}))


if __name__ == "__main__":
    main()
