"""The judging functions that the YAML files name, in the shapes that lm-eval calls.

A filter gets all of a benchmark's replies at once (programs run in parallel, a formula is compared
once) and returns one verdict per question; `verdict_results` hands that verdict's metrics to
lm-eval. Multiple choice needs no filter: its results functions judge one question at a time.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, TypeAlias

from mistral_eval.answers.verdict import QuestionVerdict
from mistral_eval.suite.judge import DEFAULT, Doc, JudgeContext, Score, judge

Replies: TypeAlias = Sequence[Sequence[str]]
Judged: TypeAlias = list[list[QuestionVerdict]]
Metrics: TypeAlias = dict[str, object]


def filter_for(
    benchmark: str, context: JudgeContext = DEFAULT
) -> Callable[[Replies, Sequence[Doc]], Judged]:
    """A `filter_fn` for this benchmark that judges in this context."""

    def apply(resps: Replies, docs: Sequence[Doc]) -> Judged:
        verdicts = judge(benchmark, list(docs), list(resps), context=context)
        return [[verdict] for verdict in verdicts]

    return apply


def nq(resps: Replies, docs: Sequence[Doc]) -> Judged:
    """Judge Natural Questions."""
    return filter_for("nq")(resps, docs)


def triviaqa(resps: Replies, docs: Sequence[Doc]) -> Judged:
    """Judge TriviaQA."""
    return filter_for("triviaqa")(resps, docs)


def humaneval(resps: Replies, docs: Sequence[Doc]) -> Judged:
    """Judge HumanEval: run the programs, in the sandbox."""
    return filter_for("humaneval")(resps, docs)


def mbpp(resps: Replies, docs: Sequence[Doc]) -> Judged:
    """Judge MBPP: run the programs, in the sandbox."""
    return filter_for("mbpp")(resps, docs)


def math(resps: Replies, docs: Sequence[Doc]) -> Judged:
    """Judge MATH: vote over equivalent final answers."""
    return filter_for("math")(resps, docs)


def gsm8k(resps: Replies, docs: Sequence[Doc]) -> Judged:
    """Judge GSM8K: vote over numbers."""
    return filter_for("gsm8k")(resps, docs)


def verdict_results(_: Doc, results: Sequence[Sequence[QuestionVerdict]]) -> Metrics:
    """The metrics of a question that a filter has judged."""
    return dict(results[0][0].metrics)


def mmlu_results(doc: Doc, results: Sequence[Score]) -> Metrics:
    """MMLU: `acc`, and `acc_macro` with the subject."""
    return _choice_metrics("mmlu", doc, results)


def hellaswag_results(doc: Doc, results: Sequence[Score]) -> Metrics:
    """HellaSwag: `acc` and `acc_norm`."""
    return _choice_metrics("hellaswag", doc, results)


def winogrande_results(doc: Doc, results: Sequence[Score]) -> Metrics:
    """WinoGrande: `acc`."""
    return _choice_metrics("winogrande", doc, results)


def piqa_results(doc: Doc, results: Sequence[Score]) -> Metrics:
    """PIQA: `acc` and `acc_norm`."""
    return _choice_metrics("piqa", doc, results)


def arc_easy_results(doc: Doc, results: Sequence[Score]) -> Metrics:
    """ARC-Easy: `acc` and `acc_norm`."""
    return _choice_metrics("arc_easy", doc, results)


def arc_challenge_results(doc: Doc, results: Sequence[Score]) -> Metrics:
    """ARC-Challenge: `acc` and `acc_norm`."""
    return _choice_metrics("arc_challenge", doc, results)


def _choice_metrics(benchmark: str, doc: Doc, results: Sequence[Score]) -> Metrics:
    return dict(judge(benchmark, [doc], [results])[0].metrics)


def by_group(items: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Mean per group (an MMLU subject), groups in order of appearance."""
    groups: Mapping[str, list[float]] = defaultdict(list)
    for group, value in items:
        groups[group].append(value)
    return {group: fmean(values) for group, values in groups.items()}


def macro(items: Sequence[tuple[str, float]], **_: Any) -> float:
    """Mean over groups of their means, each group counting the same."""
    return fmean(by_group(items).values())
