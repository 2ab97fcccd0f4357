"""Code: run every sample's program in the sandbox against the row's tests; estimate pass@1."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Final

from mistral_eval.answers import completions
from mistral_eval.answers.verdict import QuestionVerdict
from mistral_eval.sandbox import probe, run_programs
from mistral_eval.suite.benchmark import DEFAULT, Benchmark, Doc, Gold, JudgeContext


class Programs(Benchmark):
    """A benchmark whose replies become programs."""

    @abstractmethod
    def program(self, doc: Doc, reply: str) -> completions.Program:
        """Return the program to run for a row and a reply."""

    def judge(
        self,
        docs: Sequence[Doc],
        replies: Sequence[Sequence[str]],
        context: JudgeContext = DEFAULT,
    ) -> list[QuestionVerdict]:
        """Run all programs at once and estimate pass@1 of each question."""
        texts = [reply for samples in self.cut(replies) for reply in samples]
        rows = [doc for doc, samples in zip(docs, replies, strict=True) for _ in samples]
        running = run_programs(
            [self.program(row, text) for row, text in zip(rows, texts, strict=True)],
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


class Continued(Programs):
    """A benchmark whose reply continues the program that the prompt begins."""

    def program(self, doc: Doc, reply: str) -> completions.Program:
        """Join prompt and reply."""
        return completions.continued_program(doc, reply)

    def oracle(self, doc: Doc, right: bool) -> str:  # noqa: FBT001
        """Return the reference solution, or a body that raises."""
        wrong = "    raise ValueError('wrong on purpose')\n"
        return self.gold(doc).solution if right else wrong


class Whole(Programs):
    """A benchmark whose reply is a whole program, terminated by `[DONE]`."""

    def program(self, doc: Doc, reply: str) -> completions.Program:
        """Join the reply and the row's set-up and asserts."""
        return completions.whole_program(doc, reply)

    def oracle(self, doc: Doc, right: bool) -> str:  # noqa: FBT001
        """Return the reference solution, or a program that raises."""
        return f"{self.gold(doc).solution if right else 'raise ValueError()'}\n[DONE]"


def _humaneval(doc: Doc) -> Gold:
    tests = (doc["test"],) if doc["test"] and doc["entry_point"] else ()
    return Gold(tests, solution=str(doc["canonical_solution"]))


def _mbpp(doc: Doc) -> Gold:
    return Gold(tuple(doc["test_list"]), solution=str(doc["code"]))


HUMANEVAL: Final = Continued("humaneval", "HumanEval", "code", "pass@1", _humaneval, "entry_point")
MBPP: Final = Whole("mbpp", "MBPP", "code", "pass@1", _mbpp, "prompt")

BENCHMARKS: Final = (HUMANEVAL, MBPP)
