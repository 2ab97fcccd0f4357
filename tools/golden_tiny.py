"""Write what `--model tiny` answers to some sample requests: `python tools/golden_tiny.py`.

The file is tests/golden/tiny.json, which test_golden.py compares with: of each multiple-choice
benchmark the log-likelihoods of a few questions, of each other one the first greedy ids after a
few prompts.
Run it when the tiny model or a prompt was changed on purpose, and say so in the commit.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from mistral_eval.data import make_source
from mistral_eval.engines.interface import GenerationSettings
from mistral_eval.engines.lm_eval_model import ask
from mistral_eval.engines.native import NativeEngine, open_native
from mistral_eval.run.questions import Asking, LoadedBenchmark, load_benchmarks
from mistral_eval.suite.registry import PAPER

FILE: Final = Path(__file__).resolve().parents[1] / "tests" / "golden" / "tiny.json"
QUESTIONS: Final = 4
PROMPTS: Final = 2
TOKENS: Final = 16


def answer() -> dict[str, Any]:
    """What tiny answers: float32, on the CPU."""
    engine = open_native("tiny", device="cpu")
    asking = Asking(make_source("sample"), None, None, unpinned=False)
    answers: dict[str, Any] = {"model": engine.identity.fingerprint}
    for loaded in load_benchmarks(PAPER, asking):
        name = loaded.benchmark.id
        score_or_generate = _scores if loaded.kind == "score" else _ids
        answers[name] = score_or_generate(engine, loaded)
    return answers


def _scores(engine: NativeEngine, loaded: LoadedBenchmark) -> dict[str, list[float]]:
    """Question id -> log-likelihood of each choice; questions over the whole sample."""
    asked = loaded.questions[:: len(loaded.questions) // QUESTIONS][:QUESTIONS]
    return {
        str(question.doc_id): [round(reply.logprob, 6) for reply in ask(engine, question.requests)]
        for question in asked
    }


def _ids(engine: NativeEngine, loaded: LoadedBenchmark) -> dict[str, list[int]]:
    """Question id -> ids of the first greedy tokens, whatever the task's stops and sampling."""
    found = {}
    settings = GenerationSettings(max_tokens=TOKENS)
    for question in loaded.questions[:: len(loaded.questions) // PROMPTS][:PROMPTS]:
        request = replace(question.requests[0], settings=settings)
        (reply,) = ask(engine, [request])
        found[str(question.doc_id)] = list(reply.ids or ())
    return found


def main() -> None:
    """Write the golden file: one question a line."""
    lines = []
    for name, value in answer().items():
        if isinstance(value, str):
            lines.append(f'  "{name}": {json.dumps(value)}')
            continue
        rows = ",\n".join(f'    "{key}": {json.dumps(row)}' for key, row in value.items())
        lines.append(f'  "{name}": {{\n{rows}\n  }}')
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
