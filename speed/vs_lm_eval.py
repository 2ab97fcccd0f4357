"""Measure the native engine against lm-eval's `hf` model: same weights, same requests, alternating.

    python speed/vs_lm_eval.py [--data DIR] [--short] [--only mmlu,gsm8k] [--json FILE]
                               [--threads N] [--cpu] [--questions N] [--subject NAME]

Both get lm-eval's instances and return lm-eval's answers, so the time of either includes text and
tokenizer. The model is a Mistral with 60 million random parameters in float32. `hf` runs at the
best of the batch sizes 1, 4 and 16, found on some of the questions. Each engine samples
generations with its own noise: the number of tokens has the same limit, the text differs. DIR
holds the test sets in the hub's layout, by default `shared/data` beside the checkout. `--short`
takes few questions, for `make bench`. `--cpu` measures CPU seconds, which are more reliable on a
busy machine, on one thread.
"""

import argparse
import json
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from lm_eval.models.huggingface import HFLM
from machine import machine
from real_requests import DATA, NEW_TOKENS, SUBJECTS, questions_of

from mistral_eval.bench.shapes import SHAPES
from mistral_eval.engines.interface import Request
from mistral_eval.engines.lm_eval_model import ask, instance_of
from mistral_eval.engines.native import NativeEngine, open_native
from mistral_eval.model.export import save_hf
from mistral_eval.model.load.checkpoint import Checkpoint
from mistral_eval.model.tiny import tiny_tokenizer_file
from mistral_eval.native.calibrate import matrix_rate, random_weights
from mistral_eval.native.requests import Flops, ScoreRequest
from mistral_eval.native.tree import build_tree

CONFIG = SHAPES["small"]
Answers = list[Any]  # (log-likelihood, is greedy), or texts
BATCHES = (1, 4, 16)
# questions asked: in full, and in the short form
QUESTIONS = {
    "mmlu": (135, 12),  # the whole of anatomy
    "arc_challenge": (300, 24),
    "arc_easy": (300, 24),
    "hellaswag": (100, 8),
    "winogrande": (300, 32),
    "piqa": (200, 16),
    "gsm8k": (16, 2),
    "math": (32, 2),
    "bbh": (250, 16),  # the whole of object_counting
    "agieval": (32, 8),
}
# Tokens per generation, where answers are shorter than NEW_TOKENS: BBH's have 3.4 in the mean
SHORT = {"bbh": 4}


@dataclass(frozen=True, slots=True)
class Line:
    """One benchmark: seconds of either engine, and the differences between their values.

    `share` is useful arithmetic (linear layers, attention over the keys that count, LM head over
    the rows that count) per second of ours, over the matrix rate measured just before; None for
    generations, as are the differences: the largest between the two, and how far either lies
    there from transformers in float64.
    """

    benchmark: str
    questions: int
    requests: int
    ours: float
    hf: float
    batch_size: int
    difference: float | None
    ours_off: float | None
    hf_off: float | None
    share: float | None

    @property
    def ratio(self) -> float:
        """Seconds of `hf` over ours."""
        return self.hf / self.ours


@dataclass(frozen=True, slots=True)
class Models:
    """Both engines on the same weights, and the clock that times them."""

    native: NativeEngine
    hf: HFLM
    clock: Callable[[], float]

    def timed(self, ask: Callable[[], Answers]) -> tuple[Answers, float]:
        """Return the answers and the seconds they took."""
        start = self.clock()
        answers = ask()
        return answers, self.clock() - start

    def matrix_rate(self) -> float:
        """Return FLOP per second of square float32 products, the best within one second."""
        return matrix_rate(torch.float32, torch.device("cpu"), seconds=1.0, clock=self.clock)


def open_models(folder: Path, clock: Callable[[], float]) -> Models:
    """Write the random weights once and open them with both engines."""
    weights = random_weights(CONFIG, torch.float32, torch.device("cpu"))
    save_hf(Checkpoint(CONFIG, weights, "vs_lm_eval"), folder, tokenizer_file=tiny_tokenizer_file())
    hf = HFLM(
        pretrained=str(folder), device="cpu", dtype="float32", batch_size=1, add_bos_token=True
    )
    return Models(open_native(str(folder), dtype="float32", device="cpu"), hf, clock)


def ask_hf(hf: HFLM, requests: Sequence[Request], batch_size: int) -> Answers:
    """Return lm-eval's answers."""
    hf.batch_size_per_gpu = batch_size
    instances = [instance_of(request) for request in requests]
    if requests[0].kind == "generate":
        replies: Answers = hf.generate_until(instances, disable_tqdm=True)
        return replies
    scores: Answers = hf.loglikelihood(instances, disable_tqdm=True)
    return scores


def ask_native(native: NativeEngine, requests: Sequence[Request]) -> Answers:
    """Return our answers."""
    replies = ask(native, requests)
    if requests[0].kind == "generate":
        return [reply.text for reply in replies]
    return [(reply.logprob, reply.is_greedy) for reply in replies]


