"""Short free-form answers: one greedy reply, exact match with any accepted answer."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from mistral_eval.answers import exact_match
from mistral_eval.answers.verdict import QuestionVerdict
from mistral_eval.suite.benchmark import (
    DEFAULT,
    Benchmark,
    Doc,
    Gold,
    JudgeContext,
    cut_at_stops,
)


def span(name: str, column: str, answers: Callable[[Doc], Sequence[str]]) -> Benchmark:
    """Make a benchmark whose rows list the accepted answers, read by `answers`."""

    def gold(doc: Doc) -> Gold:
        return Gold(tuple(answers(doc)))

    def oracle(doc: Doc, right: bool) -> str:  # noqa: FBT001
        return f" {gold(doc).texts[0]}\n" if right else " none of the accepted answers\n"

    return Benchmark(
        name,
        column,
        "knowledge",
        "exact_match",
        gold=gold,
        judge=partial(_judge, name, gold),
        oracle=oracle,
        title=lambda doc: str(doc["question"]),
    )


def _judge(
    name: str,
    gold: Callable[[Doc], Gold],
    docs: Sequence[Doc],
    replies: Sequence[Sequence[str]],
    context: JudgeContext = DEFAULT,  # noqa: ARG001  nothing here runs elsewhere
) -> list[QuestionVerdict]:
    verdicts = []
    for doc, (reply, *_) in zip(docs, cut_at_stops(name, replies), strict=True):
        verdict = exact_match.match_any(exact_match.cut(reply), gold(doc).texts)
        metrics = {"exact_match": float(verdict.is_correct)}
        verdicts.append(QuestionVerdict(verdict, (verdict,), metrics))
    return verdicts


NQ: Final = span("nq", "NQ", lambda doc: doc["answer"])
TRIVIAQA: Final = span("triviaqa", "TriviaQA", lambda doc: doc["answer"]["aliases"])

BENCHMARKS: Final = (NQ, TRIVIAQA)
