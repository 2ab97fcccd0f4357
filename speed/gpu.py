"""Measure a 7B model on a GPU: the native engine against lm-eval's `hf` model, in a given time.

    python speed/gpu.py [--minutes 8] [--only mmlu,hellaswag,gsm8k] [--data DIR] [--json FILE]
                        [--shape 7b|small|tiny] [--device cuda|cpu] [--dtype NAME]
                        [--questions N] [--new-tokens N] [--batches N,N,...]

Both engines hold the same random tensors (`both_engines.py`) and get the same requests: MMLU in
the test set's order, HellaSwag, and GSM8K with eight samples per question. Each benchmark gets its
share of the minutes. A few questions warm up both engines and find `hf`'s best batch size; then
the number of questions grows while it fits in the time. Each step is a line, printed and written
as soon as it is known, so a run that is cut off still leaves figures. The last line of a benchmark
counts.

"ours" and "hf" are seconds from text to answers. "apart" is the largest difference between two
log-likelihoods in nats, "a token" the largest difference per token. In 16 bits `hf` also rounds
its log-probabilities; "exact" is the largest difference over the warm-up questions with its
softmax in float32. Tokens (unique ones of prompts and choices, and decoded ones) and FLOP per
second are the native engine's, over its own seconds. They are also given as shares of the matrix
rate, measured before and after (the larger value), and of the card's data sheet. Generated text is
not compared, because each engine draws its own noise.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from both_engines import Apart, Both, open_both
from machine import machine
from real_requests import DATA, questions_of
from vs_lm_eval import ask_hf, ask_native

from mistral_eval.bench.shapes import SHAPES
from mistral_eval.engines.interface import Request
from mistral_eval.model.load.stored import DTYPES

FIRST = {"mmlu": 128, "hellaswag": 32, "gsm8k": 16}  # questions of the first line on a GPU
FIRST_ON_CPU = 2
BATCHES = {"cuda": "8,32,128", "cpu": "1,4"}
GROWTH, LEAST_GROWTH = 4, 1.5
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Line:
    """One step of a benchmark. Rates are in FLOP per second, memory in bytes.

    `unique` counts the prompt and choice tokens that the native engine computes, `fed` those that
    `hf` does. `decoded` counts the native engine's generated tokens, `decoded_most` the largest
    number that either may generate. `apart` and `exact` are None for generations, `sheet_rate` if
    the card or the dtype is not listed.
    """

    benchmark: str
    questions: int
    requests: int
    ours: float
    hf: float
    batch_size: int
    engine_seconds: float
    unique: int
    fed: int
    decoded: int
    decoded_most: int
    flop: int
    matrix_rate: float
    sheet_rate: float | None
    apart: Apart | None
    exact: Apart | None
    ours_bytes: int
    hf_bytes: int
    batch_tokens: int
    halvings: int

    @property
    def ratio(self) -> float:
        """Seconds of `hf` over ours."""
        return self.hf / self.ours

    @property
    def rate(self) -> float:
        """Useful FLOP per second of the native engine."""
        return self.flop / self.engine_seconds


@dataclass(frozen=True, slots=True)
class Ready:
    """A benchmark after its warm-up."""

    name: str
    questions: list[list[Request]]
    first: int
    batch_size: int
    exact: Apart | None


def warm_up(name: str, both: Both, chosen: argparse.Namespace) -> Ready:
    """Load the benchmark, run some of it through both, and find `hf`'s best batch size."""
    questions = questions_of(
        name, chosen.data, chosen.questions, subjects={}, new_tokens=chosen.new_tokens
    )
    first = FIRST[name] if both.device.type == "cuda" else FIRST_ON_CPU
    some = list(chain(*questions[:first]))
    sizes = [int(size) for size in chosen.batches.split(",")]
    ours, exact = ask_native(both.native, some), None
    ask_hf(both.hf, some[:1], 1)
    if not is_generated(some):
        both.hf.softmax_dtype = torch.float32
        exact = both.apart(some, ours, ask_hf(both.hf, some, min(sizes)))
        both.hf.softmax_dtype = None  # lm-eval's default
    tried = [max(sizes)] if is_generated(some) else sizes  # decoding is fastest with most rows
    found = [both.hf_asked(some, size) for size in tried]
    batch_size = min(found, key=lambda one: one[0].seconds)[1]
    return Ready(name, questions, min(first, len(questions)), batch_size, exact)


def is_generated(requests: Sequence[Request]) -> bool:
    """Return whether the requests are generations, not scores."""
    return requests[0].kind == "generate"


def compare(ready: Ready, count: int, batch_size: int, both: Both) -> Line:
    """Run `count` questions through both engines, ours first."""
    requests = list(chain(*ready.questions[:count]))
    generated, stats = is_generated(requests), both.native.runner.stats
    rate, before = both.matrix_rate(), asdict(stats)
    ours = both.asked(partial(ask_native, both.native, requests))
    spent = {name: value - before[name] for name, value in asdict(stats).items()}
    theirs, batch_size = both.hf_asked(requests, batch_size)
    kind, part = ("generate", "prompt") if generated else ("score", "score")
    limits = [one.generation.max_tokens for one in requests] if generated else []
    return Line(
        benchmark=ready.name,
        questions=count,
        requests=len(requests),
        ours=ours.seconds,
        hf=theirs.seconds,
        batch_size=batch_size,
        engine_seconds=spent[f"{kind}_seconds"],
        unique=spent[f"{part}_unique"],
        fed=spent[f"{part}_naive"],
        decoded=spent["generated"],
        decoded_most=sum(limits),
        flop=spent[f"{kind}_flop"],
        matrix_rate=max(rate, both.matrix_rate()),
        sheet_rate=both.sheet_rate(),
        apart=None if generated else both.apart(requests, ours.answers, theirs.answers),
        exact=ready.exact,
        ours_bytes=ours.peak_bytes,
        hf_bytes=theirs.peak_bytes,
        batch_tokens=both.native.runner.batch_tokens,
        halvings=spent["halvings"],
    )


