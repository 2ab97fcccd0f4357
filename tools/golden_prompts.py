"""Write the golden prompts: `python tools/golden_prompts.py [BENCHMARK…]`.

A benchmark's file holds the requests of the sample's first question, and the token ids around the
border between context and continuation under Mistral's v1 tokenizer. A test compares them, so that
no byte of a prompt changes unnoticed.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from mistral_eval.data import Source, dataset_from, make_source
from mistral_eval.data.task_file import tasks_folder
from mistral_eval.run.questions import task_of
from mistral_eval.suite.registry import BY_ID

FOLDER: Final = Path(__file__).resolve().parents[1] / "tests" / "golden" / "prompts"
BEFORE: Final = 6
AFTER: Final = 8
RULE: Final = "-" * 20


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """Mistral's first tokenizer, read with SentencePiece alone."""

    model: Any

    @classmethod
    def v1(cls) -> "Tokenizer":
        """The one that ships in mistral-common."""
        import mistral_common
        import sentencepiece

        folder = Path(mistral_common.__file__).parent / "data"
        return cls(sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model.v1")))

    def ids(self, text: str) -> list[int]:
        """The text's ids after BOS."""
        return [self.model.bos_id(), *self.model.encode(text)]

    def split(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of both sides, as lm-eval's `_encode_pair` has them.

        The context's trailing white space goes to the continuation; the whole is encoded and cut at
        the context's length.
        """
        bare = context.rstrip()
        whole, cut = self.ids(context + continuation), len(self.ids(bare))
        return whole[:cut], whole[cut:]

    def show(self, ids: Sequence[int]) -> str:
        """Each id with its piece."""
        return " ".join(f"{id_}:{self.model.id_to_piece(id_)}" for id_ in ids)


def open_task(benchmark: str, source: Source) -> ConfigurableTask:
    """lm-eval's task over our rows."""
    config = load_yaml(tasks_folder() / f"{benchmark}.yaml")
    return task_of({**config, "custom_dataset": dataset_from(source)})


def requests_of(task: ConfigurableTask, place: int) -> list[Instance]:
    """The requests of one question, as lm-eval builds them."""
    doc = task.eval_docs[place]
    context = task.fewshot_context(doc, num_fewshot=task.config.num_fewshot)
    built = task.construct_requests(
        doc=doc, ctx=context, metadata=(task.config.task, place, task.config.repeats)
    )
    return built if isinstance(built, list) else [built]


def golden(benchmark: str, tokenizer: Tokenizer) -> str:
    """The golden file of one benchmark."""
    task = open_task(benchmark, make_source("sample"))
    requests = requests_of(task, 0)
    contexts = list(dict.fromkeys(request.args[0] for request in requests))
    lines = [f"{benchmark}: the sample's first question under tokenizer.model.v1"]
    for context in contexts:
        lines += ["", *_first_half(context, tokenizer)]
        for request in requests:
            if request.args[0] == context:
                lines += ["", *_second_half(task, request, tokenizer)]
    return "\n".join(lines) + "\n"


def _first_half(context: str, tokenizer: Tokenizer) -> list[str]:
    """The context between two rules, and the ids at its ends."""
    ids = tokenizer.ids(context)
    begins = ids.count(tokenizer.model.bos_id())
    facts = f"characters: {len(context)}, tokens: {len(ids)}, of them BOS: {begins}"
    return [
        f"context ({facts}), ends in {json.dumps(context[-12:])}",
        RULE,
        context,
        RULE,
        f"first ids: {tokenizer.show(ids[:BEFORE])}",
        f"last ids:  {tokenizer.show(ids[-BEFORE:])}",
    ]


def _second_half(task: ConfigurableTask, request: Instance, tokenizer: Tokenizer) -> list[str]:
    """What is scored after the context, or how it is generated; and the ids at the border."""
    context, then = request.args
    if request.request_type == "generate_until":
        target = task.doc_to_target(request.doc)
        gold = target[0] if isinstance(target, list) else target
        settings = json.dumps(then, ensure_ascii=False)
        return [
            f"generate, samples: {request.repeats}, {settings}",
            "before the gold answer:",
            _border(context, f"{task.config.target_delimiter}{gold}", tokenizer),
        ]
    return [
        f"continuation {request.idx}: {json.dumps(then, ensure_ascii=False)}",
        _border(context, then, tokenizer),
    ]


def _border(context: str, continuation: str, tokenizer: Tokenizer) -> str:
    before, after = tokenizer.split(context, continuation)
    dots = " …" if len(after) > AFTER else ""
    return f"  … {tokenizer.show(before[-BEFORE:])} | {tokenizer.show(after[:AFTER])}{dots}"


def write(*benchmarks: str) -> None:
    """Write the golden files of these benchmarks, or of all."""
    tokenizer = Tokenizer.v1()
    for benchmark in benchmarks or BY_ID:
        target = FOLDER / f"{benchmark}.txt"
        target.write_text(golden(benchmark, tokenizer), encoding="utf-8", newline="")


if __name__ == "__main__":
    write(*sys.argv[1:])
