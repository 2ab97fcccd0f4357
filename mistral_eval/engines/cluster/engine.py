"""The engine of a run with workers: it encodes and deals out; the workers compute."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Final

from mistral_eval.engines.cluster.messages import Opened
from mistral_eval.engines.cluster.pools import make_pool
from mistral_eval.engines.cluster.scheduler import Scheduler
from mistral_eval.engines.cluster.team import Patience, Team
from mistral_eval.engines.interface import (
    Check,
    Encoded,
    Encoder,
    Engine,
    Gold,
    Reply,
    Request,
    Say,
    Stop,
    engine_class,
    never,
)
from mistral_eval.engines.native_twin import is_comparable
from mistral_eval.errors import UnansweredError
from mistral_eval.native.requests import GenerateRequest, ScoreRequest
from mistral_eval.native.shards import Cut, Shard, cut_for_workers, cut_shards
from mistral_eval.settings import RunSettings

# What a generated token costs in tokens of a prompt, and how much of its limit a reply takes. Both
# only balance shards of different benchmarks: idle workers take what is left.
DECODE_PRICE: Final = 2.0
REPLY_SHARE: Final = 0.25
# Replies that a generating worker should get at once, by device: several times what it decodes in
# one step, since the last long replies of a shard are decoded alone.
FEWEST_REPLIES: Final = MappingProxyType({"cpu": 512, "cuda": 4096})


class ClusterEngine(Engine):
    """An engine in several workers.

    Its identity is that of the workers' engine, so that a run may go on with or without workers.

    Args:
        team: the workers, of which the first has opened its engine.
        opened: what that one said.
        encoder: encodes as the workers do.
    """

    def __init__(self, team: Team, opened: Opened, encoder: Encoder) -> None:
        self._team = team
        self._encoder = encoder
        self.identity = opened.identity
        self.can = opened.can
        self.choices: Mapping[str, str] = opened.choices
        self.twin = opened.twin
        self.counters = team.counters

    @classmethod
    def open(
        cls, settings: RunSettings, gold: Gold, say: Say, patience: Patience | None = None
    ) -> "ClusterEngine":
        """Start the first worker of the pool that `settings.workers` names.

        Raises:
            MistralEvalError: the pool cannot be made, or the worker cannot open its engine.
        """
        del gold
        pool = make_pool(settings, say)
        team = Team(pool, settings, say, patience)
        try:
            opened = team.begin()
            encoder = engine_class(opened.identity.engine).encoder(settings, opened.identity)
        except BaseException:
            pool.close()
            raise
        return cls(team, opened, encoder)

    def encode(self, request: Request) -> Encoded:
        """Encode a request as the workers do."""
        return self._encoder.encode(request)

    def answer(
        self, encoded: Sequence[Encoded], known: Collection[int] = (), stop: Stop = never
    ) -> Iterator[tuple[int, Reply]]:
        """Cut the requests into shards and have the workers answer them.

        Raises:
            UnansweredError: some requests failed, or killed several workers.
        """
        paths = [path_of(item) for item in encoded]
        extra = [_beside(item) for item in encoded]
        is_score = not encoded or encoded[0].request.kind != "generate"
        fewest = 1 if is_score else FEWEST_REPLIES.get(self.identity.device, 1)
        cut = cut_for_workers(paths, self._team.pool.size, extra, fewest)
        self._count_unique(encoded, paths, cut, known)
        scheduler = Scheduler(cut.shards, known, partial(recut, paths, extra))
        requests = [item.request for item in encoded]
        yield from self._team.answer(scheduler, requests, stop)
        if scheduler.left_out:
            raise UnansweredError(scheduler.left_out)

    def checks(self, request: Request) -> bool:
        """Return whether the workers' engine can compare the reply to a request."""
        return self.identity.engine == "native" or is_comparable(request)

    def check(self, encoded: Encoded, reply: Reply) -> Check:
        """Have a worker compare a reply with its engine's plain path."""
        return self._team.check(encoded.request, reply)

    def close(self) -> None:
        """End all workers."""
        self._team.close()

    def _count_unique(
        self,
        encoded: Sequence[Encoded],
        paths: Sequence[Sequence[int]],
        cut: Cut,
        known: Collection[int],
    ) -> None:
        """Count the distinct tokens of what is asked, over all workers."""
        unique = cut.unique
        if known:
            asked = [path for n, path in enumerate(paths) if n not in known]
            unique = cut_shards(asked, 1).unique
        if not encoded or self.counters is None:
            return
        if encoded[0].request.kind == "generate":
            self.counters.prompt_unique += unique
        else:
            self.counters.score_unique += unique


def recut(
    paths: Sequence[Sequence[int]], extra: Sequence[float], indices: Sequence[int], parts: int
) -> list[Shard]:
    """Cut some of the requests into at most so many shards."""
    cut = cut_shards([paths[n] for n in indices], parts, [extra[n] for n in indices])
    return [Shard(tuple(indices[n] for n in one.indices), one.cost) for one in cut.shards]


def path_of(encoded: Encoded) -> Sequence[int]:
    """Return ids that are equal where requests share work: token ids, or else UTF-8 bytes."""
    work = encoded.work
    if isinstance(work, tuple) and work and isinstance(work[0], ScoreRequest):
        work = work[0]  # a long text's first window
    if isinstance(work, ScoreRequest):
        return work.context + work.continuation[:-1] if work.continuation[1:] else work.context
    if isinstance(work, GenerateRequest):
        return work.prompt
    request = encoded.request
    asked = request.asked
    text = asked if isinstance(asked, str) else json.dumps(asked)
    return tuple((text + request.continuation).encode())


def _beside(encoded: Encoded) -> float:
    """Return the expected cost of a reply's tokens, in tokens of a prompt."""
    settings = encoded.request.settings
    return DECODE_PRICE * REPLY_SHARE * settings.max_tokens if settings is not None else 0.0
