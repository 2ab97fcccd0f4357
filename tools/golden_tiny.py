"""Write what `--model tiny` answers to some sample requests: `python tools/golden_tiny.py`.

tests/golden/tiny.json holds, for the paper's suite, the log-likelihoods of a few questions of each
multiple-choice benchmark and the first greedy ids after a few prompts of each other one. Run this
when the tiny model or a prompt was changed on purpose, and say so in the commit.
"""

import json
from pathlib import Path
from typing import Any, Final

from lm_eval.api.instance import Instance

from mistral_eval.data import make_source
from mistral_eval.engines.lm_eval_model import MistralLM
from mistral_eval.engines.open_native import open_native
from mistral_eval.run.questions import Asking, LoadedBenchmark, load_benchmarks
from mistral_eval.suite.suites import PAPER

FILE: Final = Path(__file__).resolve().parents[1] / "tests" / "golden" / "tiny.json"
QUESTIONS: Final = 4
PROMPTS: Final = 2
TOKENS: Final = 16


class Kept:
    """A journal that knows nothing and keeps the replies of one call, in order."""

    def __init__(self) -> None:
        self.replies: dict[bytes, Any] = {}
        self.keys: list[bytes] = []

    def lookup(self, keys: list[bytes]) -> dict[bytes, Any]:
        """Note the keys that are asked for; none is known."""
        self.keys = keys
        return {}

    def put(self, key: bytes, reply: Any) -> None:
        """Keep a reply."""
        self.replies[key] = reply

    def flush(self) -> None:
        """Everything is kept already."""


def answer() -> dict[str, Any]:
    """What tiny answers: float32, on the CPU."""
    backend = open_native("tiny", device="cpu")
    asking = Asking(make_source("sample"), None, None, unpinned=False)
    answers: dict[str, Any] = {"model": backend.fingerprint}
    for loaded in load_benchmarks(PAPER, asking):
        name = loaded.benchmark.id
        if loaded.benchmark.kind == "score":
            answers[name] = _scores(MistralLM(backend), loaded)
        else:
            answers[name] = _ids(backend, loaded)
    return answers


def _scores(lm: MistralLM, loaded: LoadedBenchmark) -> dict[str, list[float]]:
    """Question id -> log-likelihood of each choice; questions over the whole sample."""
    asked = loaded.questions[:: len(loaded.questions) // QUESTIONS][:QUESTIONS]
    return {
        str(question.doc_id): [
            round(logprob, 6) for logprob, _ in lm.loglikelihood(question.instances)
        ]
        for question in asked
    }


def _ids(backend: Any, loaded: LoadedBenchmark) -> dict[str, list[int]]:
    """Question id -> ids of the first greedy tokens, whatever the task's stops and sampling."""
    found = {}
    settings = {"until": [], "max_gen_toks": TOKENS, "do_sample": False}
    for question in loaded.questions[:: len(loaded.questions) // PROMPTS][:PROMPTS]:
        prompt = question.instances[0].args[0]
        kept = Kept()
        one = Instance(
            "generate_until", {}, (prompt, settings), 0, metadata=("golden", question.doc_id, 1)
        )
        MistralLM(backend, kept).generate_until([one])  # type: ignore[arg-type]
        found[str(question.doc_id)] = kept.replies[kept.keys[0]]["ids"]
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
