"""`--verify N`: some of a run's requests again on the plain path, against the replies it counts.

The replies are read from the journal, so those of an earlier process are checked like new ones.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from mistral_eval.engines.interface import Ask, Backend, Counts, Kind, Prepared, ReplyRecord
from mistral_eval.engines.lm_eval_model import MistralLM
from mistral_eval.engines.native import NativeBackend
from mistral_eval.errors import EngineError, UsageError
from mistral_eval.native.plain import PlainTwin
from mistral_eval.native.requests import GenerateReply
from mistral_eval.native.runner import ModelRunner
from mistral_eval.record.journal import request_key

Asked = tuple[Kind, Ask]


def native_engine(backend: Backend) -> ModelRunner:
    """The engine whose plain path can check a run.

    Raises:
        UsageError: the run is another engine's.
    """
    if isinstance(backend, NativeBackend) and isinstance(backend.engine, ModelRunner):
        return backend.engine
    raise UsageError(
        "--verify compares the native engine with its own plain path, and this model runs on the "
        f"engine {backend.name}. Leave --verify out."
    )


def verify(lm: MistralLM, count: int, seed: int) -> dict[str, Any]:
    """Answer `count` requests of a run again, one at a time, and compare.

    Args:
        lm: holds what was asked, the journal and the native backend.
        count: requests, spread over scores and generations; fewer where fewer were asked.
        seed: chooses them.

    Returns:
        What run.json keeps: requests by kind, the largest difference of a score in nats, and how
        many generations part at a tie (never in float32 on the CPU).

    Raises:
        EngineError: a reply differs by more than the dtype's tolerance.
        UsageError: the backend is not native.
    """
    assert lm.journal is not None, "a run keeps its replies in a journal"
    native_engine(lm.backend)
    assert isinstance(lm.backend, NativeBackend)
    backend = replace(lm.backend, counts=Counts())  # preparing again must not count again
    check = _Check(backend)
    kinds: Counter[str] = Counter()
    for kind, ask in pick(lm.asked, count, seed):
        prepared = backend.prepare(kind, ask)
        key = request_key(backend.fingerprint, kind, *prepared.parts)
        check.one(kind, ask, prepared, lm.journal.lookup([key])[key])
        kinds[kind] += 1
    return {
        "requests": dict(kinds),
        "largest_difference": check.largest,
        "tolerance": check.twin.tolerance(1),
        "ties": check.ties,
    }


def pick(asked: Sequence[Asked], count: int, seed: int) -> list[Asked]:
    """`count` of the requests, each kind as often as the others as far as it goes."""
    draw = random.Random(seed)  # noqa: S311 - a choice that can be repeated
    by_kind: dict[str, list[Asked]] = {}
    for item in asked:
        by_kind.setdefault(item[0], []).append(item)
    for members in by_kind.values():
        draw.shuffle(members)
    picked: list[Asked] = []
    while len(picked) < count and any(by_kind.values()):
        for members in by_kind.values():
            if members and len(picked) < count:
                picked.append(members.pop())
    return picked


class _Check:
    """Compares reply after reply and remembers the largest difference."""

    def __init__(self, backend: NativeBackend) -> None:
        engine = native_engine(backend)
        self.twin = PlainTwin(engine.model, engine.eos_id)
        self.largest = 0.0
        self.ties = 0

    def one(self, kind: Kind, ask: Ask, prepared: Prepared, reply: ReplyRecord) -> None:
        """Compare one reply with the plain path's.

        Raises:
            EngineError: they differ by more than the tolerance.
        """
        if kind == "generate":
            self._generation(ask, prepared, reply)
        else:
            self._score(kind, ask, prepared, reply)

    def _score(self, kind: Kind, ask: Ask, prepared: Prepared, reply: ReplyRecord) -> None:
        windows = (prepared.request,) if kind == "score" else prepared.request
        replies = [self.twin.score(window) for window in windows]
        plain = sum(one.logprob for one in replies)
        difference = abs(plain - reply["logprob"])
        tokens = sum(len(window.continuation) for window in windows)
        if not difference <= self.twin.tolerance(tokens):  # NaN is a difference too
            _refuse(
                ask,
                f"has the log-probability {reply['logprob']:.6f}",
                f"{plain:.6f}, further away than {self.twin.tolerance(tokens):.6f}",
            )
        self.largest = max(self.largest, difference)
        if kind == "score" and self.twin.is_exact and reply["is_greedy"] != replies[0].is_greedy:
            said = "is" if reply["is_greedy"] else "is not"
            _refuse(ask, f"{said} greedy", "the opposite")

    def _generation(self, ask: Ask, prepared: Prepared, reply: ReplyRecord) -> None:
        request, _ = prepared.request
        finish: Any = reply["finish"]
        parting = self.twin.parting(request, GenerateReply(tuple(reply["ids"]), finish))
        if parting is None:
            return
        if not parting.is_tie:
            _refuse(ask, f"has the token {parting.ours} at step {parting.step}", f"{parting.plain}")
        self.ties += 1


def _refuse(ask: Ask, ours: str, plain: str) -> NoReturn:
    instance: Any = ask.instance
    part = f"sample {ask.sample}" if instance.request_type == "generate_until" else ""
    name = f"{instance.task_name} question {instance.doc_id} {part or f'request {instance.idx}'}"
    raise EngineError(
        f"--verify: {name} {ours} in this run, and on the plain path, computed alone, {plain}. "
        "The run's numbers cannot be used: run again with --fresh, and report it if it stays."
    )


def is_verified(run: Mapping[str, Any], count: int) -> bool:
    """Whether a finished run has been checked on as many requests already."""
    verified = run.get("verify") or {}
    return int(sum(verified.get("requests", {}).values())) >= count
