"""The engine interface: requests and replies; `keys` names the latter.

`run/questions.py` builds each `Request` once; it never changes. `Engine.encode` turns it into an
`Encoded`: the parts that identify the reply, and the engine's input. Encoding needs no weights, so
a run can be planned or rescored with an `Encoder` alone.
"""

import math
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, Self, TypeAlias

from mistral_eval.answers.verdict import cut
from mistral_eval.errors import EngineError, OutputError, UsageError
from mistral_eval.model.chat.messages import Messages
from mistral_eval.native import requests
from mistral_eval.settings import RunSettings

if TYPE_CHECKING:  # needs torch, which takes seconds to import
    from mistral_eval.native.work import Place

Kind = Literal["score", "rolling", "generate"]
Say: TypeAlias = Callable[[str], None]
Stop: TypeAlias = requests.Stop
never = requests.never
# Engines by name, imported on first use: importing torch and transformers takes seconds.
ENGINES: Final = MappingProxyType(
    {
        "native": ("mistral_eval.engines.native", "NativeEngine"),
        "hf": ("mistral_eval.engines.hf", "HFEngine"),
        "vllm": ("mistral_eval.engines.vllm", "VllmEngine"),
        "server": ("mistral_eval.engines.server", "ServerEngine"),
        "oracle": ("mistral_eval.engines.model_free", "Oracle"),
        "oracle-wrong": ("mistral_eval.engines.model_free", "WrongOracle"),
        "random": ("mistral_eval.engines.model_free", "Random"),
    }
)


POSITIVE_NATS: Final = 1e-2  # what rounding may add to the log-likelihood of a certain text


def can_be_logprob(value: float) -> bool:
    """Return whether a number can be a log-likelihood: finite, and at most 0 but for rounding."""
    return -math.inf < value <= POSITIVE_NATS


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """How a reply is generated.

    Attributes:
        until: stop strings; the reply ends before the first one.
        max_tokens: maximum number of new tokens.
        temperature: 0 is greedy decoding.
        top_p: nucleus sampling; 1.0 disables it.
        top_k: maximum number of candidates per token; 0 disables it.
        other: further arguments of lm-eval's `generation_kwargs`, for engines that support them.
    """

    until: tuple[str, ...] = ()
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    other: tuple[tuple[str, Any], ...] = ()

    @property
    def is_sampled(self) -> bool:
        """True if tokens are sampled, False if decoding is greedy."""
        return self.temperature > 0

    def cut(self, text: str) -> str:
        """Return the text before its first stop string."""
        return cut(text, self.until)


@dataclass(frozen=True, slots=True)
class Request:
    """A request to an engine: score a continuation or a text, or generate a reply.

    Attributes:
        benchmark: the benchmark's (or stock task's) name.
        doc_id: the question's index in the test set.
        choice: index of the continuation among the question's; 0 unless choices are scored.
        sample: index of the sample among the question's; 0 if there is only one.
        kind: "score" (log-likelihood of `continuation` after `context`), "rolling" (log-likelihood
            of the whole `context`) or "generate" (a reply to `context`).
        context: the text before the continuation or the reply, or a conversation that the model
            continues; for "rolling" the whole text.
        continuation: the text to score.
        settings: generation settings; None unless `kind` is "generate".
        turn: index of the message of the user that is answered, in a question of several turns.
    """

    benchmark: str
    doc_id: int
    choice: int
    sample: int
    kind: Kind
    context: str | Messages
    continuation: str = ""
    settings: GenerationSettings | None = None
    turn: int = 0

    def __reduce__(self) -> tuple[type["Request"], tuple[object, ...]]:
        """Return what pickle needs; its own way for slots takes several times as long."""
        asked = (self.context, self.continuation, self.settings, self.turn)
        return type(self), (
            self.benchmark,
            self.doc_id,
            self.choice,
            self.sample,
            self.kind,
            *asked,
        )

    @property
    def generation(self) -> GenerationSettings:
        """The settings of a "generate" request."""
        assert self.settings is not None, self
        return self.settings

    @property
    def text(self) -> str:
        """The context of a request that is no conversation.

        Raises:
            EngineError: it is one, and the engine that reads this property has no chat.
        """
        if isinstance(self.context, Messages):
            raise EngineError(f"{self} is a conversation, which this engine does not take.")
        return self.context

    @property
    def asked(self) -> object:
        """The context as a part of a key: a text, or a list of messages."""
        return self.context.as_dicts() if isinstance(self.context, Messages) else self.context

    @property
    def draw(self) -> str:
        """The name that, with the seed, determines the request's random numbers."""
        turn = f"|turn {self.turn}" if self.turn else ""
        return f"{self.benchmark}|{self.doc_id}|{self.sample}{turn}"

    def __str__(self) -> str:
        question = f"{self.benchmark} question {self.doc_id}"
        if self.turn:
            question = f"{question}, turn {self.turn + 1}"
        if self.kind == "generate":
            return f"{question}, sample {self.sample}"
        return f"{question}, choice {self.choice}" if self.kind == "score" else question


