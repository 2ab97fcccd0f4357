"""The functions that the YAML files name, with the signatures that lm-eval 0.4.13 calls.

lm-eval does not tell a function which task it judges. Therefore every registered benchmark has a
`filter_<id>`, a `results_<id>` and an `asked_<id>`, created on first access.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, TypeAlias

from mistral_eval.answers.verdict import QuestionVerdict
from mistral_eval.data import Fingerprint, Rows, Source, dataset_from
from mistral_eval.suite.benchmark import DEFAULT, Benchmark, Doc, JudgeContext, Score
from mistral_eval.suite.registry import BY_ID

Judged: TypeAlias = list[list[QuestionVerdict]]
Metrics: TypeAlias = dict[str, object]


def __getattr__(name: str) -> Callable[..., Any]:
    """Return the function of one benchmark: `filter_<id>`, `results_<id>` or `asked_<id>`."""
    role, _, benchmark = name.partition("_")
    if role == "filter" and benchmark in BY_ID:
        return filter_for(BY_ID[benchmark])
    if role == "results" and benchmark in BY_ID:
        return results_for(BY_ID[benchmark])
    if role == "asked" and benchmark in BY_ID:
        return asked_of(BY_ID[benchmark])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def filter_for(
    benchmark: Benchmark, context: JudgeContext = DEFAULT
) -> Callable[[Sequence[Sequence[str]], Sequence[Doc]], Judged]:
    """Return a `filter_fn` that judges all of a benchmark's replies at once."""

    def apply(resps: Sequence[Sequence[str]], docs: Sequence[Doc]) -> Judged:
        verdicts = benchmark.judge(list(docs), list(resps), context)
        return [[verdict] for verdict in verdicts]

    return apply


def results_for(benchmark: Benchmark) -> Callable[[Doc, Sequence[Score]], Metrics]:
    """Return a `process_results` that judges one multiple-choice question."""

    def results(doc: Doc, scores: Sequence[Score]) -> Metrics:
        return dict(benchmark.judge([doc], [scores])[0].metrics)

    return results


def asked_of(benchmark: Benchmark) -> Callable[[Rows], Rows]:
    """Return a `process_docs` that keeps the rows that are questions."""

    def asked(rows: Rows) -> Rows:
        return rows.kept(benchmark.is_asked)

    return asked


def verdict_results(_: Doc, results: Sequence[Sequence[QuestionVerdict]]) -> Metrics:
    """Return the metrics of a question that a filter has judged."""
    return dict(results[0][0].metrics)


def by_group(items: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Return the mean of each group, in order of appearance."""
    groups: Mapping[str, list[float]] = defaultdict(list)
    for group, value in items:
        groups[group].append(value)
    return {group: fmean(values) for group, values in groups.items()}


def macro(items: Sequence[tuple[str, float]], **_: Any) -> float:
    """Return the mean of the groups' means, so that each group has the same weight."""
    return fmean(by_group(items).values())


def mean_of_kept(items: Sequence[float | None], **_: Any) -> float:
    """Return the mean of the values that are not None; 0 if there is none."""
    kept = [value for value in items if value is not None]
    return fmean(kept) if kept else 0.0


def from_hub(**kwargs: Any) -> dict[str, Rows]:
    """Load the hub's rows under stock lm-eval (`custom_dataset`).

    lm-eval passes the task's `metadata` and `dataset_kwargs` together. Rows that are not pinned
    are used with a warning, because stock lm-eval has no option to allow them.
    """

    def notice(benchmark: str, identity: Fingerprint) -> None:
        level = logging.INFO if identity.is_hub else logging.WARNING
        logging.getLogger(__name__).log(level, "%s: %s", benchmark, identity.footnote)

    ours = BY_ID.get(kwargs.get("benchmark", ""))
    check = ours.check_golds if ours else None
    return dataset_from(Source("hub"), unpinned=True, noticed=notice, check=check)(**kwargs)
