"""Short free-form answers: one greedy reply, exact match with any accepted answer."""

from collections.abc import Sequence
from typing import Final

from mistral_eval.answers import exact_match
from mistral_eval.answers.verdict import QuestionVerdict
from mistral_eval.suite.benchmark import DEFAULT, Benchmark, Doc, Gold, JudgeContext


class Span(Benchmark):
    """A benchmark whose rows list the accepted answers."""

    def judge(
        self,
        docs: Sequence[Doc],
        replies: Sequence[Sequence[str]],
        context: JudgeContext = DEFAULT,  # noqa: ARG002  nothing here runs elsewhere
    ) -> list[QuestionVerdict]:
        """Compare each reply's first line with every accepted answer."""
        verdicts = []
        for doc, (reply, *_) in zip(docs, self.cut(replies), strict=True):
            verdict = exact_match.match_any(exact_match.cut(reply), self.gold(doc).texts)
            metrics = {"exact_match": float(verdict.is_correct)}
            verdicts.append(QuestionVerdict(verdict, (verdict,), metrics))
        return verdicts

    def oracle(self, doc: Doc, right: bool) -> str:  # noqa: FBT001
        """Return the first accepted answer, or a text that is not accepted."""
        return f" {self.gold(doc).texts[0]}\n" if right else " none of the accepted answers\n"


def _nq(doc: Doc) -> Gold:
    return Gold(tuple(doc["answer"]))


def _triviaqa(doc: Doc) -> Gold:
    return Gold(tuple(doc["answer"]["aliases"]))


NQ: Final = Span("nq", "NQ", "knowledge", "exact_match", _nq, "question")
TRIVIAQA: Final = Span("triviaqa", "TriviaQA", "knowledge", "exact_match", _triviaqa, "question")

BENCHMARKS: Final = (NQ, TRIVIAQA)
