"""Measure the requests of the paper's suite and their prefix tree: seconds and peak memory.

    python speed/tree.py DATA [--json] [--compute]

DATA is the folder with the parquet test sets; the tokenizer is Mistral's v1. Each step runs in its
own process, so that its peak memory can be measured: `requests` builds and encodes every request
of the twelve benchmarks, `scores` also builds the tree of all score requests, `prompts` also
counts the tree of all prompts. `--compute` runs all score requests on the engine with a one-layer
model, benchmark by benchmark and all together, and compares the computed tokens with the unique
ones.
"""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from time import perf_counter, process_time

import torch

from mistral_eval.data import make_source
from mistral_eval.engines.interface import EngineIdentity
from mistral_eval.engines.native_encoder import NativeEncoder
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.load.outline import read_outline
from mistral_eval.model.memory import peak_bytes
from mistral_eval.native.calibrate import random_weights
from mistral_eval.native.clusters import unique_tokens
from mistral_eval.native.requests import GenerateRequest, ScoreRequest
from mistral_eval.native.runner import ModelRunner
from mistral_eval.native.tree import build_tree
from mistral_eval.run.planned_requests import requests_of
from mistral_eval.run.questions import Asking, load_benchmarks
from mistral_eval.suite.registry import SUITES

STEPS = ("requests", "scores", "prompts")
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Measured:
    """One process: CPU seconds of building its requests and of the step; peak memory."""

    step: str
    requests: int
    tokens: int
    unique: int
    request_seconds: float
    seconds: float
    cpu_seconds: float
    peak_mib: float


def gather(
    data: str, names: tuple[str, ...] = SUITES["paper"]
) -> tuple[list[ScoreRequest], list[GenerateRequest]]:
    """Return all requests of some benchmarks, in token ids."""
    outline = read_outline("tiny", device=torch.device("cpu"))
    encoder = NativeEncoder(
        outline.tokenizer, outline.config.context_len, 0, EngineIdentity("tree")
    )
    asking = Asking(make_source(data), None, None, unpinned=False)
    scores: list[ScoreRequest] = []
    generations: list[GenerateRequest] = []
    for benchmark in load_benchmarks(names, asking):
        found = requests_of(benchmark, encoder)
        scores += found.scores
        generations += found.generations
    return scores, generations


def measure(step: str, data: str) -> Measured:
    """Run one step in this process."""
    start = process_time()
    scores, generations = gather(data)
    built = process_time()
    tokens = sum(len(r.context) + len(r.continuation) - 1 for r in scores)
    tokens += sum(len(r.prompt) for r in generations)
    unique = 0
    begin, busy = perf_counter(), process_time()
    if step == "scores":
        tree = build_tree(scores)
        tokens, unique = tree.naive_tokens, len(tree.tokens)
    elif step == "prompts":
        tokens, unique = sum(len(r.prompt) for r in generations), unique_tokens(generations)
    end, idle = perf_counter(), process_time()
    peak = peak_bytes() / 2**20
    count = {"requests": len(scores) + len(generations), "scores": len(scores)}
    return Measured(
        step=step,
        requests=count.get(step, len(generations)),
        tokens=tokens,
        unique=unique,
        request_seconds=built - start,
        seconds=end - begin,
        cpu_seconds=idle - busy,
        peak_mib=peak,
    )


THIN = ModelConfig(
    dim=16,
    n_layers=1,
    head_dim=8,
    hidden_dim=16,
    n_heads=2,
    n_kv_heads=1,
    norm_eps=1e-5,
    vocab_size=32000,
    rope_theta=10000.0,
    context_len=8192,
    sliding_window=(4096,),
)


def compute(data: str) -> None:
    """Print computed and unique tokens of each benchmark's scores, and of all together."""
    weights = random_weights(THIN, torch.float32, torch.device("cpu"))
    by_benchmark = {name: gather(data, (name,))[0] for name in SUITES["paper"]}
    asked = {name: scores for name, scores in by_benchmark.items() if scores}
    asked["together"] = [score for scores in asked.values() for score in scores]
    print("| scores of | requests | computed | unique | ratio | seconds |")
    print("| :-- | --: | --: | --: | --: | --: |")
    for name, scores in asked.items():
        engine = ModelRunner(THIN, weights, n_words=32000, eos_ids=(2,))
        begin = perf_counter()
        answered = sum(1 for _ in engine.score(scores))
        stats, seconds = engine.stats, perf_counter() - begin
        assert answered == len(scores), f"{answered} of {len(scores)} were answered"
        ratio = stats.score_computed / stats.score_unique
        print(
            f"| {name} | {answered:,} | {stats.score_computed:,} | {stats.score_unique:,} "
            f"| {ratio:.4f} | {seconds:.0f} |",
            flush=True,
        )


def main() -> None:
    """Start one process per step and print what each measured."""
    data, flags = sys.argv[1], sys.argv[2:]
    if flags[:1] == ["--step"]:
        print(json.dumps(asdict(measure(flags[1], data))))
        return
    if "--compute" in flags:
        compute(data)
        return
    found = []
    for step in STEPS:
        command = [sys.executable, __file__, data, "--step", step]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found.append(Measured(**json.loads(done.stdout.splitlines()[-1])))
    if "--json" in flags:
        print(json.dumps([asdict(one) for one in found], indent=2))
        return
    print(
        "| step | requests | tokens | unique | requests, CPU s | step, s (CPU) | peak, MiB |\n"
        "| :-- | --: | --: | --: | --: | --: | --: |"
    )
    for one in found:
        print(
            f"| {one.step} | {one.requests:,} | {one.tokens:,} | {one.unique or ''} "
            f"| {one.request_seconds:.1f} | {one.seconds:.1f} ({one.cpu_seconds:.1f}) "
            f"| {one.peak_mib:,.0f} |"
        )


if __name__ == "__main__":
    main()
