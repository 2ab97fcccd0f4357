"""Questions within a dialogue: words shared with the spans that several people chose."""

from collections.abc import Sequence
from typing import Final

from mistral_eval.answers.overlap import overlap, references
from mistral_eval.answers.verdict import Outcome, QuestionVerdict, Verdict
from mistral_eval.suite.benchmark import DEFAULT, Benchmark, Doc, Gold, JudgeContext


class Dialogue(Benchmark):
    """A benchmark whose cell is a mean F1; a question is correct if a person would do no better."""

    @property
    def is_graded(self) -> bool:
        """Whether the cell is a mean of partial credits: it is."""
        return True

    def judge(
        self,
        docs: Sequence[Doc],
        replies: Sequence[Sequence[str]],
        context: JudgeContext = DEFAULT,  # noqa: ARG002  nothing here runs elsewhere
    ) -> list[QuestionVerdict]:
        """Score each reply; the metrics of a question on which people disagree are None."""
        verdicts = []
        for doc, (reply, *_) in zip(docs, self.cut(replies), strict=True):
            text = reply.strip()
            found = overlap(text, self.gold(doc).texts)
            reason = f"F1 {found.f1:.3f}; people reach {found.human:.3f} on this question"
            if not found.is_kept:
                reason += ", too little for it to count"
            outcome = Outcome.CORRECT if found.is_human else Outcome.WRONG
            verdict = Verdict(outcome if text else Outcome.NO_ANSWER, text or None, reason)
            metrics = {
                "f1": found.f1 if found.is_kept else None,
                "heq_q": float(found.is_human) if found.is_kept else None,
                "human_f1": found.human if found.is_kept else None,
                "f1_unfiltered": found.f1,
                "f1_max": found.best,
            }
            verdicts.append(QuestionVerdict(verdict, (verdict,), metrics))
        return verdicts

    def oracle(self, doc: Doc, right: bool) -> str:  # noqa: FBT001
        """Return the first reference that counts, or a word that is in none."""
        return f" {references(self.gold(doc).texts)[0] if right else 'xyzzy'}\n"

    def title(self, doc: Doc) -> str:
        """Return the question, which is the last line of the prompt."""
        return str(doc[self.title_column]).rpartition("Question: ")[2]


def _quac(doc: Doc) -> Gold:
    return Gold(tuple(text for text in doc["references"] if text))


QUAC: Final = Dialogue("quac", "QuAC", "comprehension", "f1", _quac, "prompt")

BENCHMARKS: Final = (QUAC,)
