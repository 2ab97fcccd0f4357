"""What a driver and its workers tell each other, and the pool that carries it.

A *seat* is a place for one worker, numbered from 0. When its worker dies, another one takes the
seat. A *job* is a shard of requests that one worker answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mistral_eval.engines.interface import Capabilities, Check, EngineIdentity, Reply, Request
from mistral_eval.errors import MistralEvalError
from mistral_eval.native.requests import Counters
from mistral_eval.settings import RunSettings


@dataclass(frozen=True, slots=True)
class Job:
    """Requests for one worker.

    Attributes:
        requests: what to answer, all of one kind.
        known: positions among `requests` that need no reply; they take part in batching.
    """

    requests: tuple[Request, ...]
    known: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Question:
    """Ask a worker to compare a reply with its engine's plain path (`Engine.check`)."""

    request: Request
    reply: Reply


@dataclass(frozen=True, slots=True)
class Opened:
    """A worker has opened its engine.

    Attributes:
        place: host and process id, for sentences.
    """

    identity: EngineIdentity
    can: Capabilities
    choices: Mapping[str, str]
    twin: str
    place: str


@dataclass(frozen=True, slots=True)
class Said:
    """A worker's message to the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Alive:
    """A worker begins another forward pass of its job."""


@dataclass(frozen=True, slots=True)
class Answered:
    """Replies by their positions in the job, and all that the worker has computed so far.

    They are about the worker's latest job: it has one at a time, and messages keep their order.
    """

    replies: Sequence[tuple[int, Reply]]
    counters: Counters | None


@dataclass(frozen=True, slots=True)
class Done:
    """A worker has ended a job: all its replies were sent, unless it was told to stop.

    Attributes:
        failures: position and reason of each request that failed for good.
    """

    failures: Sequence[tuple[int, str]] = ()


@dataclass(frozen=True, slots=True)
class Checked:
    """The answer to a `Question`."""

    check: Check


@dataclass(frozen=True, slots=True)
class Refused:
    """A worker's engine raised an error that the user can fix; the worker ends.

    Attributes:
        index: position in the job of the request that the error is about; None if it is about none.
        what: the error without that position.
    """

    error: type[MistralEvalError]
    what: str
    index: int | None = None


@dataclass(frozen=True, slots=True)
class Died:
    """A worker has ended without a word of its own; `why` ends a sentence about it."""

    why: str


Event = Opened | Said | Alive | Answered | Done | Checked | Refused | Died


class Pool(Protocol):
    """Starts workers and carries messages; it decides nothing.

    Attributes:
        size: number of seats.
    """

    size: int

    def start(self, seat: int, settings: RunSettings) -> None:
        """Start a worker in a free seat; it opens the engine that `settings` names."""

    def give(self, seat: int, asked: Job | Question) -> None:
        """Send an idle worker its next job or question."""

    def stop(self, seat: int) -> None:
        """Tell a worker to end its job after the forward pass in flight."""

    def kill(self, seat: int) -> None:
        """End a worker at once; no event follows."""

    def poll(self, seconds: float) -> list[tuple[int, Event]]:
        """Return the events that have arrived, by seat; wait at most so long for the first."""

    def close(self) -> None:
        """End all workers and whatever the pool has started."""