def lines_of(name: str, both: Both, chosen: argparse.Namespace, until: float) -> Iterator[Line]:
    """Yield lines for a growing number of questions, while they fit before `until`."""
    ready = warm_up(name, both, chosen)
    count, batch_size = ready.first, ready.batch_size
    while True:
        line = compare(ready, count, batch_size, both)
        yield line
        batch_size = line.batch_size
        each = (line.ours + line.hf) / count
        fit = int(0.9 * (until - perf_counter()) / each)
        more = min(len(ready.questions), GROWTH * count, fit)
        if more < LEAST_GROWTH * count:
            return
        count = more


HEAD = (
    *("benchmark", "questions", "ours, s", "hf, s", "hf's batch", "ratio", "tokens/s"),
    *("decoded/s", "TFLOP/s", "of matrix rate", "of data sheet", "apart", "a token", "exact"),
    *("ours, GiB", "hf, GiB"),
)


def row(line: Line) -> str:
    """Return a line of the table in Markdown."""
    sheet = f"{100 * line.rate / line.sheet_rate:.0f} %" if line.sheet_rate else ""
    far = (line.apart.request, line.apart.token) if line.apart else ()
    apart = [f"{one:.0e}" for one in far] or ["", ""]
    cells = (
        *(line.benchmark, line.questions, f"{line.ours:.2f}", f"{line.hf:.2f}", line.batch_size),
        *(f"{line.ratio:.1f}", f"{line.unique / line.engine_seconds:.0f}"),
        f"{line.decoded / line.engine_seconds:.0f}" if line.decoded else "",
        *(f"{line.rate / 1e12:.3g}", f"{100 * line.rate / line.matrix_rate:.0f} %", sheet),
        *(*apart, "" if line.exact is None else f"{line.exact.request:.0e}"),
        *(f"{size / GIB:.1f}" if size else "" for size in (line.ours_bytes, line.hf_bytes)),
    )
    return f"| {' | '.join(map(str, cells))} |"


def write_json(file: Path, about: dict[str, Any], lines: Sequence[Line]) -> None:
    """Write all lines so far; the file is replaced as a whole, so it can be read at any time."""
    found = {
        **about,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "lines": [{**asdict(one), "ratio": one.ratio, "rate": one.rate} for one in lines],
    }
    part = file.with_name(file.name + ".part")
    part.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    part.replace(file)


def read_options() -> argparse.Namespace:
    """The command line.

    Raises:
        SystemExit: there is no CUDA device, and the CPU was not asked for.
    """
    parser = argparse.ArgumentParser(description="a 7B model: the native engine against lm-eval")
    parser.add_argument("--minutes", type=float, default=8.0, help="of all benchmarks together")
    parser.add_argument("--only", default=",".join(FIRST))
    parser.add_argument("--data", default=DATA)
    parser.add_argument("--shape", default="7b", choices=("7b", "small", "tiny"))
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--dtype", choices=tuple(DTYPES), help="bfloat16 on CUDA, else float32")
    parser.add_argument("--questions", type=int, help="of each benchmark, at most")
    parser.add_argument("--new-tokens", type=int, default=128, help="of a generation, at most")
    parser.add_argument("--batches", help="batch sizes of hf that are tried")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        sys.exit(
            "gpu.py needs a CUDA device and torch finds none: run it where there is one, or give "
            "--device cpu --shape tiny to see that it works."
        )
    chosen.dtype = chosen.dtype or ("bfloat16" if chosen.device == "cuda" else "float32")
    chosen.batches = chosen.batches or BATCHES[chosen.device]
    return chosen


def main() -> None:
    """Measure benchmark after benchmark."""
    chosen, start = read_options(), perf_counter()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    torch.set_float32_matmul_precision("highest")  # no TF32: values are compared
    device, dtype = torch.device(chosen.device), DTYPES[chosen.dtype]
    both = open_both(SHAPES[chosen.shape], dtype, device)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    about = {
        "machine": f"{machine()}, {card}, torch {torch.__version__}",
        "shape": chosen.shape,
        "dtype": chosen.dtype,
        "threads": torch.get_num_threads(),
        "new_tokens": chosen.new_tokens,
    }
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    print(f"ready after {perf_counter() - start:.0f} s\n")
    print(f"| {' | '.join(HEAD)} |\n| :-- |{' --: |' * (len(HEAD) - 1)}", flush=True)
    lines: list[Line] = []
    names, end = chosen.only.split(","), perf_counter() + 60 * chosen.minutes
    for n, name in enumerate(names):
        until = perf_counter() + (end - perf_counter()) / (len(names) - n)
        for line in lines_of(name, both, chosen, until):
            lines.append(line)
            print(row(line), flush=True)
            if chosen.json:
                write_json(chosen.json, about, lines)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
