"""The choices of a multiple-choice question, and which one is right.

The YAML files say the same to lm-eval in `doc_to_choice` and `doc_to_target` (`doc_to_text` for
WinoGrande, whose choices stand in the context); a test compares the two on every question.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from mistral_eval.suite import hellaswag

Doc = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Choices:
    """The texts between which the model chooses, and the place of the right one."""

    texts: tuple[str, ...]
    gold: int


def _mmlu(doc: Doc) -> Choices:
    return Choices(("A", "B", "C", "D"), doc["answer"] if len(doc["choices"]) == 4 else -1)


def _hellaswag(doc: Doc) -> Choices:
    return Choices(tuple(hellaswag.endings(doc)), _place(doc["label"], ("0", "1", "2", "3")))


def _winogrande(doc: Doc) -> Choices:
    before, blank, _ = doc["sentence"].partition("_")
    texts = (before + doc["option1"], before + doc["option2"])
    return Choices(texts, _place(doc["answer"], ("1", "2")) if blank else -1)


def _piqa(doc: Doc) -> Choices:
    return Choices((doc["sol1"], doc["sol2"]), doc["label"])


def _arc(doc: Doc) -> Choices:
    texts, labels = doc["choices"]["text"], doc["choices"]["label"]
    return Choices(tuple(texts), _place(doc["answerKey"], labels[: len(texts)]))


def _place(label: str, labels: tuple[str, ...] | list[str]) -> int:
    return labels.index(label) if label in labels else -1


CHOICES: Final[Mapping[str, Callable[[Doc], Choices]]] = MappingProxyType(
    {
        "mmlu": _mmlu,
        "hellaswag": _hellaswag,
        "winogrande": _winogrande,
        "piqa": _piqa,
        "arc_easy": _arc,
        "arc_challenge": _arc,
    }
)
