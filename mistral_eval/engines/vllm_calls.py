"""What is asked of vLLM for our requests, and how its answers are read; in token ids, without vLLM.

A *call* is one request to vLLM. Scoring merges the continuations that differ in their last token
only, such as the letters of a multiple-choice question, into one call: `Ask.among` names the last
tokens, and vLLM reads such a prompt from its prefix cache. The tokens before the last one need
`prompt_logprobs`, for which vLLM computes the whole prompt again.
"""

import hashlib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final, Protocol, TypeVar

from mistral_eval.native.requests import (
    GenerateReply,
    GenerateRequest,
    Sampling,
    ScoreReply,
    ScoreRequest,
    Stop,
)

IN_FLIGHT: Final = 512  # calls that vLLM holds at once; it computes 256 of them by default
AMONG: Final = 128  # the most last tokens that vLLM takes in one call
# The most likely tokens at each position of a prompt: two, so that a tie at the top is seen.
SHOWN: Final = 2
GREEDY: Final = Sampling()
Answer_co = TypeVar("Answer_co", covariant=True)
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to vLLM.

    Attributes:
        prompt: token ids, BOS included.
        max_tokens: maximum number of new tokens, at least 1.
        sampling: how they are drawn.
        seed: of the draw; None for greedy decoding.
        ends: ids that end the generation.
        allowed: the ids that may be drawn; empty for all.
        among: ids whose log-probabilities are wanted at the first new position.
        scored_from: the first position of the prompt whose log-probabilities are wanted; None for
            none.
    """

    prompt: tuple[int, ...]
    max_tokens: int = 1
    sampling: Sampling = GREEDY
    seed: int | None = None
    ends: tuple[int, ...] = ()
    allowed: tuple[int, ...] = ()
    among: tuple[int, ...] = ()
    scored_from: int | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """What vLLM says about a request after a step.

    Attributes:
        name: the request's name, as `Port.add` returned it.
        ids: the tokens drawn since the last step; one that ended the generation is the last.
        is_finished: whether vLLM will say nothing more about the request.
        among: log-probability of each id of `Ask.among`.
        scored: for each position from `Ask.scored_from` to the prompt's end, log-probabilities of
            the prompt's token and of the `SHOWN` most likely ones.
    """

    name: str
    ids: tuple[int, ...]
    is_finished: bool
    among: Mapping[int, float] = field(default_factory=dict)
    scored: Sequence[Mapping[int, float]] = ()


class Port(Protocol):
    """What we need of vLLM; `vllm_port.VllmPort` is the real one."""

    max_model_len: int  # the most tokens of a prompt and its reply
    has_among: bool  # whether this version of vLLM takes `Ask.among`

    def add(self, ask: Ask) -> str:
        """Queue a request; return its name.

        Raises:
            EngineError: vLLM refuses it, or has ended.
        """

    def step(self) -> Sequence[Said]:
        """Wait for the next tokens of the queued requests.

        Raises:
            EngineError: vLLM has ended.
        """

    def give_up(self, names: Collection[str]) -> None:
        """Give up queued requests; do nothing if vLLM has ended."""

    def forget(self) -> None:
        """Empty the prefix cache."""

    def close(self) -> object:
        """End vLLM and its processes."""


class Call(Protocol[Answer_co]):
    """What vLLM is asked for one or more of our requests.

    Attributes:
        ask: what vLLM is asked now.
        is_done: whether every reply is complete, so that nothing more is asked.
    """

    ask: Ask
    is_done: bool

    def take(self, said: Said) -> Iterator[tuple[int, Answer_co]]:
        """Read what vLLM says; yield (index, reply) of each request that it completes."""


@dataclass(slots=True)
class ScoreCall:
    """Continuations of one context that differ in the last token only.

    Attributes:
        ask: what vLLM is asked next.
        members: index and last token of each score request.
        ends_ask: whether the last token ends the prompt, instead of being in `Ask.among`.
    """

    ask: Ask
    members: tuple[tuple[int, int], ...]
    ends_ask: bool = False
    is_done: bool = False

    def take(self, said: Said) -> Iterator[tuple[int, ScoreReply]]:
        """Yield (index, reply) of every member once vLLM has finished."""
        if not said.is_finished:
            return
        self.is_done = True
        start = len(self.ask.prompt) if self.ask.scored_from is None else self.ask.scored_from
        inner = list(zip(self.ask.prompt[start:], said.scored, strict=True))
        logprobs = [shown[token] for token, shown in inner]
        is_greedy = all(is_top(token, shown) for token, shown in inner)
        for index, token in self.members:
            if self.ends_ask:
                yield index, ScoreReply(math.fsum(logprobs), is_greedy)
                continue
            total = math.fsum((*logprobs, said.among[token]))
            # vLLM draws the most likely token; its rank among the asked ids is not its rank of all
            yield index, ScoreReply(total, is_greedy and said.ids[0] == token)


def is_top(token: int, shown: Mapping[int, float]) -> bool:
    """Return whether a token is the argmax: of equally likely ones the lowest id, as in torch.

    Args:
        token: the token.
        shown: its log-probability and those of the `SHOWN` most likely tokens.
    """
    best = max(shown.values())
    return token == min(one for one, value in shown.items() if value == best)


def score_calls(
    requests: Sequence[tuple[int, ScoreRequest]], *, has_among: bool
) -> list[ScoreCall]:
    """Return the calls that score these requests, in the order in which they are cheapest.

    Calls that read the prefix cache come first and in the order of their prompts, so that those
    that share a few-shot block follow each other. The others overwrite the cache; the longest of
    them comes first, so that no long one runs alone at the end.

    Args:
        requests: (index, request).
        has_among: see `Port.has_among`.
    """
    if not has_among:
        calls = [
            ScoreCall(
                Ask(one.context + one.continuation, scored_from=len(one.context)),
                ((index, one.continuation[-1]),),
                ends_ask=True,
            )
            for index, one in requests
        ]
        return sorted(calls, key=lambda call: -len(call.ask.prompt))
    together: dict[tuple[tuple[int, ...], int], list[tuple[int, int]]] = {}
    for index, one in requests:
        place = (one.context + one.continuation[:-1], len(one.context))
        together.setdefault(place, []).append((index, one.continuation[-1]))
    calls = []
    for (prompt, start), members in together.items():
        scored_from = None if start == len(prompt) else start
        for part in _parts(members):
            among = tuple(dict.fromkeys(token for _, token in part))
            calls.append(ScoreCall(Ask(prompt, among=among, scored_from=scored_from), tuple(part)))
    cached = [call for call in calls if call.ask.scored_from is None]
    others = [call for call in calls if call.ask.scored_from is not None]
    return [
        *sorted(cached, key=lambda call: call.ask.prompt),
        *sorted(others, key=lambda call: -len(call.ask.prompt)),
    ]


def _parts(members: Sequence[tuple[int, int]]) -> Iterator[Sequence[tuple[int, int]]]:
    """Divide a question's continuations into what one call takes."""
    for start in range(0, len(members), AMONG):
        yield members[start : start + AMONG]


