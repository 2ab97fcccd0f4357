"""Exam questions whose options carry their letters: the likeliest letter is the answer."""

from typing import Final

from mistral_eval.suite.benchmark import Doc, Gold
from mistral_eval.suite.choice import Choice

LETTERS: Final = ("A", "B", "C", "D", "E")


def _agieval(doc: Doc) -> Gold:
    """Read the one right letter; a row with several right letters, or none, has no index."""
    letters = LETTERS[: len(doc["options"])]
    label = doc["label"]
    known = len(label) == 1 and label[0] in letters
    return Gold(letters, letters.index(label[0]) if known else -1)


AGIEVAL: Final = Choice("agieval", "AGIEval", "agieval", "acc", _agieval, "question")

BENCHMARKS: Final = (AGIEVAL,)
