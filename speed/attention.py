"""Compare forms of attention on the packs of a prefix tree: one layer, real requests.

    python speed/attention.py [--data DIR] [--only NAMES] [--shapes NAMES] [--device NAME]
                              [--packs N] [--repeats N] [--batch-tokens N] [--threads N]

The prefix tree of a benchmark's requests is cut into packs as in scoring. Each form computes the
same pack from the same random queries, keys and values, alternating; the best of the repeats
counts.

- `groups of N`: the engine's `GroupwiseAttend`, runs of N tokens over their path and themselves,
  one by one, with a mask;
- `batches of N`: the engine's `BatchedAttend` (CPU), the same runs in few calls: the prefix that
  many of them share without a mask, the rest side by side with one, merged by their log-sum-exp;
- `whole pack`: all tokens over path and pack, with a mask;
- `prefix + own`: tokens that see the same part of the path attend to it without a mask, and to
  their own subtrees, block by block, with one, all by plain matrix products;
- `flex`: torch's flex_attention, compiled, with a block mask.

Every form must agree with a plain softmax to 1e-5. `prepare` is the cost of a pack that does not
depend on the number of layers, mostly masks. Times are CPU seconds on the CPU (with more than one
thread they mean little) and wall-clock seconds on CUDA.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from attention_forms import Answer, forms, make_cases, plain
from machine import machine
from torch import Tensor

from mistral_eval.data import make_source
from mistral_eval.engines.interface import EngineIdentity
from mistral_eval.engines.native_encoder import NativeEncoder
from mistral_eval.model.load.outline import read_outline
from mistral_eval.native.pack import cut_packs
from mistral_eval.native.requests import ScoreRequest
from mistral_eval.native.tree import build_tree
from mistral_eval.run.planned_requests import requests_of
from mistral_eval.run.questions import Asking, load_benchmarks

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
SHAPES = {"small": (8, 2, 64), "7b": (32, 8, 128)}  # query heads, key heads, head_dim
QUESTIONS = {"mmlu": 135, "hellaswag": 100, "arc_challenge": 300}  # mmlu: the whole of anatomy
GROUPS = (32, 64, 128, 256)
TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Measured:
    """One form on one benchmark's packs: milliseconds per pack, once and for each layer."""

    benchmark: str
    shape: str
    form: str
    prepare: float
    layer: float
    difference: float


def requests(name: str, data: str) -> list[ScoreRequest]:
    """Return the score requests of some questions, in Mistral's v1 ids."""
    outline = read_outline("tiny", device=torch.device("cpu"))
    encoder = NativeEncoder(
        outline.tokenizer, outline.config.context_len, 0, EngineIdentity("attention")
    )
    limit = None if name == "mmlu" else QUESTIONS[name]
    asking = Asking(make_source(data), limit, None, unpinned=False)
    (loaded,) = load_benchmarks((name,), asking)
    loaded.questions = [
        one for one in loaded.questions if loaded.stratum(one.doc) in ("anatomy", None)
    ] or loaded.questions[: QUESTIONS[name]]
    return requests_of(loaded, encoder).scores


def timed(work: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """Return the result of `work` and its milliseconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    clock = perf_counter if device.type == "cuda" else process_time
    start = clock()
    found = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return found, 1e3 * (clock() - start)


def measure(name: str, shape: str, chosen: argparse.Namespace) -> list[Measured]:
    """Measure all forms on some packs of a benchmark; average the best time of each pack.

    Raises:
        SystemExit: A form disagrees with the plain one.
    """
    tree, device = build_tree(requests(name, chosen.data)), torch.device(chosen.device)
    packs = {size: list(cut_packs(tree, chosen.batch_tokens, size)) for size in GROUPS}
    last = len(tree.tokens) // chosen.batch_tokens - 1
    picked = [int(n) for n in np.unique(np.linspace(0, max(last, 0), chosen.packs).round())]
    cases = make_cases(tree, [packs[GROUPS[0]][n] for n in picked], SHAPES[shape], device)
    slots = -(-max(len(case.k) for case in cases) // 128) * 128
    found: dict[str, list[tuple[float, float, float]]] = {}
    for index, case in zip(picked, cases, strict=True):
        expected = plain(case)
        for form, prepare in forms(case, {s: packs[s][index] for s in GROUPS}, slots).items():
            if form in chosen.without:
                continue
            one = _tried(form, prepare, expected, chosen, device)
            if one is None:
                chosen.without.append(form)
                continue
            if one[2] > TOLERANCE:
                raise SystemExit(f"{form} is {one[2]:.1e} from the plain form on pack {index}")
            found.setdefault(form, []).append(one)
    return [
        Measured(name, shape, form, fmean(p), fmean(layer), max(apart))
        for form, (p, layer, apart) in (
            (form, zip(*ones, strict=True)) for form, ones in found.items()
        )
    ]


def _tried(
    form: str,
    prepare: Callable[[], Answer],
    expected: Tensor,
    chosen: argparse.Namespace,
    device: torch.device,
) -> tuple[float, float, float] | None:
    """Time a form; print a line and return None if it does not compile here."""
    try:
        return _best(prepare, expected, chosen.repeats, device)
    except Exception as error:  # a compiler, and what it calls, fails in many ways
        if form != "flex":
            raise
        print(f"flex_attention does not run here: {str(error).splitlines()[0][:160]}")
        return None


def _best(
    prepare: Callable[[], Answer], expected: Tensor, repeats: int, device: torch.device
) -> tuple[float, float, float]:
    """Return the best milliseconds of preparing and of one layer, and the largest difference."""
    with torch.inference_mode():
        difference = float((prepare()() - expected).abs().max())
        times = []
        for _ in range(repeats):
            answer, before = timed(prepare, device)
            times.append((before, timed(answer, device)[1]))
    return min(a for a, _ in times), min(b for _, b in times), difference


def main() -> None:
    """Measure benchmark after benchmark and print each line as soon as it is known."""
    parser = argparse.ArgumentParser(description="forms of attention on packs of a prefix tree")
    parser.add_argument("--data", default=str(BESIDE) if BESIDE.is_dir() else "sample")
    parser.add_argument("--only", default=",".join(QUESTIONS))
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--packs", type=int, default=6, help="of each benchmark, evenly spaced")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-tokens", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--without", action="append", default=[], help="a form to leave out")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    where = machine()
    print(f"{where}, {chosen.threads} thread(s), {chosen.device}, packs of {chosen.batch_tokens}\n")
    print("| benchmark | shape | form | prepare, ms a pack | ms a pack and layer | apart |")
    print("| :-- | :-- | :-- | --: | --: | --: |")
    lines = []
    for shape in chosen.shapes.split(","):
        for name in chosen.only.split(","):
            for line in measure(name, shape, chosen):
                lines.append(asdict(line))
                print(
                    f"| {line.benchmark} | {line.shape} | {line.form} | {line.prepare:.2f} "
                    f"| {line.layer:.2f} | {line.difference:.0e} |",
                    flush=True,
                )
    print(json.dumps({"machine": where, "device": chosen.device, "lines": lines}))


if __name__ == "__main__":
    main()
