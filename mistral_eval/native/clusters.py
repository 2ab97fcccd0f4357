"""Cluster the prompts of a run by their few-shot blocks, so that a block is computed once."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from mistral_eval.native.requests import GenerateRequest

# Sorted neighbours form one cluster if they share half of the shorter one, and more than BOS and a
# word or two.
_SHARED_PART = 0.5
_SHARED_TOKENS = 8


@dataclass(frozen=True, slots=True)
class DistinctPrompt:
    """A distinct prompt without its cluster's root, and the requests that continue it."""

    tail: tuple[int, ...]
    requests: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cluster:
    """Prompts that begin with the same `root`, which is empty if they share little."""

    root: tuple[int, ...]
    prompts: tuple[DistinctPrompt, ...]


def cluster_prompts(
    requests: Sequence[GenerateRequest], known: Collection[int] = ()
) -> list[Cluster]:
    """Cluster prompts by their shared prefix, independently of the order of requests.

    Requests in `known` count when roots are chosen but are left out of the result. A root is
    shorter than each of its prompts, since the logits of a prompt's last own token start its
    generations. Prompts that share little form one cluster without a root.
    """
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for n, request in enumerate(requests):
        by_prompt.setdefault(request.prompt, []).append(n)
    ordered = sorted(by_prompt)
    runs = _runs(ordered)
    clusters = []
    loose: list[tuple[int, ...]] = [run[0] for run in runs if len(run) == 1]
    for run in ([loose] if loose else []) + [run for run in runs if len(run) > 1]:
        shared = 0 if run is loose else _shared(run[0], run[-1])
        length = min(shared, min(map(len, run)) - 1)
        prompts = (DistinctPrompt(prompt[length:], tuple(by_prompt[prompt])) for prompt in run)
        clusters.append(Cluster(run[0][:length], tuple(prompts)))
    return _without(clusters, known) if known else clusters


def _without(clusters: Sequence[Cluster], known: Collection[int]) -> list[Cluster]:
    """Remove known requests, then prompts and clusters without requests."""
    left = []
    for cluster in clusters:
        prompts = [
            replace(prompt, requests=tuple(n for n in prompt.requests if n not in known))
            for prompt in cluster.prompts
        ]
        if asked := tuple(prompt for prompt in prompts if prompt.requests):
            left.append(replace(cluster, prompts=asked))
    return left


def unique_tokens(requests: Sequence[GenerateRequest]) -> int:
    """Count the tokens in the prefix tree of all prompts."""
    ordered = sorted({request.prompt for request in requests})
    return sum(len(right) - _shared(left, right) for left, right in pairwise([(), *ordered]))


def _runs(ordered: list[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Split sorted prompts where neighbours share little."""
    runs: list[list[tuple[int, ...]]] = []
    for left, right in pairwise([(), *ordered]):
        least = max(_SHARED_TOKENS, _SHARED_PART * min(len(left), len(right)))
        if _shared(left, right) >= least:
            runs[-1].append(right)
        else:
            runs.append([right])
    return runs


def _shared(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    """Return the length of the longest common prefix."""
    for n, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return n
    return min(len(left), len(right))
