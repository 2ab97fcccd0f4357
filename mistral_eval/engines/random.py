"""An engine that guesses: what a benchmark scores without any knowledge.

Each answer is drawn from a hash of request and seed, so a run can be repeated. A log-likelihood is
drawn per character of the continuation, so that scoring per character, which most benchmarks use,
is fair between long and short choices.
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from typing import Self

from mistral_eval.engines.interface import (
    Encoded,
    Engine,
    EngineIdentity,
    Gold,
    Reply,
    Request,
    Say,
    Stop,
    TextEncoder,
    never,
)
from mistral_eval.settings import RunSettings


class Random(TextEncoder, Engine):
    """Draw every answer uniformly.

    Args:
        seed: random seed; two seeds never share a reply.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed, EngineIdentity("random", arguments=f"seed {seed}"))

    @classmethod
    def open(cls, settings: RunSettings, gold: Gold, say: Say) -> Self:
        """Return the engine with the run's seed."""
        del gold, say
        return cls(settings.seed)

    @classmethod
    def encoder(cls, settings: RunSettings, identity: EngineIdentity) -> Self:
        """Return the engine itself, which has no weights."""
        del identity
        return cls(settings.seed)

    def encode(self, request: Request) -> Encoded:
        """Identify the reply by texts and draw: each choice and sample is drawn on its own."""
        parts = super().encode(request).parts
        return Encoded(request, (*parts, f"{request.draw}|{request.choice}"))

    def answer(
        self, encoded: Sequence[Encoded], known: Collection[int] = (), stop: Stop = never
    ) -> Iterator[tuple[int, Reply]]:
        """Yield one draw per request."""
        for index, item in enumerate(encoded):
            if index in known:
                continue
            if stop():
                return
            request = item.request
            drawn = self._draw(f"{request.draw}|{request.choice}")
            if request.kind == "generate":
                yield index, Reply(text=f" The answer is {int(drawn * 1000)}.", finish="eos")
            else:
                text = (request.continuation or request.context).lstrip(" ")
                yield index, Reply(logprob=-drawn * max(1, len(text)))

    def _draw(self, name: str) -> float:
        digest = hashlib.blake2b(f"{self.seed}|{name}".encode(), digest_size=8).digest()
        return (int.from_bytes(digest, "big") + 1) / 2**64
