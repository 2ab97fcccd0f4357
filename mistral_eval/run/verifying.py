"""`--verify N`: some of a run's requests again on the engine's plain path, one at a time.

The replies are read from the replies log, so those of an earlier process are checked too.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mistral_eval.engines.interface import Request
from mistral_eval.errors import EngineError, UsageError
from mistral_eval.run.answering import Answering


def verify(answers: Answering, count: int, seed: int) -> dict[str, Any]:
    """Compute `count` requests of a run again and compare.

    Args:
        answers: the run's requests, engine and replies log.
        count: requests, spread over scores and generations; fewer where fewer were asked.
        seed: chooses them.

    Returns:
        What run.json keeps: requests by kind, the largest difference of a log-likelihood and its
        tolerance in nats, and how many generations differ from a tie on.

    Raises:
        EngineError: a reply differs by more than the dtype's tolerance.
        UsageError: the engine has no plain path.
    """
    if not answers.engine.can.plain_twin:
        raise UsageError(
            "--verify compares replies with the engine's own plain path, and this model runs on "
            f"the engine {answers.identity.engine}, which has none. Leave --verify out."
        )
    kinds: Counter[str] = Counter()
    largest = tolerance = 0.0
    ties = 0
    for request in pick(answers.requests, count, seed):
        encoded = answers.engine.encode(request)
        found = answers.engine.check(encoded, answers.lookup(encoded))
        if found.fault:
            raise EngineError(
                f"--verify: {request} {found.fault} on the plain path, computed alone. The run's "
                "numbers cannot be used: run again with --fresh, and report it if it persists."
            )
        kinds[request.kind] += 1
        largest, tolerance = max((largest, tolerance), (found.difference, found.tolerance))
        ties += found.is_tie
    return {
        "requests": dict(kinds),
        "largest_difference": largest,
        "tolerance": tolerance,
        "ties": ties,
    }


def pick(requests: Sequence[Request], count: int, seed: int) -> list[Request]:
    """Choose `count` requests, of each kind as many as of the others as far as there are."""
    draw = random.Random(seed)  # noqa: S311 - a choice that can be repeated
    by_kind: dict[str, list[Request]] = {}
    for request in requests:
        by_kind.setdefault(request.kind, []).append(request)
    for members in by_kind.values():
        draw.shuffle(members)
    picked: list[Request] = []
    while len(picked) < count and any(by_kind.values()):
        for members in by_kind.values():
            if members and len(picked) < count:
                picked.append(members.pop())
    return picked


def is_verified(run: Mapping[str, Any], count: int) -> bool:
    """Whether a finished run has been checked on as many requests already."""
    verified = run.get("verify") or {}
    return int(sum(verified.get("requests", {}).values())) >= count
