"""Short texts that must equal the target, said directly or after reasoning."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Final

from mistral_eval.answers import stated
from mistral_eval.answers.verdict import QuestionVerdict
from mistral_eval.suite.benchmark import DEFAULT, Benchmark, Doc, Gold, JudgeContext


class Exact(Benchmark):
    """A benchmark of tasks whose answers are short texts; each kind reads a reply its own way."""

    @abstractmethod
    def read(self, reply: str) -> str | None:
        """Return the answer in a reply, or None."""

    def judge(
        self,
        docs: Sequence[Doc],
        replies: Sequence[Sequence[str]],
        context: JudgeContext = DEFAULT,  # noqa: ARG002  nothing here runs elsewhere
    ) -> list[QuestionVerdict]:
        """Compare each reply's answer with the target."""
        verdicts = []
        for doc, (reply, *_) in zip(docs, self.cut(replies), strict=True):
            verdict = stated.match_exactly(self.read(reply), self.gold(doc).texts[0])
            right = float(verdict.is_correct)
            metrics = {"exact_match": right, "exact_match_macro": (doc[str(self.stratum)], right)}
            verdicts.append(QuestionVerdict(verdict, (verdict,), metrics))
        return verdicts


class Direct(Exact):
    """The reply is the answer."""

    def read(self, reply: str) -> str | None:
        """Return the reply's line."""
        return stated.direct_answer(reply)

    def oracle(self, doc: Doc, right: bool) -> str:  # noqa: FBT001
        """Return the target, or a text that is never one."""
        return f" {self.gold(doc).texts[0] if right else 'none of the targets'}\n"


class Reasoned(Exact):
    """The reply reasons and then says "So the answer is X."."""

    def read(self, reply: str) -> str | None:
        """Return what follows the last "the answer is"."""
        return stated.stated_answer(reply)

    def oracle(self, doc: Doc, right: bool) -> str:  # noqa: FBT001
        """Return the sentence with the target, or with a text that is never one."""
        return f"\nSo the answer is {self.gold(doc).texts[0] if right else 'none of the targets'}."


def _target(doc: Doc) -> Gold:
    return Gold((doc["target"],) if doc["target"].strip() else ())


BBH: Final = Direct("bbh", "BBH", "bbh", "exact_match", _target, "input")
BBH_COT: Final = Reasoned("bbh_cot", "BBH-CoT", "bbh_cot", "exact_match", _target, "input")

BENCHMARKS: Final = (BBH, BBH_COT)
