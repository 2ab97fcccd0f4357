"""lm-eval's own models behind our interface: for what the native engine does not support.

They speak text and sample with their library's global generator, so their draws depend on how
requests are batched; the replies log keeps what was drawn.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from mistral_eval.engines.interface import Ask, Counts, Kind, Prepared, ReplyRecord
from mistral_eval.native.requests import Stopping, never

CALL = 256  # requests per call: what a kill can lose, and what a stop waits for


@dataclass
class LmBackend:
    """An lm-eval model.

    Args:
        lm: the model.
        name: the engine's name, e.g. `hf`.
        fingerprint: the identity of weights, tokenizer, dtype and engine.
        seed: names the draws of sampled replies.
        stopping: asked before each call.
    """

    lm: LM
    name: str
    fingerprint: str
    seed: int
    counts: Counts | None = None
    stopping: Stopping = field(default=never, repr=False)

    def prepare(self, kind: Kind, ask: Ask) -> Prepared:
        """The text and the seed; for a sampled reply also the sample's name."""
        instance = ask.instance
        parts: tuple[object, ...] = (self.seed, *instance.args)
        if kind == "generate" and instance.args[1].get("do_sample"):
            parts = (*parts, ask.name)
        return Prepared(parts, instance)

    def answer(
        self, kind: Kind, prepared: Sequence[Prepared], known: Collection[int] = ()
    ) -> Iterator[tuple[int, ReplyRecord]]:
        """Pass the instances on, a few hundred at a time, longest first."""
        asked = [index for index in range(len(prepared)) if index not in known]
        order = sorted(asked, key=lambda i: -len(prepared[i].request.args[0]))
        for start in range(0, len(order), CALL):
            if self.stopping():
                return
            part = order[start : start + CALL]
            yield from zip(part, self._call(kind, [prepared[i].request for i in part]), strict=True)

    def _call(self, kind: Kind, instances: list[Instance]) -> list[ReplyRecord]:
        if kind == "score":
            scored = self.lm.loglikelihood(instances)
            return [{"logprob": float(ll), "is_greedy": bool(greedy)} for ll, greedy in scored]
        if kind == "rolling":
            return [{"logprob": float(ll)} for ll in self.lm.loglikelihood_rolling(instances)]
        return [{"text": text, "finish": "stop"} for text in self.lm.generate_until(instances)]