@dataclass(slots=True)
class GenerateCall:
    """One sample of one prompt, which stops at our stop strings.

    Attributes:
        index: of the request.
        request: the request; it asks for at least one token.
        ends: ids that end a generation.
        allowed: the ids that may be drawn; empty for all.
        ask: what vLLM is asked now; a healed first token is drawn by a request of its own.
        heals: whether that token is still to be drawn.
        ids: the tokens drawn so far, without the one that ended the generation.
    """

    index: int
    request: GenerateRequest
    ends: tuple[int, ...] = ()
    allowed: tuple[int, ...] = ()
    is_done: bool = False
    ask: Ask = field(init=False)
    heals: bool = field(init=False)
    ids: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.heals = bool(self.request.first)
        if self.heals:
            first = self._ask("|first")
            self.ask = replace(first, max_tokens=1, ends=(), allowed=self.request.first)
        else:
            self.ask = self._ask()

    def take(self, said: Said) -> Iterator[tuple[int, GenerateReply]]:
        """Append tokens as the native engine does; yield the reply once it is complete."""
        reply = self._reply(said)
        if reply is not None:
            self.is_done = True
            yield self.index, reply
        elif said.is_finished:  # a healed token was drawn; the rest is asked next
            self.heals = False
            self.ask = self._ask()

    def _ask(self, part: str = "") -> Ask:
        """Return the request for the tokens that are still to be drawn."""
        request = self.request
        return Ask(
            (*request.prompt, *self.ids),
            request.max_tokens - len(self.ids),
            request.sampling,
            seed_of(request.key + part) if request.key else None,
            self.ends,
            self.allowed,
        )

    def _reply(self, said: Said) -> GenerateReply | None:
        request = self.request
        for token in said.ids:
            if token in self.ends:
                return GenerateReply(tuple(self.ids), "eos")
            self.ids.append(token)
            if request.is_done is not None and request.is_done(self.ids):
                return GenerateReply(tuple(self.ids), "stop")
            if len(self.ids) == request.max_tokens:
                return GenerateReply(tuple(self.ids), "length")
        if not said.is_finished or self.heals:
            return None
        return GenerateReply(tuple(self.ids), "length")  # the model's context is full


def seed_of(key: str) -> int:
    """Return the seed of a draw: 31 bits of a digest of its name.

    vLLM gives the samples of one request neighbouring seeds, so runs with neighbouring seeds share
    draws. Digests of names are as good as independent.
    """
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") >> 1


def run_calls(
    port: Port, calls: Iterable[Call[Answer]], stop: Stop
) -> Iterator[tuple[int, Answer]]:
    """Yield (index, reply) of every request as vLLM answers; end early once `stop` says so.

    Raises:
        EngineError: vLLM refuses a request, or has ended.
    """
    waiting = iter(calls)
    flying: dict[str, Call[Answer]] = {}
    try:
        while not stop():
            for call in islice(waiting, IN_FLIGHT - len(flying)):
                flying[port.add(call.ask)] = call
            if not flying:
                return
            for said in port.step():
                asked = flying.get(said.name)
                if asked is None:  # given up, but vLLM was computing it
                    continue
                yield from asked.take(said)
                if said.is_finished or asked.is_done:
                    del flying[said.name]
                if asked.is_done and not said.is_finished:
                    port.give_up([said.name])
                elif said.is_finished and not asked.is_done:
                    flying[port.add(asked.ask)] = asked
    finally:
        port.give_up(list(flying))
