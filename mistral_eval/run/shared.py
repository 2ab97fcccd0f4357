"""What runs of several models have in common: their questions, and the requests' token ids."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from mistral_eval.engines.interface import Encoded, Engine, Request
from mistral_eval.run.questions import LoadedBenchmark
from mistral_eval.suite.registry import BY_ID


class Encodings:
    """Encodes the requests of several models' runs, those of equal tokenizers once.

    What one tokenizer encoded is kept until another one encodes. Conversations are encoded for
    each model, since their format may be the model's own; so are stock tasks, which lm-eval builds
    anew.

    Attributes:
        encoded: requests that an engine encoded.
        reused: requests that were encoded for an earlier model.
    """

    def __init__(self) -> None:
        self.encoded = self.reused = 0
        self._encoding: Hashable | None = None
        self._known: dict[int, Encoded] = {}  # by the request's id; the value keeps it alive

    def encode(self, engine: Engine, requests: Sequence[Request]) -> list[Encoded]:
        """Return the encoded requests, in order.

        Raises:
            MistralEvalError: as of `Engine.encode`.
        """
        if self._encoding != engine.encoding:
            self._known.clear()
            self._encoding = engine.encoding
        return [self._one(engine, request) for request in requests]

    def _one(self, engine: Engine, request: Request) -> Encoded:
        known = self._known.get(id(request))
        if known is not None:
            self.reused += 1
            return known
        found = engine.encode(request)
        self.encoded += 1
        is_text = isinstance(request.context, str)
        if self._encoding is not None and is_text and request.benchmark in BY_ID:
            self._known[id(request)] = found
        return found


@dataclass(frozen=True, slots=True)
class Shared:
    """What the runs of several models share; each adds what it is the first to need."""

    questions: list[LoadedBenchmark] = field(default_factory=list)
    judges: set[str] = field(default_factory=set)
    """URLs of judges that were looked for."""
    encodings: Encodings = field(default_factory=Encodings)
