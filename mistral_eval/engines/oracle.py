"""An engine that knows the gold: the check that prompts, scorers and records fit together.

Asked to answer right it must reach 100 on every benchmark, asked to answer wrong 0; anything else
is a bug in the protocol's code, found without a model.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from lm_eval.api.instance import Instance

from mistral_eval.engines.interface import Ask, Counts, Kind, Prepared, ReplyRecord
from mistral_eval.engines.stops import Stops, until_of
from mistral_eval.errors import EngineError
from mistral_eval.native.requests import Stopping, never

Likely = Callable[[Instance], bool]
Says = Callable[[Instance], str]


@dataclass
class OracleBackend:
    """Answers from the gold.

    Args:
        likely: whether this continuation is the one to make likely.
        says: what to reply to this prompt.
        name: `oracle`, or `oracle-wrong` where the two callables answer wrong on purpose.
    """

    likely: Likely
    says: Says
    name: str = "oracle"
    counts: Counts = field(default_factory=Counts)
    stopping: Stopping = field(default=never, repr=False)

    @property
    def fingerprint(self) -> str:
        """Oracles of the same name answer the same."""
        return self.name

    def prepare(self, kind: Kind, ask: Ask) -> Prepared:
        """The gold depends on the question, so the question is the key."""
        if kind == "rolling":
            raise EngineError(
                f"The task {ask.instance.task_name} asks for the likelihood of whole texts, to "
                "which there is no gold answer. Use --engine native, hf or random."
            )
        instance = ask.instance
        parts = (instance.task_name, instance.doc_id, instance.idx, ask.sample, _asked(instance))
        return Prepared(parts, instance)

    def answer(
        self, kind: Kind, prepared: Sequence[Prepared], known: Collection[int] = ()
    ) -> Iterator[tuple[int, ReplyRecord]]:
        """The gold, at once."""
        for index, item in enumerate(prepared):
            if index in known:
                continue
            if self.stopping():
                return
            if kind == "score":
                right = self.likely(item.request)
                yield index, {"logprob": -1.0 if right else -1e6, "is_greedy": right}
            else:
                stops = Stops(until_of(item.request.args[1]))
                yield index, {"text": stops.cut(self.says(item.request)), "finish": "stop"}


def _asked(instance: Instance) -> list[object]:
    return list(instance.args)
