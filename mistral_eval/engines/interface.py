"""The engine interface: what an engine is asked, what it answers, and how a reply is identified.

A `Request` is built once per question (`run/questions.py`) and travels unchanged. `Engine.encode`
turns it into an `Encoded`: the parts that identify the reply, and what the engine computes from.
Encoding needs no weights, so a run can be planned or rescored with an `Encoder` alone.
"""

import hashlib
import json
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol, Self, TypeAlias

from mistral_eval.answers.verdict import cut
from mistral_eval.errors import EngineError
from mistral_eval.native import requests
from mistral_eval.settings import RunSettings

Kind = Literal["score", "rolling", "generate"]
Say: TypeAlias = Callable[[str], None]
Stop: TypeAlias = requests.Stop
never = requests.never
# Engines by name, each imported when it is used: torch and transformers take seconds.
ENGINES: Final = MappingProxyType(
    {
        "native": ("mistral_eval.engines.native", "NativeEngine"),
        "hf": ("mistral_eval.engines.hf", "HFEngine"),
        "oracle": ("mistral_eval.engines.model_free", "Oracle"),
        "oracle-wrong": ("mistral_eval.engines.model_free", "WrongOracle"),
        "random": ("mistral_eval.engines.model_free", "Random"),
    }
)


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """How a reply is generated.

    Attributes:
        until: stop strings; the reply ends before the first one.
        max_tokens: most new tokens.
        temperature: 0 is greedy decoding.
        top_p: nucleus sampling; 1.0 switches it off.
        top_k: most candidates per token; 0 switches it off.
        other: further arguments of lm-eval's `generation_kwargs`, which only some engines know.
    """

    until: tuple[str, ...] = ()
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    other: tuple[tuple[str, Any], ...] = ()

    @property
    def is_sampled(self) -> bool:
        """Whether tokens are drawn rather than decoded greedily."""
        return self.temperature > 0

    def cut(self, text: str) -> str:
        """Return the text before its first stop string."""
        return cut(text, self.until)


@dataclass(frozen=True, slots=True)
class Request:
    """What an engine is asked.

    Attributes:
        benchmark: the benchmark's (or stock task's) name.
        doc_id: the question's place in the test set.
        choice: which continuation of the question this is; 0 where there is one prompt.
        sample: which of the question's samples this is; 0 where there is one.
        kind: "score" (log-likelihood of `continuation` after `context`), "rolling" (log-likelihood
            of the whole `context`) or "generate" (a reply to `context`).
        context: the text before the continuation or the reply; the whole text of "rolling".
        continuation: the text to score.
        settings: how to generate; None unless `kind` is "generate".
    """

    benchmark: str
    doc_id: int
    choice: int
    sample: int
    kind: Kind
    context: str
    continuation: str = ""
    settings: GenerationSettings | None = None

    @property
    def generation(self) -> GenerationSettings:
        """The settings of a "generate" request."""
        assert self.settings is not None, self
        return self.settings

    @property
    def draw(self) -> str:
        """The name of the request's random draw within a seed."""
        return f"{self.benchmark}|{self.doc_id}|{self.sample}"

    def __str__(self) -> str:
        question = f"{self.benchmark} question {self.doc_id}"
        if self.kind == "generate":
            return f"{question}, sample {self.sample}"
        return f"{question}, choice {self.choice}" if self.kind == "score" else question


@dataclass(frozen=True, slots=True)
class Reply:
    """What an engine answered: a log-likelihood, or text.

    Attributes:
        logprob: sum of natural-log probabilities of the continuation's tokens.
        is_greedy: whether every token of the continuation is the most likely one.
        text: the reply, cut at its first stop string.
        ids: its token ids (EOS excluded), or None from an engine that does not return them.
        finish: why generation ended: "eos", "stop" or "length"; empty for log-likelihoods.
    """

    logprob: float = 0.0
    is_greedy: bool = False
    text: str = ""
    ids: tuple[int, ...] | None = None
    finish: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the fields that count, as the replies log keeps them."""
        if not self.finish:
            return {"logprob": self.logprob, "is_greedy": self.is_greedy}
        ids = {} if self.ids is None else {"ids": self.ids}
        return {"text": self.text, **ids, "finish": self.finish}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `as_json` wrote."""
        ids = fields.get("ids")
        return cls(**{**fields, "ids": None if ids is None else tuple(ids)})


