"""Mathematics: every sample's final answer is read, the samples vote, the winner is judged."""

from collections.abc import Sequence
from typing import Final

from mistral_eval.answers import votes
from mistral_eval.answers.latex.boxed import boxed_answer
from mistral_eval.answers.math_checker import MathChecker
from mistral_eval.answers.verdict import QuestionVerdict
from mistral_eval.suite.benchmark import (
    DEFAULT,
    Benchmark,
    Doc,
    Gold,
    JudgeContext,
    cut_at_stops,
)


def _math(doc: Doc) -> Gold:
    answer = boxed_answer(doc["solution"])
    return Gold((answer,) if answer else (), solution=doc["solution"])


def _judge_formulas(
    docs: Sequence[Doc], replies: Sequence[Sequence[str]], context: JudgeContext = DEFAULT
) -> list[QuestionVerdict]:
    """Vote over equivalent formulas; all comparisons go through one checker."""
    golds = [_math(doc).texts[0] for doc in docs]
    replies = cut_at_stops(MATH.id, replies)
    with MathChecker(workers=context.workers) as checker:
        return votes.vote_on_formulas(replies, golds, checker, on_done=context.on_done)


def _math_oracle(doc: Doc, right: bool) -> str:  # noqa: FBT001
    """Return the gold solution, ended as Minerva's examples end, or a number that is never gold."""
    answer = _math(doc).texts[0] if right else r"\frac{987654321}{1234567}"
    ending = f"Final Answer: The final answer is ${answer}$. I hope it is correct."
    return f" {doc['solution']}\n{ending}" if right else f" {ending}"


def _gsm8k(doc: Doc) -> Gold:
    """Read the number after `####`."""
    _, mark, number = doc["answer"].rpartition("####")
    texts = (number.strip(),) if mark and number.strip() else ()
    return Gold(texts, solution=doc["answer"])


def _judge_numbers(
    docs: Sequence[Doc],
    replies: Sequence[Sequence[str]],
    context: JudgeContext = DEFAULT,  # noqa: ARG001  nothing here runs elsewhere
) -> list[QuestionVerdict]:
    """Vote over numbers."""
    golds = [_gsm8k(doc).texts[0] for doc in docs]
    return votes.vote_on_numbers(cut_at_stops(GSM8K.id, replies), golds)


def _gsm8k_oracle(doc: Doc, right: bool) -> str:  # noqa: FBT001
    return f" The answer is {_gsm8k(doc).texts[0] if right else '987654321.5'}."


MATH: Final = Benchmark(
    "math",
    "MATH",
    "maths",
    "maj@4",
    gold=_math,
    judge=_judge_formulas,
    oracle=_math_oracle,
    title=lambda doc: str(doc["problem"]),
)
GSM8K: Final = Benchmark(
    "gsm8k",
    "GSM8K",
    "maths",
    "maj@8",
    gold=_gsm8k,
    judge=_judge_numbers,
    oracle=_gsm8k_oracle,
    title=lambda doc: str(doc["question"]),
)

BENCHMARKS: Final = (MATH, GSM8K)
