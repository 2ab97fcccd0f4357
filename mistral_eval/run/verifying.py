"""`--verify N`: recompute N of a run's requests on the engine's plain path, one at a time.

The replies are read from the replies log, so replies of an earlier process are checked too.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mistral_eval.console import counted
from mistral_eval.engines.interface import EngineIdentity, Request
from mistral_eval.errors import EngineError, UsageError
from mistral_eval.run.answering import Answering


def verify(answers: Answering, count: int, seed: int) -> dict[str, Any]:
    """Recompute `count` requests of a run on the plain path and compare the replies.

    Args:
        answers: the run's requests, engine and replies log.
        count: number of requests, divided between scores and generations; at most all of them.
            Those whose replies have nothing to compare (`Check.is_compared`) are left out.
        seed: random seed of the choice.

    Returns:
        The fields for run.json: requests by kind, the largest difference of a log-likelihood and
        the tolerance, both in nats, and how many generations differ because of a tie.

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
    asked = [request for request in answers.requests if answers.engine.checks(request)]
    for request in pick(asked, count, seed):
        encoded = answers.engine.encode(request)
        found = answers.engine.check(encoded, answers.lookup(encoded))
        if found.fault:
            raise EngineError(
                f"--verify: {request} {found.fault} {answers.engine.twin}, computed alone. The "
                "run's numbers cannot be used: run again with --fresh, and report it if it "
                "persists."
            )
        if not found.is_compared:
            continue
        kinds[request.kind] += 1
        largest, tolerance = max((largest, tolerance), (found.difference, found.tolerance))
        ties += found.is_tie
    return {
        "requests": dict(kinds),
        "largest_difference": largest,
        "tolerance": tolerance,
        "ties": ties,
    }


def judgement(verified: Mapping[str, Any], identity: EngineIdentity, twin: str) -> str:
    """Say what a verification found, and whether rounding in the model's dtype explains it.

    Args:
        verified: what `verify` returned.
        identity: the engine's.
        twin: where replies were computed again (`Engine.twin`).
    """
    count = sum(verified["requests"].values())
    if not count:
        return (
            f"No reply could be verified {twin}: none has log-likelihoods or token ids to compare."
        )
    generated = verified["requests"].get("generate", 0)
    dtype = identity.dtype.removeprefix("torch.")
    parts = []
    if count > generated:
        parts.append(
            f"log-probabilities differ by {verified['largest_difference']:.1e} nats at most "
            f"({dtype or 'rounding'} explains up to {verified['tolerance']:.1e} there)"
        )
    if generated:
        ties = verified["ties"]
        where = f"at a tie in {dtype}" if dtype else "at a tie"  # a server does not tell its dtype
        after = f" (the others part {where})" if ties else ""
        parts.append(f"{generated - ties} of {generated} generations have the same tokens{after}")
    return f"Verified {counted(count, 'request')} {twin}: {'; '.join(parts)}."


def pick(requests: Sequence[Request], count: int, seed: int) -> list[Request]:
    """Choose `count` requests at random, as evenly as possible between the kinds."""
    draw = random.Random(seed)  # noqa: S311 - a repeatable choice
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
    """Return whether a finished run has already been verified on `count` requests."""
    verified = run.get("verify") or {}
    return int(sum(verified.get("requests", {}).values())) >= count
