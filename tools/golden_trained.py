"""Write what the trained model answers: `python tools/golden_trained.py DIR`.

DIR holds whole test sets, as `--data` reads them. Written is tests/golden/trained.json: of each
multiple-choice benchmark the log-likelihoods of some questions and how many of them are right, of
some others the first greedy ids after a few prompts. Processors round differently, so what
rounding could decide is left out: questions whose best two choices are closer than the tolerance,
and ids from a step on whose best two tokens are.
Run it when a prompt was changed on purpose, and say so in the commit.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from fetch_trained import trained_model

from mistral_eval.data import make_source
from mistral_eval.engines.interface import GenerationSettings
from mistral_eval.engines.lm_eval_model import ask
from mistral_eval.engines.native import NativeEngine, open_native
from mistral_eval.model.attention import SequencesAttend
from mistral_eval.run.questions import Asking, LoadedBenchmark, Question, load_benchmarks

FILE: Final = Path(__file__).resolve().parents[1] / "tests" / "golden" / "trained.json"
QUESTIONS: Final = {
    "piqa": 100,
    "arc_easy": 100,
    "winogrande": 100,
    "arc_challenge": 60,
    "hellaswag": 50,
    "mmlu": 4,
}
PROMPTS: Final = {"nq": 4, "triviaqa": 4, "gsm8k": 2, "math": 2}
TOKENS: Final = 24
NATS: Final = 1e-3  # by how much a log-likelihood may differ between processors
LEAD: Final = 0.01  # nats by which a greedy token leads the next, or the reply is cut before it


def open_engine() -> NativeEngine:
    """Open the trained model in float32 on the CPU."""
    return open_native(str(trained_model()), device="cpu", dtype="float32")


def load(name: str, data: str, limit: int) -> LoadedBenchmark:
    """Load `limit` questions, spread over the test set in the folder `data`."""
    (loaded,) = load_benchmarks([name], Asking(make_source(data), limit, None, unpinned=False))
    return loaded


def scores(engine: NativeEngine, loaded: LoadedBenchmark) -> dict[str, list[float]]:
    """Return question id -> log-likelihood of each choice, in nats."""
    replies = iter(ask(engine, loaded.requests))
    return {
        str(question.doc_id): [round(next(replies).logprob, 4) for _ in question.requests]
        for question in loaded.questions
    }


def correct(loaded: LoadedBenchmark, found: dict[str, list[float]]) -> int:
    """Return how many of the questions in `found` are right, as the table counts them."""
    asked = [question for question in loaded.questions if str(question.doc_id) in found]
    replies = [[(logprob, False) for logprob in found[str(one.doc_id)]] for one in asked]
    verdicts = loaded.benchmark.judge([one.doc for one in asked], replies)
    return sum(one.verdict.is_correct for one in verdicts)


def is_close(loaded: LoadedBenchmark, question: Question, logprobs: Sequence[float]) -> bool:
    """Return whether an error of NATS in each log-likelihood could change the choice."""
    texts = loaded.benchmark.gold(question.doc).texts
    lengths = [len(text) if loaded.benchmark.cell == "acc_norm" else 1 for text in texts]
    *others, (best, error) = sorted(
        (logprob / length, NATS / length) for logprob, length in zip(logprobs, lengths, strict=True)
    )
    return any(best - value <= error + its_error for value, its_error in others)


def greedy(engine: NativeEngine, loaded: LoadedBenchmark) -> dict[str, list[int]]:
    """Return question id -> the first greedy ids, whatever the task's stops and sampling."""
    settings = GenerationSettings(max_tokens=TOKENS)
    requests = [replace(one.requests[0], settings=settings) for one in loaded.questions]
    replies = ask(engine, requests)
    return {
        str(one.doc_id): list(reply.ids or ())
        for one, reply in zip(loaded.questions, replies, strict=True)
    }


def sure(engine: NativeEngine, question: Question, ids: Sequence[int]) -> list[int]:
    """Return the ids before the first one that leads the next best token by less than LEAD."""
    prompt = engine.encode(question.requests[0]).work.prompt
    model, tokens = engine.runner.model, torch.tensor([*prompt, *ids])
    attend = SequencesAttend([len(tokens)], model.config.sliding_window, model.dtype, model.device)
    hidden = model.hidden(tokens, torch.arange(len(tokens)), attend)
    best = model.logits(hidden[len(prompt) - 1 : -1]).topk(2).values
    unsure = (best[:, 0] - best[:, 1] < LEAD).nonzero().flatten().tolist()
    return list(ids[: unsure[0]] if unsure else ids)


def golden(data: str) -> dict[str, Any]:
    """Return the content of the golden file; `data` is the folder of whole test sets."""
    engine = open_engine()
    found: dict[str, Any] = {}
    for name, limit in QUESTIONS.items():
        loaded = load(name, data, limit)
        answers = scores(engine, loaded)
        for question in loaded.questions:
            if is_close(loaded, question, answers[str(question.doc_id)]):
                del answers[str(question.doc_id)]
        found[name] = {"correct": correct(loaded, answers), "logprobs": answers}
    for name, limit in PROMPTS.items():
        loaded = load(name, data, limit)
        replies = greedy(engine, loaded)
        asked = {str(question.doc_id): question for question in loaded.questions}
        found[name] = {"ids": {key: sure(engine, asked[key], ids) for key, ids in replies.items()}}
    return found


def main() -> None:
    """Write the golden file: one question a line."""
    lines = []
    for name, parts in golden(sys.argv[1]).items():
        fields = []
        for part, value in parts.items():
            text = json.dumps(value)
            if isinstance(value, dict):
                rows = ",\n".join(f'      "{key}": {json.dumps(row)}' for key, row in value.items())
                text = f"{{\n{rows}\n    }}"
            fields.append(f'    "{part}": {text}')
        lines.append(f'  "{name}": {{\n' + ",\n".join(fields) + "\n  }")
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
