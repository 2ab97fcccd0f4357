"""Which prompts share what: a benchmark its few-shot block, the samples their question."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from mistral_eval.native.requests import GenerateRequest

# Neighbours belong to one benchmark when they share half of the shorter one, and more than BOS
# and a word or two.
_SHARED_PART = 0.5
_SHARED_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Question:
    """A distinct prompt behind its cluster's root, and the requests that continue it."""

    tail: tuple[int, ...]
    requests: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cluster:
    """Prompts that begin with the same `root` (empty where nothing long is shared)."""

    root: tuple[int, ...]
    questions: tuple[Question, ...]


def cluster_prompts(
    requests: Sequence[GenerateRequest], known: Collection[int] = ()
) -> list[Cluster]:
    """Cluster the prompts by what they share; depends on the set of requests, not their order.

    Requests in `known` shape the clusters and their roots, and are not in them.

    A root is shorter than each of its prompts, so that every question has a token of its own, whose
    logits begin its generations. Prompts that share little come together in one rootless cluster.
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
        questions = (Question(prompt[length:], tuple(by_prompt[prompt])) for prompt in run)
        clusters.append(Cluster(run[0][:length], tuple(questions)))
    return _without(clusters, known) if known else clusters


def _without(clusters: Sequence[Cluster], known: Collection[int]) -> list[Cluster]:
    """The clusters without these requests; a question or cluster without any is gone."""
    left = []
    for cluster in clusters:
        questions = [
            replace(question, requests=tuple(n for n in question.requests if n not in known))
            for question in cluster.questions
        ]
        if asked := tuple(question for question in questions if question.requests):
            left.append(replace(cluster, questions=asked))
    return left


def unique_tokens(requests: Sequence[GenerateRequest]) -> int:
    """Tokens of the prefix tree of all prompts."""
    ordered = sorted({request.prompt for request in requests})
    return sum(len(right) - _shared(left, right) for left, right in pairwise([(), *ordered]))


def _runs(ordered: list[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Sorted prompts, cut where neighbours share little."""
    runs: list[list[tuple[int, ...]]] = []
    for left, right in pairwise([(), *ordered]):
        least = max(_SHARED_TOKENS, _SHARED_PART * min(len(left), len(right)))
        if _shared(left, right) >= least:
            runs[-1].append(right)
        else:
            runs.append([right])
    return runs


def _shared(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    """Length of the longest common prefix. Of sorted prompts, first and last share the least."""
    for n, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return n
    return min(len(left), len(right))
