"""Measure the native engine against vLLM: same weights, same requests, alternating, CPU seconds.

    python speed/vs_vllm.py [--data DIR] [--only mmlu,gsm8k] [--dtype float32] [--rounds 2]
                            [--short] [--eager] [--spread] [--json FILE]

Needs an environment with vLLM (see docs/engines.md) and Linux. The model is a Mistral with 60
million random parameters. Each side computes on one thread; the seconds are processor seconds of
all its processes, which are reliable on a busy machine. All processes are tied to one core: vLLM's
engine process waits for its worker in a loop, which gives way to others on the same core but counts
as much as the work itself on a free one (`--spread` measures that). vLLM is asked as `--engine
vllm` asks it: one request for the letters of a question, `prompt_logprobs` for longer choices, a
seeded request for each sample; compiled, unless `--eager`, and with an empty prefix cache at the
start of each round. `mmlu, each choice` asks for `prompt_logprobs` of each choice, as lm-eval's own
vllm model does. Generations have the same limit of tokens, and each engine's own draws.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import process_time
from typing import Any

import psutil
import torch
from machine import machine
from real_requests import DATA, questions_of

from mistral_eval.bench.shapes import SHAPES
from mistral_eval.engines.interface import Engine, Request
from mistral_eval.engines.native import open_native
from mistral_eval.engines.vllm import VllmEngine
from mistral_eval.model.export import save_hf
from mistral_eval.model.load.checkpoint import Checkpoint
from mistral_eval.model.tiny import tiny_tokenizer_file
from mistral_eval.native.calibrate import random_weights
from mistral_eval.settings import RunSettings

EACH = "mmlu, each choice"
# questions asked: in full, and in the short form
QUESTIONS = {
    "mmlu": (135, 12),  # the whole of anatomy
    EACH: (20, 4),
    "arc_challenge": (100, 12),
    "gsm8k": (4, 1),
}


def open_both(folder: Path, dtype: str, *, eager: bool) -> tuple[Engine, VllmEngine]:
    """Write the random weights once and open them with both engines, one thread each."""
    torch.set_num_threads(1)
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = str(min(os.sched_getaffinity(0)))
    config = SHAPES["small"]
    weights = random_weights(config, getattr(torch, dtype), torch.device("cpu"))
    save_hf(Checkpoint(config, weights, "vs_vllm"), folder, tokenizer_file=tiny_tokenizer_file())
    args = {"max_model_len": "4096", "enforce_eager": str(eager).lower()}
    given = {"tasks": ("mmlu",), "model": str(folder), "engine": "vllm", "dtype": dtype}
    settings = RunSettings.model_validate({**given, "model_args": args})
    native = open_native(str(folder), dtype=dtype, device="cpu")
    return native, VllmEngine.open(settings, lambda *_: 0, print)


def children_seconds() -> float:
    """Return the processor seconds of this process's children, and theirs, that are alive."""
    times = [one.cpu_times() for one in psutil.Process().children(recursive=True)]
    return sum(one.user + one.system for one in times)


@contextmanager
def processor_seconds(found: list[float], *, with_children: bool) -> Iterator[None]:
    """Append the processor seconds of the `with` block."""
    began, before = process_time(), children_seconds()
    yield
    spent = process_time() - began
    found.append(spent + (children_seconds() - before if with_children else 0.0))


def measure(
    native: Engine, vllm: VllmEngine, name: str, requests: Sequence[Request], rounds: int
) -> dict[str, Any]:
    """Answer the requests with both engines in turn; return the best seconds of each."""
    ours: list[float] = []
    theirs: list[float] = []
    worst = 0.0
    vllm.port.has_among = name != EACH
    for _ in range(rounds):
        with processor_seconds(ours, with_children=False):
            expected = dict(native.answer([native.encode(one) for one in requests]))
        vllm.port.forget()
        with processor_seconds(theirs, with_children=True):
            found = dict(vllm.answer([vllm.encode(one) for one in requests]))
        if requests[0].kind == "score":
            off = (abs(found[n].logprob - expected[n].logprob) for n in expected)
            worst = max(worst, *off)
    return {
        "benchmark": name,
        "requests": len(requests),
        "native": min(ours),
        "vllm": min(theirs),
        "ratio": min(theirs) / min(ours),
        "difference": worst if requests[0].kind == "score" else None,
    }


def main() -> None:
    """Parse the arguments, measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", default=DATA)
    parser.add_argument("--only", default=",".join(QUESTIONS))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--spread", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not options.spread:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    names = [name for name in QUESTIONS if name.partition(",")[0] in options.only.split(",")]
    print(f"{machine()}, {datetime.now(UTC):%Y-%m-%d}, {options.dtype}, one thread, CPU seconds")
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        native, vllm = open_both(Path(folder), options.dtype, eager=options.eager)
        for name in names:
            count = QUESTIONS[name][options.short]
            questions = questions_of(name.partition(",")[0], options.data, count)
            requests = [one for question in questions for one in question]
            line = measure(native, vllm, name, requests, options.rounds)
            lines.append(line)
            print("{benchmark:18} {native:8.2f} {vllm:8.2f} {ratio:6.2f}x".format(**line), end="")
            print("" if line["difference"] is None else f"  {line['difference']:.1e}", flush=True)
        vllm.port.close()
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "lines": lines}, indent=2))


if __name__ == "__main__":
    main()
