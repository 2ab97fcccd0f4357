"""What a question accepts as an answer, read from its row; a row without one is refused."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from mistral_eval.errors import DataError
from mistral_eval.suite.choices import CHOICES

Doc = Mapping[str, Any]


def nq(doc: Doc) -> list[str]:
    """The accepted answers of a Natural Questions row."""
    return list(doc["answer"])


def triviaqa(doc: Doc) -> list[str]:
    """The accepted answers of a TriviaQA row: its aliases."""
    return list(doc["answer"]["aliases"])


def gsm8k(doc: Doc) -> list[str]:
    """The number after `####`."""
    _, mark, number = doc["answer"].rpartition("####")
    return [number.strip()] if mark and number.strip() else []


def _math(doc: Doc) -> list[str]:
    solution: str = doc["solution"]
    return [solution] if r"\boxed" in solution or r"\fbox" in solution else []


def _humaneval(doc: Doc) -> list[str]:
    return [doc["test"]] if doc["test"] and doc["entry_point"] else []


def _mbpp(doc: Doc) -> list[str]:
    return list(doc["test_list"])


TEXTS: Final[Mapping[str, Callable[[Doc], list[str]]]] = MappingProxyType(
    {
        "nq": nq,
        "triviaqa": triviaqa,
        "humaneval": _humaneval,
        "mbpp": _mbpp,
        "math": _math,
        "gsm8k": gsm8k,
    }
)


def check_gold(benchmark: str, doc: Doc, where: str) -> None:
    """Refuse a row that no reply could answer right.

    Args:
        benchmark: the task's name; one that is not ours is not checked.
        doc: the row.
        where: the row's place, the first words of the message.

    Raises:
        DataError: the gold is outside the choices, or there is none.
    """
    if benchmark in CHOICES:
        choices = CHOICES[benchmark](doc)
        if not 0 <= choices.gold < len(choices.texts):
            raise DataError(
                f"{where} should name one of its {len(choices.texts)} choices as the right one, "
                f"but its gold is outside them: {_short(doc)}. Correct the row."
            )
    elif benchmark in TEXTS and not TEXTS[benchmark](doc):
        raise DataError(
            f"{where} should hold a gold answer, but none can be read from it: {_short(doc)}. "
            "Correct the row."
        )


def _short(doc: Doc, limit: int = 120) -> str:
    text = str(dict(doc))
    return text if len(text) <= limit else f"{text[:limit]}…"
