"""An engine that knows the gold answers: a check of prompts, scorers and records without a model.

Asked to answer correctly it must reach 100 on every benchmark, asked to answer wrongly 0.
"""

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
    never,
)
from mistral_eval.errors import EngineError
from mistral_eval.settings import RunSettings


class OracleEncoder:
    """Encode requests for an oracle called `name`."""

    def __init__(self, name: str) -> None:
        self.identity = EngineIdentity(name)

    def encode(self, request: Request) -> Encoded:
        """Identify the reply by the question, since the gold depends on it.

        Raises:
            EngineError: the request asks for the likelihood of a whole text.
        """
        if request.kind == "rolling":
            raise EngineError(
                f"The task {request.benchmark} asks for the likelihood of whole texts, which have "
                "no gold answer. Use --engine native, hf or random."
            )
        asked = (request.context, request.continuation)
        names = [request.benchmark, request.doc_id, request.choice, request.sample]
        return Encoded(request, (*asked, names))


class Oracle(OracleEncoder, Engine):
    """Answer from the gold.

    Args:
        gold: what to answer to each request.
    """

    can = Capabilities(any_text=False)
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
        for index, item in enumerate(encoded):
            if index in known:
                continue
            if stop():
                return
            request, gold = item.request, self._gold(item.request, self.right)
            if isinstance(gold, int):
                is_right = request.choice == gold
                yield index, Reply(logprob=-1.0 if is_right else -1e6, is_greedy=is_right)
            else:
                yield index, Reply(text=request.generation.cut(gold), finish="stop")


class WrongOracle(Oracle):
    """Answer every question wrongly."""

    name = "oracle-wrong"
    right = False
