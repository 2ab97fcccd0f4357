"""Mathematics: extract each sample's final answer, take a majority vote, judge the winner."""

from collections.abc import Sequence
from typing import Final

from mistral_eval.answers import votes
from mistral_eval.answers.latex.boxed import boxed_answer
from mistral_eval.answers.math_checker import MathChecker
from mistral_eval.answers.verdict import QuestionVerdict
from mistral_eval.suite.benchmark import DEFAULT, Benchmark, Doc, Gold, JudgeContext


class Formulas(Benchmark):
    """A benchmark judged by a majority vote over equivalent formulas."""

    def judge(
        self,
        docs: Sequence[Doc],
        replies: Sequence[Sequence[str]],
        context: JudgeContext = DEFAULT,
    ) -> list[QuestionVerdict]:
        """Vote over equivalent formulas, with one checker for all comparisons."""
        golds = [self.gold(doc).texts[0] for doc in docs]
        with MathChecker(workers=context.workers) as checker:
            return votes.vote_on_formulas(
                self.cut(replies), golds, checker, on_done=context.on_done
            )

    def oracle(self, doc: Doc, right: bool) -> str:  # noqa: FBT001
        """Return the solution with the ending of Minerva's examples, or a number never gold."""
        gold = self.gold(doc)
        answer = gold.texts[0] if right else r"\frac{987654321}{1234567}"
        ending = f"Final Answer: The final answer is ${answer}$. I hope it is correct."
        return f" {gold.solution}\n{ending}" if right else f" {ending}"


class Numbers(Benchmark):
    """A benchmark judged by a majority vote over numbers."""

    def judge(
        self,
        docs: Sequence[Doc],
        replies: Sequence[Sequence[str]],
        context: JudgeContext = DEFAULT,  # noqa: ARG002  nothing here runs elsewhere
    ) -> list[QuestionVerdict]:
        """Vote over the numbers after "The answer is"."""
        golds = [self.gold(doc).texts[0] for doc in docs]
        return votes.vote_on_numbers(self.cut(replies), golds)

    def oracle(self, doc: Doc, right: bool) -> str:  # noqa: FBT001
        """Return a sentence with the gold number, or with one that is never gold."""
        return f" The answer is {self.gold(doc).texts[0] if right else '987654321.5'}."


def _math(doc: Doc) -> Gold:
    answer = boxed_answer(doc["solution"])
    return Gold((answer,) if answer else (), solution=doc["solution"])


def _gsm8k(doc: Doc) -> Gold:
    """Read the number after `####`."""
    _, mark, number = doc["answer"].rpartition("####")
    texts = (number.strip(),) if mark and number.strip() else ()
    return Gold(texts, solution=doc["answer"])


MATH: Final = Formulas("math", "MATH", "maths", "maj@4", _math, "problem")
GSM8K: Final = Numbers("gsm8k", "GSM8K", "maths", "maj@8", _gsm8k, "question")

BENCHMARKS: Final = (MATH, GSM8K)
