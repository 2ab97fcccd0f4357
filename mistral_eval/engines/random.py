"""An engine that answers by lot: what a benchmark scores when nobody knows anything.

Each answer is drawn from a hash of the request and the seed, so a run can be repeated. A
log-likelihood is drawn per character of the continuation: per-character scoring, which is the
cell of most benchmarks, is then fair between long and short choices.
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from mistral_eval.engines.interface import Ask, Counts, Kind, Prepared, ReplyRecord
from mistral_eval.native.requests import Stopping, never


@dataclass
class RandomBackend:
    """Draws uniformly; `seed` names the draw."""

    seed: int
    name: str = "random"
    counts: Counts = field(default_factory=Counts)
    stopping: Stopping = field(default=never, repr=False)

    @property
    def fingerprint(self) -> str:
        """Two seeds never share a reply."""
        return f"random seed {self.seed}"

    def prepare(self, kind: Kind, ask: Ask) -> Prepared:
        """The text, and the sample's name, since eight samples are eight draws."""
        del kind
        parts = (ask.name, ask.instance.idx, *ask.instance.args)
        return Prepared(parts, (ask.name, ask.instance))

    def answer(
        self, kind: Kind, prepared: Sequence[Prepared], known: Collection[int] = ()
    ) -> Iterator[tuple[int, ReplyRecord]]:
        """One draw a request."""
        for index, item in enumerate(prepared):
            if index in known:
                continue
            if self.stopping():
                return
            name, instance = item.request
            lot = self._draw(f"{name}|{instance.idx}")
            if kind == "generate":
                yield index, {"text": f" The answer is {int(lot * 1000)}.", "finish": "eos"}
            else:
                text = instance.args[-1].lstrip(" ")
                yield index, {"logprob": -lot * max(1, len(text)), "is_greedy": False}

    def _draw(self, name: str) -> float:
        digest = hashlib.blake2b(f"{self.seed}|{name}".encode(), digest_size=8).digest()
        return (int.from_bytes(digest, "big") + 1) / 2**64
