"""What the model is asked first, byte for byte: `python -m mistral_eval.protocol.golden FOLDER`.

Writes one file per benchmark: the requests of the sample's first question, and the token ids around
the border between context and continuation under Mistral's v1 tokenizer. The tests compare with
them, so that no byte of a prompt changes unseen.
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

from mistral_eval.data.load import dataset_from
from mistral_eval.data.sources import Source, make_source
from mistral_eval.locations import tasks_folder
from mistral_eval.suite import BY_ID

BEFORE: Final = 6
AFTER: Final = 8


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
    return ConfigurableTask(config={**config, "custom_dataset": dataset_from(source)})


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
    requests = requests_of(open_task(benchmark, make_source("sample")), 0)
    contexts = list(dict.fromkeys(request.args[0] for request in requests))
    parts = [f"{benchmark}: the sample's first question under tokenizer.model.v1"]
    for context in contexts:
        ids = tokenizer.ids(context)
        parts += [
            "",
            f"context: characters: {len(context)}, tokens: {len(ids)}, "
            f"of them BOS: {ids.count(tokenizer.model.bos_id())}; ends in {json.dumps(context[-12:])}",
            "-" * 20,
            context,
            "-" * 20,
            f"first ids: {tokenizer.show(ids[:BEFORE])}",
            f"last ids:  {tokenizer.show(ids[-BEFORE:])}",
        ]
        for request in requests:
            if request.args[0] == context:
                parts += ["", *_second_half(request, tokenizer)]
    return "\n".join(parts) + "\n"


def _second_half(request: Instance, tokenizer: Tokenizer) -> list[str]:
    context, then = request.args
    if request.request_type == "generate_until":
        settings = json.dumps(then, ensure_ascii=False)
        return [f"generate, {request.repeats} sample(s): {settings}"]
    before, after = tokenizer.split(context, then)
    return [
        f"continuation {request.idx}: {json.dumps(then, ensure_ascii=False)}, tokens: {len(after)}",
        f"  … {tokenizer.show(before[-BEFORE:])} | {tokenizer.show(after[:AFTER])}"
        + (" …" if len(after) > AFTER else ""),
    ]


def main(folder: str) -> None:
    """Write all golden files into `folder`."""
    tokenizer = Tokenizer.v1()
    for benchmark in BY_ID:
        target = Path(folder) / f"{benchmark}.txt"
        target.write_text(golden(benchmark, tokenizer), encoding="utf-8", newline="")


if __name__ == "__main__":
    main(*sys.argv[1:])
