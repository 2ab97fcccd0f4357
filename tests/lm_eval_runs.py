"""One model through our run and through lm-eval's own evaluator and `hf` model."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM

from mistral_eval.console import Talk
from mistral_eval.data import make_source
from mistral_eval.run.questions import Asking, load_benchmarks
from mistral_eval.run.run import run_suite
from mistral_eval.settings import RunSettings


@dataclass(frozen=True)
class Both:
    """What both wrote about the same questions, by benchmark.

    Attributes:
        model: `--model` of our run, on the native engine.
        data: `--data` of both.
        hf: lm-eval's model, with the same weights.
    """

    model: str
    data: str
    hf: HFLM
    ours: dict[str, Any] = field(default_factory=dict)
    our_samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    theirs: dict[str, Any] = field(default_factory=dict)
    their_samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def run(self, names: tuple[str, ...], limit: int | None, output: Path) -> None:
        """Run both on `limit` questions of each benchmark and keep what they wrote."""
        settings = RunSettings(
            tasks=names,
            model=self.model,
            engine="native",
            device="cpu",
            data=self.data,
            limit=limit,
            output_path=output,
        )
        folder = run_suite(settings, Talk(quiet=True))
        (results,) = folder.glob("results_*.json")
        self.ours.update(json.loads(results.read_text())["results"])
        for name in names:
            (samples,) = folder.glob(f"samples_{name}_*.jsonl")
            self.our_samples[name] = [json.loads(line) for line in samples.open()]
        asking = Asking(make_source(self.data), limit, None, unpinned=False)
        loaded = list(load_benchmarks(names, asking))
        theirs = evaluate(
            self.hf,
            {"tasks": {one.benchmark.id: one.task for one in loaded}},
            samples={one.benchmark.id: [q.doc_id for q in one.questions] for one in loaded},
            bootstrap_iters=1,  # 0 leaves out standard errors; means need no bootstrap
        )
        self.theirs.update(theirs["results"])
        self.their_samples.update(theirs["samples"])