def best_batch(models: Models, questions: list[list[Request]]) -> int:
    """The batch size at which `hf` answers some of the questions soonest.

    Of two generated questions, the short form's, the largest was always the best.
    """
    is_generated = questions[0][0].kind == "generate"
    if is_generated and len(questions) == 2:
        return max(BATCHES)
    count = 2 if is_generated else max(4, len(questions) // 8)
    requests = [request for question in questions[:count] for request in question]
    ask_hf(models.hf, requests[:1], 1)  # the first call of all is slow
    seconds = {
        size: models.timed(partial(ask_hf, models.hf, requests, size))[1] for size in BATCHES
    }
    return min(seconds, key=seconds.__getitem__)


def useful_flop(requests: Sequence[ScoreRequest]) -> float:
    """Return the FLOP that scoring needs, counting each distinct prefix once."""
    tree, flops = build_tree(requests), Flops.of(CONFIG, CONFIG.vocab_size)
    return float(flops.tokens(tree.depths) + flops.row * len(np.unique(tree.asked_node)))


def exact(hf: HFLM, request: ScoreRequest) -> float:
    """Return a request's log-likelihood from transformers in float64, as the reference."""
    fed = torch.tensor([request.context + request.continuation])
    words = torch.tensor(request.continuation)
    with torch.inference_mode():
        logits = hf.model.double()(fed[:, :-1]).logits[0, -len(words) :]
    hf.model.float()  # back to the very same weights
    return float(logits.log_softmax(dim=1)[torch.arange(len(words)), words].sum())


def compare(name: str, models: Models, questions: list[list[Request]]) -> Line:
    """One benchmark through both, ours first."""
    requests = [request for question in questions for request in question]
    batch_size = best_batch(models, questions)
    ask_native(models.native, questions[0])
    rate = models.matrix_rate()
    ours, our_seconds = models.timed(lambda: ask_native(models.native, requests))
    theirs, hf_seconds = models.timed(lambda: ask_hf(models.hf, requests, batch_size))
    difference = ours_off = hf_off = share = None
    if requests[0].kind != "generate":
        work = [models.native.encode(one).work for one in requests]
        apart = [abs(a[0] - b[0]) for a, b in zip(ours, theirs, strict=True)]
        difference = max(apart)
        worst = apart.index(difference)
        truth = exact(models.hf, work[worst])
        ours_off, hf_off = (abs(x[worst][0] - truth) for x in (ours, theirs))
        share = useful_flop(work) / our_seconds / rate
    return Line(
        name,
        len(questions),
        len(requests),
        our_seconds,
        hf_seconds,
        batch_size,
        difference,
        ours_off,
        hf_off,
        share,
    )


def row(line: Line) -> str:
    """Return a line of the table in Markdown."""
    differences = (line.difference, line.ours_off, line.hf_off)
    apart = " | ".join("" if x is None else f"{x:.0e}" for x in differences)
    share = "" if line.share is None else f"{100 * line.share:.0f} %"
    return (
        f"| {line.benchmark} | {line.questions} | {line.ours:.2f} | {line.hf:.2f} "
        f"| {line.batch_size} | {line.ratio:.1f} | {apart} | {share} |"
    )


def requests_of(name: str, data: str, count: int, subject: str | None) -> list[list[Request]]:
    """Return the requests of `count` questions, with replies about as long as real ones."""
    subjects = SUBJECTS if subject is None else {name: subject}
    return questions_of(
        name, data, count, subjects=subjects, new_tokens=SHORT.get(name, NEW_TOKENS)
    )


def main() -> None:
    """Compare benchmark after benchmark and print each line as soon as it is known."""
    parser = argparse.ArgumentParser(description="the native engine against lm-eval's hf model")
    parser.add_argument("--data", default=DATA)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--only", default=",".join(QUESTIONS))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--questions", type=int, help="of each benchmark")
    parser.add_argument("--subject", help="of a benchmark with subjects, instead of its usual one")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    where, lines = machine(), []
    with tempfile.TemporaryDirectory() as folder:
        models = open_models(Path(folder), process_time if chosen.cpu else perf_counter)
        rate, clock = models.matrix_rate(), "CPU" if chosen.cpu else "wall-clock"
        print(f"{where}, {chosen.threads} threads, {rate / 1e9:.0f} GFLOP/s, {clock} seconds\n")
        print(
            "| benchmark | questions | ours, s | hf, s | hf's batch | ratio | apart "
            "| ours off | hf off | rate |"
        )
        print("| :-- " + "| --: " * 9 + "|")
        for name in chosen.only.split(","):
            count = chosen.questions or QUESTIONS[name][chosen.short]
            lines.append(
                compare(name, models, requests_of(name, chosen.data, count, chosen.subject))
            )
            print(row(lines[-1]), flush=True)
    if chosen.json:
        found = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": where,
            "threads": chosen.threads,
            "clock": clock,
            "flop_per_second": rate,
            "lines": [{**asdict(line), "ratio": line.ratio} for line in lines],
        }
        chosen.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