@dataclass(frozen=True, slots=True)
class Reply:
    """An engine's reply: a log-likelihood, or text.

    Attributes:
        logprob: sum of natural-log probabilities of the continuation's tokens.
        is_greedy: whether every token of the continuation is the most likely one.
        text: the reply, cut at its first stop string.
        ids: the reply's token ids without EOS; None if the engine does not return them. The first
            one begins with `Encoded.healed`, where that is not empty.
        finish: why generation ended: "eos", "stop" or "length"; empty for log-likelihoods.
    """

    logprob: float = 0.0
    is_greedy: bool = False
    text: str = ""
    ids: tuple[int, ...] | None = None
    finish: str = ""

    def __reduce__(self) -> tuple[type["Reply"], tuple[object, ...]]:
        """Return what pickle needs; its own way for slots takes several times as long."""
        return type(self), (self.logprob, self.is_greedy, self.text, self.ids, self.finish)

    def as_json(self) -> dict[str, Any]:
        """Return the reply's fields for the replies log."""
        if not self.finish:
            return {"logprob": self.logprob, "is_greedy": self.is_greedy}
        ids = {} if self.ids is None else {"ids": self.ids}
        return {"text": self.text, **ids, "finish": self.finish}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Create a reply from the fields that `as_json` returned."""
        ids = fields.get("ids")
        return cls(**{**fields, "ids": None if ids is None else tuple(ids)})


@dataclass(frozen=True, slots=True)
class Encoded:
    """A request in the form that an engine computes.

    Attributes:
        parts: what the reply depends on besides the engine: texts, token ids or JSON values.
        work: the engine's input, e.g. token ids; None if `request` is enough.
        truncated: whether the text was truncated on the left to fit the model's context.
        healed: the end of the prompt's text that the engine draws again as the beginning of the
            reply's ids; the reply's text comes after it.
        remark: what the table's notes have to say about the benchmark's requests, as the end of a
            sentence that begins with the benchmark's name; empty for nothing.
    """

    request: Request
    parts: tuple[object, ...]
    work: Any = None
    truncated: bool = False
    healed: str = ""
    remark: str = ""


@dataclass(frozen=True, slots=True)
class EngineIdentity:
    """What a reply depends on besides the request; kept in run.json.

    Attributes:
        version: version of the code that computes replies.
        weights, tokenizer: digests of both.
        device: kind of device, e.g. "cpu".
        arguments: further arguments that change replies.
        info: lm-eval's fields about a model (`model_num_parameters`, `model_dtype`,
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
        """A line of text; engines may share replies if and only if their lines are equal."""
        name = f"{self.engine}/{self.version}" if self.version else self.engine
        parts = (name, self.weights, self.tokenizer, self.dtype, self.device, self.arguments)
        return " ".join(part for part in parts if part)

    @property
    def context_len(self) -> int:
        """The model's context in tokens.

        Raises:
            OutputError: the identity was read from a run.json that lacks it.
        """
        found = self.info.get("max_length")
        if not isinstance(found, int):
            raise OutputError(
                "The run's run.json should hold model.max_length, the context in tokens, and does "
                "not. Delete it and run the command again, which keeps the replies."
            )
        return found

    def as_json(self) -> dict[str, Any]:
        """Return the fingerprint's fields as plain JSON."""
        fields = asdict(self)
        del fields["info"], fields["notes"]
        return fields


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do.

    Attributes:
        scores: can return log-likelihoods of continuations.
        samples: can draw independent samples of one prompt.
        any_text: can answer requests of any task, not only of our benchmarks.
        exact_text: replies keep their white space, which programs need.
        chat: takes conversations, not only texts.
        plain_twin: has a slow, plain path for `--verify`, or can open an engine that has one.
        why: what is lacking ("log-likelihoods", "independent samples", "exact text") to the reason,
            as the end of a sentence; for what an engine finds out when it is opened.
    """

    scores: bool = True
    samples: bool = True
    any_text: bool = True
    exact_text: bool = True
    chat: bool = False
    plain_twin: bool = False
    why: Mapping[str, str] = field(default_factory=dict)


# Called with a request and whether to answer correctly. Returns the text to reply, or the index of
# the choice to make likely.
Gold: TypeAlias = Callable[[Request, bool], str | int]


@contextmanager
def named(request: Request) -> Iterator[None]:
    """Add the benchmark and what to do to an error about the length of a request.

    Raises:
        EngineError: the `with` block raised one; the message begins with the benchmark.
    """
    name = request.benchmark
    try:
        yield
    except EngineError as error:
        raise EngineError(
            f"{name}: {error}. Leave {name} out of --tasks, or use a model with a longer context."
        ) from error


class Encoder(Protocol):
    """Encodes requests, without the model's weights."""

    identity: EngineIdentity  # what replies depend on besides the request

    def encode(self, request: Request) -> Encoded:
        """Encode a request.

        Raises:
            EngineError: the engine cannot answer this request.
        """


@dataclass(frozen=True, slots=True)
class PlanInputs:
    """What `plan` needs of an engine whose model is not loaded.

    Attributes:
        encoder: encodes the run's requests.
        place: the model's shape and the machine, for counting and timing.
        n_words: number of the tokenizer's ids.
    """

    encoder: Encoder
    place: "Place"
    n_words: int


