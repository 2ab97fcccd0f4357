"""Engines without a model, for checking prompts, judges and records: oracles and random guesses.

An oracle knows the gold answers. The oracle must score 100 on every benchmark, the wrong oracle
must score 0.
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from typing import Self

from mistral_eval.engines.interface import (
    Capabilities,
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
from mistral_eval.errors import EngineError
from mistral_eval.settings import RunSettings


class OracleEncoder:
    """Encode requests for an oracle called `name`."""

    def __init__(self, name: str) -> None:
        self.identity = EngineIdentity(name)

    def encode(self, request: Request) -> Encoded:
        """Identify the reply by texts and question, since the gold depends on the question.

        Raises:
            EngineError: the request is for the likelihood of a whole text.
        """
        if request.kind == "rolling":
            raise EngineError(
                f"The task {request.benchmark} asks for the likelihood of whole texts, which have "
                "no gold answer. Use --engine native, hf or random."
            )
        asked = (request.asked, request.continuation)
        names = [request.benchmark, request.doc_id, request.choice, request.sample]
        return Encoded(request, (*asked, names))


class Oracle(OracleEncoder, Engine):
    """Answer each request from the gold."""

    can = Capabilities(any_text=False, chat=True)
    name = "oracle"
    right = True

    def __init__(self, gold: Gold) -> None:
        super().__init__(self.name)
        self._gold = gold

    @classmethod
    def open(cls, settings: RunSettings, gold: Gold, say: Say) -> Self:
        """Return an oracle over the run's questions."""
        del settings, say
        return cls(gold)

    @classmethod
    def encoder(cls, settings: RunSettings, identity: EngineIdentity) -> OracleEncoder:
        """Return an encoder, which needs no gold."""
        del settings
        return OracleEncoder(identity.engine)

    def answer(
        self, encoded: Sequence[Encoded], known: Collection[int] = (), stop: Stop = never
    ) -> Iterator[tuple[int, Reply]]:
        """Yield the gold of each request."""
        for index, request in _asked(encoded, known, stop):
            gold = self._gold(request, self.right)
            if isinstance(gold, int):
                is_right = request.choice == gold
                yield index, Reply(logprob=-1.0 if is_right else -1e6, is_greedy=is_right)
            else:
                yield index, Reply(text=request.generation.cut(gold), finish="stop")


class WrongOracle(Oracle):
    """Answer every question wrongly."""

    name = "oracle-wrong"
    right = False


class Random(TextEncoder, Engine):
    """Random guesses, for the chance level of a benchmark.

    Each reply is drawn from a hash of request and seed, so a run is reproducible. Two seeds never
    share a reply. A log-likelihood is proportional to the continuation's length in characters, so
    that scoring per character, which most benchmarks use, favours neither long nor short choices.
    """

    can = Capabilities(chat=True)

    def __init__(self, seed: int) -> None:
        super().__init__(seed, EngineIdentity("random", arguments=f"seed {seed}"))

    @classmethod
    def open(cls, settings: RunSettings, gold: Gold, say: Say) -> Self:
        """Return the engine with the run's seed."""
        del gold, say
        return cls(settings.seed)

    @classmethod
    def encoder(cls, settings: RunSettings, identity: EngineIdentity) -> Self:
        """Return the engine, which has no weights to avoid."""
        del identity
        return cls(settings.seed)

    def encode(self, request: Request) -> Encoded:
        """Identify the reply by texts and draw; choices and samples are drawn independently."""
        parts = super().encode(request).parts
        return Encoded(request, (*parts, f"{request.draw}|{request.choice}"))

    def answer(
        self, encoded: Sequence[Encoded], known: Collection[int] = (), stop: Stop = never
    ) -> Iterator[tuple[int, Reply]]:
        """Yield one draw per request."""
        for index, request in _asked(encoded, known, stop):
            drawn = self._draw(f"{request.draw}|{request.choice}")
            if request.kind == "generate":
                yield index, Reply(text=f" The answer is {int(drawn * 1000)}.", finish="eos")
            else:
                text = (request.continuation or str(request.context)).lstrip(" ")
                yield index, Reply(logprob=-drawn * max(1, len(text)))

    def _draw(self, name: str) -> float:
        digest = hashlib.blake2b(f"{self.seed}|{name}".encode(), digest_size=8).digest()
        return (int.from_bytes(digest, "big") + 1) / 2**64


def _asked(
    encoded: Sequence[Encoded], known: Collection[int], stop: Stop
) -> Iterator[tuple[int, Request]]:
    """Yield (index, request) for requests not in `known`, until `stop` returns True."""
    for index, item in enumerate(encoded):
        if index in known:
            continue
        if stop():
            return
        yield index, item.request
