"""What the adapter asks of an engine that speaks text, and what it gets back.

A backend turns each of lm-eval's instances into a prepared request: what identifies it in the
journal, and what the engine needs. Replies are plain JSON, since the journal keeps them.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NotRequired, Protocol, TypedDict

from lm_eval.api.instance import Instance

from mistral_eval.native.requests import Stopping

Kind = Literal["score", "rolling", "generate"]


class ReplyRecord(TypedDict):
    """A reply as the journal keeps it; which fields are there depends on the kind."""

    logprob: NotRequired[float]
    is_greedy: NotRequired[bool]
    text: NotRequired[str]
    ids: NotRequired[list[int]]
    finish: NotRequired[str]


@dataclass(frozen=True, slots=True)
class Ask:
    """One of lm-eval's instances, and which of its samples is wanted (0 where there is one)."""

    instance: Instance
    sample: int = 0

    @property
    def name(self) -> str:
        """The draw's name within a seed: benchmark, question id and sample index."""
        return f"{self.instance.task_name}|{self.instance.doc_id}|{self.sample}"

    @property
    def words(self) -> str:
        """The request as a sentence names it."""
        question = f"{self.instance.task_name} question {self.instance.doc_id}"
        if self.instance.request_type == "generate_until":
            return f"{question}, sample {self.sample}"
        if self.instance.request_type == "loglikelihood":
            return f"{question}, choice {self.instance.idx}"
        return question


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request ready to be answered: `parts` (JSON) decide its key, `request` is the engine's."""

    parts: tuple[object, ...]
    request: Any


@dataclass(slots=True)
class Counts:
    """What a backend saw and did; the harness writes it to run.json.

    `engine` holds the native engine's counters (`native.requests.Counters`): tokens computed,
    unique tokens, tokens without sharing, seconds.
    """

    truncated: int = 0
    generated_tokens: int = 0
    engine: dict[str, float] = field(default_factory=dict)


class Backend(Protocol):
    """Answers prepared requests. Each index comes back once, in any order; a known one never.

    `stopping` is asked before each pass: once it says yes, the backend ends with what it has.
    """

    name: str
    stopping: Stopping

    @property
    def counts(self) -> Counts | None:
        """What it saw and did; None where lm-eval's own model does not say."""
        ...

    @property
    def fingerprint(self) -> str:
        """What a reply depends on apart from the request: part of its key in the journal."""
        ...

    def prepare(self, kind: Kind, ask: Ask) -> Prepared:
        """Say what identifies this request, and what the engine needs to answer it."""
        ...

    def answer(
        self, kind: Kind, prepared: Sequence[Prepared], known: Collection[int] = ()
    ) -> Iterator[tuple[int, ReplyRecord]]:
        """Answer, yielding each reply as soon as it is known.

        `known` holds the indices that the caller has a reply to: they may shape how the work is
        cut, and are not answered.
        """
        ...