@dataclass(frozen=True, slots=True)
class Encoded:
    """A request as an engine computes it.

    Attributes:
        parts: what the reply depends on beside the engine: texts, token ids or JSON values.
        work: what the engine computes from, e.g. token ids; None where `request` is enough.
        truncated: whether the left end was cut off to fit the model's context.
    """

    request: Request
    parts: tuple[object, ...]
    work: Any = None
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class EngineIdentity:
    """What a reply depends on beside the request; kept in run.json.

    Attributes:
        version: of whatever computes the numbers.
        weights, tokenizer: their digests.
        device: kind of device, e.g. "cpu".
        arguments: further arguments that change replies.
        info: what lm-eval's results say about a model (`model_num_parameters`, `model_dtype`,
            `max_length`, …); not part of the fingerprint.
        notes: sentences about the model for the table; not part of the fingerprint.
    """

    engine: str
    version: str = ""
    weights: str = ""
    tokenizer: str = ""
    dtype: str = ""
    device: str = ""
    arguments: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """A line that is equal exactly when replies may be shared."""
        name = f"{self.engine}/{self.version}" if self.version else self.engine
        parts = (name, self.weights, self.tokenizer, self.dtype, self.device, self.arguments)
        return " ".join(part for part in parts if part)

    def as_json(self) -> dict[str, Any]:
        """Return what the fingerprint is made of, as plain JSON."""
        fields = asdict(self)
        del fields["info"], fields["notes"]
        return fields


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do.

    Attributes:
        scores: log-likelihoods of continuations.
        samples: independent samples of one prompt.
        any_text: answers requests of any task, not only of our benchmarks.
        plain_twin: has a slow, plain path that `--verify` compares its replies with.
    """

    scores: bool = True
    samples: bool = True
    any_text: bool = True
    plain_twin: bool = False


# Maps a request and whether to answer correctly to a text to reply, or to the index of the choice
# to make likely.
Gold: TypeAlias = Callable[[Request, bool], str | int]


class Encoder(Protocol):
    """Encodes requests; needs no weights."""

    identity: EngineIdentity  # what replies depend on beside the request

    def encode(self, request: Request) -> Encoded:
        """Encode a request.

        Raises:
            EngineError: the engine cannot answer this request.
        """


class TextEncoder:
    """Encode requests for an engine that takes text.

    Args:
        seed: random seed of sampled replies; part of every key.
        identity: what replies depend on.
    """

    def __init__(self, seed: int, identity: EngineIdentity) -> None:
        self.seed = seed
        self.identity = identity

    def encode(self, request: Request) -> Encoded:
        """Identify the reply by texts, settings and seed, and by its draw where it is sampled."""
        settings = request.settings
        parts: tuple[object, ...] = (self.seed, request.context, request.continuation)
        if settings is not None:
            parts = (*parts, list(asdict(settings).values()))
            if settings.is_sampled:
                parts = (*parts, request.draw)
        return Encoded(request, parts)


class Engine(Encoder, Protocol):
    """Anything that answers requests.

    A subclass needs `identity` (set by its constructor), `open`, `encode` and `answer`; `encoder`
    too, unless requests can be encoded by `TextEncoder`.
    """

    can: Capabilities = Capabilities()
    counters: requests.Counters | None = None  # tokens computed so far, if counted

    @classmethod
    def open(cls, settings: RunSettings, gold: Gold, say: Say) -> "Engine":
        """Open the engine that a run's settings ask for.

        Args:
            settings: the run's.
            gold: what an oracle answers.
            say: told what takes time, e.g. which model is loaded.

        Raises:
            MistralEvalError: it cannot be opened; the sentence says what to do.
        """

    @classmethod
    def encoder(cls, settings: RunSettings, identity: EngineIdentity) -> Encoder:
        """Return an encoder for the requests of an earlier run, without the model's weights."""
        return TextEncoder(settings.seed, identity)

    def answer(
        self, encoded: Sequence[Encoded], known: Collection[int] = (), stop: Stop = never
    ) -> Iterator[tuple[int, Reply]]:
        """Answer requests of one kind, yielding (index, reply) as soon as each is known.

        Replies come in any order, each index once, those in `known` never. Known requests still
        take part in batching, so that a resumed run computes what an uninterrupted one would.

        Args:
            encoded: the requests, all of one kind.
            known: indices the caller has a reply to.
            stop: asked before each forward pass; once it says yes, the engine yields what it has
                computed and ends.

        Raises:
            RequestError: one request is to blame.
            EngineError: the engine failed.
        """

    def speed(self) -> Mapping[str, Any] | None:
        """Return tokens per second and the share of the machine's matrix rate, for run.json."""
        return None

    def check(self, encoded: Encoded, reply: Reply) -> "Check":
        """Compare a reply with the engine's plain path (`can.plain_twin`)."""
        del encoded, reply
        raise EngineError(f"The engine {self.identity.engine} has no plain path to compare with.")


def engine_class(name: str) -> type[Engine]:
    """Return the class of an engine, which can say what it can do before it is opened."""
    module, attribute = ENGINES[name]
    found: type[Engine] = getattr(import_module(module), attribute)
    return found


@dataclass(frozen=True, slots=True)
class Check:
    """A reply compared with the plain path.

    Attributes:
        difference: of the log-likelihood, in nats; 0 for generated text.
        tolerance: what a difference may be, in nats.
        is_tie: the generated texts differ from a token on that either path could have drawn.
        fault: what is wrong, as the rest of a sentence about the request; empty if nothing is.
    """

    difference: float = 0.0
    tolerance: float = 0.0
    is_tie: bool = False
    fault: str = ""


def reply_key(identity: EngineIdentity, encoded: Encoded) -> bytes:
    """Return the key of a request's reply: equal exactly when the same reply may be used."""
    return request_key(identity.fingerprint, encoded.request.kind, *encoded.parts)


def request_key(fingerprint: str, kind: str, *parts: object) -> bytes:
    """Return the SHA-256 digest of an engine's fingerprint, a kind and the encoded parts.

    Texts and token ids are hashed as bytes, since a prompt has thousands of them; other values as
    JSON. A type mark and a length before each part keep the parts apart.
    """
    digest = hashlib.sha256()
    for part in (fingerprint, kind, *parts):
        mark, content = _bytes_of(part)
        digest.update(b"%c%d:" % (mark, len(content)))
        digest.update(content)
    return digest.digest()


def _bytes_of(part: object) -> tuple[bytes, bytes]:
    """Return a part's type mark (text, ids or JSON) and its content."""
    if isinstance(part, str):
        return b"t", part.encode("utf-8", "surrogatepass")
    if isinstance(part, tuple | list):
        with suppress(TypeError, OverflowError):  # not token ids
            return b"i", array("I", part).tobytes()
    text = json.dumps(part, ensure_ascii=True, separators=(",", ":"))
    return b"j", text.encode("ascii")
