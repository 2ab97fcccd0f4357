"""How a run's requests are cut into shards: what they share, and what their replies cost."""

import json
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, Final

from mistral_eval.engines.interface import GenerationSettings, Request
from mistral_eval.native.requests import GenerateRequest, ScoreRequest
from mistral_eval.native.shards import Fewest, Shard, cut_shards

# What a generated token costs in tokens of a prompt, and how much of its limit a reply takes. Both
# only balance shards of different benchmarks: idle workers take what is left.
DECODE_PRICE: Final = 2.0
REPLY_SHARE: Final = 0.25
# What a shard should have, by kind of request and device. A scoring one: the tokens of several
# forward passes. A generating one: several times the replies that are decoded in one step, since
# the last long replies of a shard are decoded alone.
_FEWEST: Final = MappingProxyType(
    {
        ("score", "cpu"): Fewest(cost=4 * 1024),
        ("score", "cuda"): Fewest(cost=4 * 8192),
        ("generate", "cpu"): Fewest(requests=512),
        ("generate", "cuda"): Fewest(requests=4096),
    }
)


def fewest_of(kind: str, device: str) -> Fewest:
    """Return what a shard of requests of this kind should have on this kind of device."""
    return _FEWEST.get((kind, device), Fewest())


def recut(
    paths: Sequence[Sequence[int]], extra: Sequence[float], indices: Sequence[int], parts: int
) -> list[Shard]:
    """Cut some of the requests into at most so many shards."""
    cut = cut_shards([paths[n] for n in indices], parts, [extra[n] for n in indices])
    return [Shard(tuple(indices[n] for n in one.indices), one.cost) for one in cut.shards]


def path_of(work: Any, request: Request | None = None) -> Sequence[int]:
    """Return ids that are equal where requests share work: token ids, or else UTF-8 bytes.

    Args:
        work: an engine's input (`Encoded.work`).
        request: what it was made of, for an engine that takes text.
    """
    if isinstance(work, tuple) and work and isinstance(work[0], ScoreRequest):
        work = work[0]  # a long text's first window
    if isinstance(work, ScoreRequest):
        return work.context + work.continuation[:-1] if work.continuation[1:] else work.context
    if isinstance(work, GenerateRequest):
        return work.prompt
    assert request is not None, work
    asked = request.asked
    text = asked if isinstance(asked, str) else json.dumps(asked)
    return tuple((text + request.continuation).encode())


def reply_cost(settings: GenerationSettings | None) -> float:
    """Return the expected cost of a reply's tokens, in tokens of a prompt; 0 of a score."""
    return DECODE_PRICE * REPLY_SHARE * settings.max_tokens if settings is not None else 0.0