class TextEncoder:
    """Encode requests for an engine that takes text.

    Args:
        seed: random seed of sampled replies; part of every key.
        identity: what replies depend on besides the request.
    """

    def __init__(self, seed: int, identity: EngineIdentity) -> None:
        self.seed = seed
        self.identity = identity

    def encode(self, request: Request) -> Encoded:
        """Identify the reply by texts, settings and seed, and if it is sampled by its draw."""
        settings = request.settings
        parts: tuple[object, ...] = (self.seed, request.asked, request.continuation)
        if settings is not None:
            parts = (*parts, list(asdict(settings).values()))
            if settings.is_sampled:
                parts = (*parts, request.draw)
        return Encoded(request, parts)


class Engine(Encoder, Protocol):
    """Anything that answers requests.

    A subclass sets `identity` in its constructor and defines `open`, `encode` and `answer`. It
    defines `encoder` too, unless `TextEncoder` can encode its requests.
    """

    can: Capabilities = Capabilities()
    counters: requests.Counters | None = None  # tokens computed so far; None if not counted
    # What was chosen by measuring this machine; a resumed run gives it back in its settings.
    choices: Mapping[str, str] = MappingProxyType({})
    twin: str = "on the plain path"  # where `check` computes, as the end of a sentence

    @property
    def encoding(self) -> Hashable | None:
        """What `encode` depends on besides a request's text: equal values encode equally.

        None: unknown, or not worth keeping what was encoded.
        """
        return None

    @classmethod
    def check_settings(cls, settings: RunSettings) -> None:
        """Check what needs neither data nor model, before a run loads either.

        Raises:
            MistralEvalError: the engine cannot run here, or not this model.
        """
        del settings

    @classmethod
    def open(cls, settings: RunSettings, gold: Gold, say: Say) -> "Engine":
        """Open the engine for a run.

        Args:
            settings: the run's settings.
            gold: returns the right and wrong answers, for an oracle.
            say: receives messages, e.g. which model is being loaded.

        Raises:
            MistralEvalError: it cannot be opened; the message says what to do.
        """
        del settings, gold, say
        raise TypeError(f"{cls.__name__} must define open()")

    @classmethod
    def encoder(cls, settings: RunSettings, identity: EngineIdentity) -> Encoder:
        """Return an encoder for the requests of an earlier run, without the model's weights."""
        return TextEncoder(settings.seed, identity)

    @classmethod
    def plan_inputs(cls, settings: RunSettings, say: Say) -> PlanInputs:
        """Return what counts and times a run's requests, without the model's weights.

        Raises:
            UsageError: the engine's work cannot be counted beforehand.
            MistralEvalError: configuration or tokenizer cannot be read.
        """
        del say
        raise UsageError(
            f"plan cannot count the work of --engine {settings.engine}. Leave --engine out."
        )

    def answer(
        self, encoded: Sequence[Encoded], known: Collection[int] = (), stop: Stop = never
    ) -> Iterator[tuple[int, Reply]]:
        """Answer requests of one kind; yield (index, reply) as soon as each is computed.

        Replies are in any order. Each index not in `known` is yielded once. Known requests still
        take part in batching, so that a resumed run is bit-identical to an uninterrupted one.

        Args:
            encoded: the requests, all of one kind.
            known: indices of requests whose replies the caller has.
            stop: called before each forward pass; once it returns True, the engine yields the
                replies it has computed and returns.

        Raises:
            RequestError: one request cannot be answered.
            UnansweredError: some requests failed for ever; all others were yielded before.
            EngineError: the engine failed.
        """

    def close(self) -> None:
        """Free what the engine holds, once a run has its replies; a second time do nothing."""
        return

    def speed(self) -> Mapping[str, Any] | None:
        """Return the engine's speed for run.json; None if it is not measured."""
        return None

    def checks(self, request: Request) -> bool:
        """Return whether `check` can compare the reply to a request."""
        del request
        return True

    def check(self, encoded: Encoded, reply: Reply) -> "Check":
        """Compare a reply with the engine's plain path (`can.plain_twin`)."""
        del encoded, reply
        raise EngineError(f"The engine {self.identity.engine} has no plain path to compare with.")


def engine_class(name: str) -> type[Engine]:
    """Return an engine's class; its `can` lists its capabilities before it is opened."""
    module, attribute = ENGINES[name]
    found: type[Engine] = getattr(import_module(module), attribute)
    return found


@dataclass(frozen=True, slots=True)
class Check:
    """The result of comparing a reply with the plain path.

    Attributes:
        difference: difference of the log-likelihoods, in nats; 0 for generated text.
        tolerance: the largest accepted difference, in nats.
        is_tie: whether the texts differ only after a token that either path could have drawn.
        fault: the fault, as the predicate of a sentence about the request; empty if none.
        is_compared: whether the reply has what is compared: a generated one its token ids.
    """

    difference: float = 0.0
    tolerance: float = 0.0
    is_tie: bool = False
    fault: str = ""
    is_compared: bool = True
