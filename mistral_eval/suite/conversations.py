"""Questions of several turns, whose answers a language model rates."""

from collections.abc import Sequence
from typing import Final

from mistral_eval.answers.judge_prompt import JudgePrompt
from mistral_eval.answers.mt_bench.judge_prompts import (
    pair_prompt,
    reference_answers,
    single_prompt,
)
from mistral_eval.answers.verdict import Outcome, QuestionVerdict, Verdict
from mistral_eval.suite.benchmark import DEFAULT, Benchmark, Doc, Gold, JudgeContext

ANSWER: Final = "This is an answer."


class Conversation(Benchmark):
    """A benchmark of conversations, rated from 1 to 10 by a judge that a run names.

    The cell says how many questions were answered in every turn. It says nothing of quality:
    the ratings, which have another scale, stand in the notes and in the layout `chat`.
    """

    def judge(
        self,
        docs: Sequence[Doc],
        replies: Sequence[Sequence[str]],
        context: JudgeContext = DEFAULT,  # noqa: ARG002  nothing here runs elsewhere
    ) -> list[QuestionVerdict]:
        """Say of each question whether every reply to it holds a text."""
        verdicts = []
        for _, texts in zip(docs, self.cut(replies), strict=True):
            turns = tuple(map(_turn_verdict, texts))
            empty = [turn for turn, one in enumerate(turns, 1) if not one.is_correct]
            said = f"no answer in turn {' and '.join(map(str, empty))}" if empty else ""
            verdict = Verdict(Outcome.NO_ANSWER, None, said) if empty else turns[-1]
            metrics = {"answered": float(verdict.is_correct)}
            verdicts.append(QuestionVerdict(verdict, turns, metrics))
        return verdicts

    def oracle(self, doc: Doc, right: bool) -> str:  # noqa: ARG002, FBT001
        """Return a text or none."""
        return ANSWER if right else ""

    def next_message(self, doc: Doc, replies: Sequence[str]) -> str | None:
        """Return the question's next turn."""
        turns = self.turns(doc)
        return turns[len(replies)] if len(replies) < len(turns) else None

    @property
    def has_gold(self) -> bool:
        """Whether there is an answer that is right: no."""
        return False

    def title(self, doc: Doc) -> str:
        """Return the first message."""
        return self.turns(doc)[0]

    def turns(self, doc: Doc) -> tuple[str, ...]:
        """Return the user's messages."""
        return self.gold(doc).texts

    def number(self, doc: Doc) -> int:
        """Return the question's number in published files of answers and judgments."""
        return int(doc[str(self.task.data.id_column)])

    def judge_prompts(self, doc: Doc, replies: Sequence[str]) -> tuple[JudgePrompt, ...]:
        """Return what the judge is asked of each reply, with the reference if there is one."""
        references = reference_answers().get(self.number(doc))
        return tuple(
            single_prompt(self.turns(doc), replies, turn, references)
            for turn in range(1, len(replies) + 1)
        )

    def pair_prompts(
        self, doc: Doc, first: Sequence[str], second: Sequence[str]
    ) -> tuple[tuple[JudgePrompt, JudgePrompt], ...]:
        """Return what the judge is asked of two models' replies, in both orders, by turn."""
        references = reference_answers().get(self.number(doc))
        turns = self.turns(doc)
        return tuple(
            (
                pair_prompt(turns, first, second, turn, references),
                pair_prompt(turns, second, first, turn, references),
            )
            for turn in range(1, min(len(first), len(second)) + 1)
        )


def _turn_verdict(text: str) -> Verdict:
    if text.strip():
        return Verdict(Outcome.CORRECT, "answered")
    return Verdict(Outcome.NO_ANSWER, None)


def _turns(doc: Doc) -> Gold:
    return Gold(tuple(doc["turns"]))


MT_BENCH: Final = Conversation(
    "mt_bench", "MT-Bench answers", "conversation", "answered", _turns, "category"
)

BENCHMARKS: Final = (MT_BENCH,)
