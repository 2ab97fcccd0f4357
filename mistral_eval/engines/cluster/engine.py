"""The engine of a run with workers: it encodes and deals out; the workers compute."""

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from functools import partial

from mistral_eval.engines.cluster.cutting import fewest_of, path_of, recut, reply_cost
from mistral_eval.engines.cluster.pools import make_pool
from mistral_eval.engines.cluster.scheduler import Scheduler
from mistral_eval.engines.cluster.team import Patience, Team
from mistral_eval.engines.cluster.worker_messages import Opened
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
from mistral_eval.engines.native_encoder import NativeEncoder
from mistral_eval.engines.native_twin import is_comparable
from mistral_eval.errors import UnansweredError
from mistral_eval.native.shards import Cut, cut_for_workers, cut_shards
from mistral_eval.settings import RunSettings


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

    @property
    def encoding(self) -> Hashable | None:
        """What token ids depend on, where the workers' engine takes such; see `Engine`."""
        return self._encoder.encoding if isinstance(self._encoder, NativeEncoder) else None

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
        paths = [path_of(item.work, item.request) for item in encoded]
        extra = [reply_cost(item.request.settings) for item in encoded]
        kind = encoded[0].request.kind if encoded else "score"
        fewest = fewest_of(kind, self.identity.device)
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
