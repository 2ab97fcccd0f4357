"""Code: every sample's program runs in the sandbox against the row's tests; pass@1."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeAlias

from mistral_eval.answers import completions
from mistral_eval.answers.verdict import QuestionVerdict
from mistral_eval.sandbox import probe, run_programs
from mistral_eval.suite.benchmark import (
    DEFAULT,
    Benchmark,
    Doc,
    Gold,
    JudgeContext,
    cut_at_stops,
)

Make: TypeAlias = Callable[[Doc, str], completions.Program]


def program(
    name: str,
    column: str,
    *,
    make: Make,
    gold: Callable[[Doc], Gold],
    oracle: Callable[[Doc, bool], str],
    title: str,
) -> Benchmark:
    """Make a benchmark whose replies become programs.

    Args:
        name: The task's name.
        column: The column's title.
        make: Make a program of a row and a reply.
        gold: Read the tests and the reference solution from a row.
        oracle: Return a program that passes, or fails.
        title: The row's column by which the report calls a question.
    """
    return Benchmark(
        name,
        column,
        "code",
        "pass@1",
        gold=gold,
        judge=partial(_judge, name, make),
        oracle=oracle,
        title=lambda doc: str(doc[title]),
    )


def _judge(
    name: str,
    make: Make,
    docs: Sequence[Doc],
    replies: Sequence[Sequence[str]],
    context: JudgeContext = DEFAULT,
) -> list[QuestionVerdict]:
    """Run all programs at once and estimate pass@1 of each question."""
    texts = [reply for samples in cut_at_stops(name, replies) for reply in samples]
    rows = [doc for doc, samples in zip(docs, replies, strict=True) for _ in samples]
    running = run_programs(
        [make(row, text) for row, text in zip(rows, texts, strict=True)],
        isolation=context.isolation or probe(),
        unsafe=context.unsafe,
        workers=context.workers,
    )
    found = {}
    for place, result in running:
        found[place] = completions.program_verdict(texts[place], result.status, result.detail)
        if context.on_done:
            context.on_done(len(found), len(texts))
    judged = iter(found[place] for place in range(len(texts)))
    verdicts = []
    for samples in replies:
        mine = tuple(next(judged) for _ in samples)
        passed = sum(verdict.is_correct for verdict in mine)
        metrics = {"pass@1": completions.pass_at_k(len(mine), passed, 1)}
        verdicts.append(QuestionVerdict(mine[0], mine, metrics))
    return verdicts


def _humaneval(doc: Doc) -> Gold:
    tests = (doc["test"],) if doc["test"] and doc["entry_point"] else ()
    return Gold(tests, solution=str(doc["canonical_solution"]))


def _humaneval_oracle(doc: Doc, right: bool) -> str:  # noqa: FBT001
    wrong = "    raise ValueError('wrong on purpose')\n"
    return str(doc["canonical_solution"]) if right else wrong


def _mbpp(doc: Doc) -> Gold:
    return Gold(tuple(doc["test_list"]), solution=str(doc["code"]))


def _mbpp_oracle(doc: Doc, right: bool) -> str:  # noqa: FBT001
    return f"{doc['code'] if right else 'raise ValueError()'}\n[DONE]"


HUMANEVAL: Final = program(
    "humaneval",
    "HumanEval",
    make=completions.continued_program,
    gold=_humaneval,
    oracle=_humaneval_oracle,
    title="entry_point",
)
MBPP: Final = program(
    "mbpp",
    "MBPP",
    make=completions.whole_program,
    gold=_mbpp,
    oracle=_mbpp_oracle,
    title="prompt",
)

BENCHMARKS: Final = (HUMANEVAL, MBPP)
