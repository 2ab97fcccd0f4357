"""Multiple choice: the likelihood of each choice, plain or divided by what its rule says.

For lm-eval, the YAML files also state the choices and the right one, in `doc_to_choice` and
`doc_to_target` (`doc_to_text` if the choices are in the context). A test compares both definitions
on every question.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from mistral_eval.answers import likelihoods
from mistral_eval.answers.verdict import QuestionVerdict
from mistral_eval.suite.benchmark import DEFAULT, Benchmark, Doc, Gold, JudgeContext, Score

MARKUP: Final = re.compile(r"\[.*?\]")
RULES: Final[Mapping[str, likelihoods.Normalise]] = {
    "acc": "none",
    "acc_norm": "characters",
    "acc_relative": "unconditional",  # P(choice | question) / P(choice | "Answer:")
}


class Choice(Benchmark):
    """Multiple choice; the cell is one of `RULES`: a metric and what it divides a likelihood by."""

    def judge(
        self,
        docs: Sequence[Doc],
        replies: Sequence[Sequence[Score]],
        context: JudgeContext = DEFAULT,  # noqa: ARG002  nothing here runs elsewhere
    ) -> list[QuestionVerdict]:
        """Compute every metric of the YAML file; the table's metric gives the verdict."""
        verdicts = []
        for doc, scores in zip(docs, replies, strict=True):
            gold = self.gold(doc)
            index = -1 if gold.index is None else gold.index
            asked, alone = ([logprob for logprob, _ in half] for half in self.halves(scores))
            picked = {
                metric: likelihoods.pick_choice(asked, gold.texts, index, rule, alone)
                for metric, rule in RULES.items()
                if metric in self.task.metrics
            }
            metrics: dict[str, object] = {
                metric: float(verdict.is_correct) for metric, verdict in picked.items()
            }
            if "acc_macro" in self.task.metrics:
                metrics["acc_macro"] = (doc[str(self.stratum)], metrics["acc"])
            verdicts.append(QuestionVerdict(picked[self.cell], metrics=metrics))
        return verdicts

    def oracle(self, doc: Doc, right: bool) -> int:  # noqa: FBT001
        """Return the right choice, or the one after it."""
        found = self.gold(doc)
        assert found.index is not None, doc
        return found.index if right else (found.index + 1) % len(found.texts)


def _index(label: str, labels: Sequence[str]) -> int:
    return labels.index(label) if label in labels else -1


def _mmlu(doc: Doc) -> Gold:
    return Gold(("A", "B", "C", "D"), doc["answer"] if len(doc["choices"]) == 4 else -1)


def clean(text: str) -> str:
    """Remove WikiHow's markup: replace ` [title]` by ". ", delete other `[…]`, halve double spaces.

    Equal to lm-eval 0.4.13's `hellaswag/utils.py`, so that scores are comparable.
    """
    text = text.strip().replace(" [title]", ". ")
    return MARKUP.sub("", text).replace("  ", " ")


def hellaswag_question(doc: Doc) -> str:
    """Return `{activity_label}: {ctx_a} {ctx_b}`, `ctx_b` in lower case after its first letter."""
    return clean(f"{doc['activity_label']}: {doc['ctx_a']} {doc['ctx_b'].capitalize()}")


def hellaswag_endings(doc: Doc) -> list[str]:
    """Return the four endings, cleaned."""
    return [clean(ending) for ending in doc["endings"]]


def _hellaswag(doc: Doc) -> Gold:
    return Gold(tuple(hellaswag_endings(doc)), _index(doc["label"], ("0", "1", "2", "3")))


def _winogrande(doc: Doc) -> Gold:
    before, blank, _ = doc["sentence"].partition("_")
    texts = (before + doc["option1"], before + doc["option2"])
    return Gold(texts, _index(doc["answer"], ("1", "2")) if blank else -1)


def _piqa(doc: Doc) -> Gold:
    return Gold((doc["sol1"], doc["sol2"]), doc["label"])


def _arc(doc: Doc) -> Gold:
    texts, labels = doc["choices"]["text"], doc["choices"]["label"]
    return Gold(tuple(texts), _index(doc["answerKey"], labels[: len(texts)]))


def _boolq(doc: Doc) -> Gold:
    return Gold(("no", "yes"), int(doc["answer"]))


def _siqa(doc: Doc) -> Gold:
    texts = (doc["answerA"], doc["answerB"], doc["answerC"])
    return Gold(texts, _index(doc["label"], ("1", "2", "3")))


def _commonsense_qa(doc: Doc) -> Gold:
    letters = ("A", "B", "C", "D", "E")
    is_whole = tuple(doc["choices"]["label"]) == letters and len(doc["choices"]["text"]) == 5
    return Gold(letters, _index(doc["answerKey"], letters) if is_whole else -1)


MMLU: Final = Choice("mmlu", "MMLU", "mmlu", "acc", _mmlu, "question")
HELLASWAG: Final = Choice("hellaswag", "HellaSwag", "reasoning", "acc_norm", _hellaswag, "ctx_a")
WINOGRANDE: Final = Choice("winogrande", "WinoG", "reasoning", "acc", _winogrande, "sentence")
PIQA: Final = Choice("piqa", "PIQA", "reasoning", "acc_norm", _piqa, "goal")
ARC_EASY: Final = Choice("arc_easy", "Arc-e", "reasoning", "acc_norm", _arc, "question")
ARC_CHALLENGE: Final = Choice("arc_challenge", "Arc-c", "reasoning", "acc_norm", _arc, "question")
SIQA: Final = Choice("siqa", "SIQA", "reasoning", "acc_norm", _siqa, "context")
OPENBOOKQA: Final = Choice(
    "openbookqa", "OpenbookQA", "reasoning", "acc_relative", _arc, "question_stem"
)
COMMONSENSE_QA: Final = Choice(
    "commonsense_qa", "CommonsenseQA", "reasoning", "acc", _commonsense_qa, "question"
)
BOOLQ: Final = Choice("boolq", "BoolQ", "comprehension", "acc_relative", _boolq, "question")

BENCHMARKS: Final = (
    MMLU,
    HELLASWAG,
    WINOGRANDE,
    PIQA,
    ARC_EASY,
    ARC_CHALLENGE,
    SIQA,
    OPENBOOKQA,
    COMMONSENSE_QA,
    BOOLQ,
)
