"""What an engine that knows the gold would say: right for every question, or wrong for every one.

A check of prompts, stops, scorers and records without a model; see `backends/oracle.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from mistral_eval.answers.latex.boxed import boxed_answer
from mistral_eval.errors import TaskError
from mistral_eval.suite import golds

Doc = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Says:
    """A right reply, made from the row, and one that is wrong for every row."""

    right: Callable[[Doc], str]
    wrong: str


def _math(doc: Doc) -> str:
    """The gold solution, ended as Minerva's examples end."""
    answer = boxed_answer(doc["solution"])
    ending = f"Final Answer: The final answer is ${answer}$. I hope it is correct."
    return f" {doc['solution']}\n{ending}"


_SAYS: Final[Mapping[str, _Says]] = MappingProxyType(
    {
        "nq": _Says(lambda doc: f" {golds.nq(doc)[0]}\n", " none of the accepted answers\n"),
        "triviaqa": _Says(
            lambda doc: f" {golds.triviaqa(doc)[0]}\n", " none of the accepted answers\n"
        ),
        "humaneval": _Says(
            lambda doc: str(doc["canonical_solution"]), "    raise ValueError('wrong on purpose')\n"
        ),
        "mbpp": _Says(
            lambda doc: f"{doc['code']}\n[DONE]", "raise ValueError('wrong on purpose')\n[DONE]"
        ),
        "math": _Says(_math, " Final Answer: The final answer is $\\frac{987654321}{1234567}$."),
        "gsm8k": _Says(
            lambda doc: f" The answer is {golds.gsm8k(doc)[0]}.", " The answer is 987654321.5."
        ),
    }
)


def oracle_reply(benchmark: str, doc: Doc, right: bool) -> str:  # noqa: FBT001  the question itself
    """What to reply to a question, so that it is judged right, or wrong.

    Raises:
        TaskError: the benchmark asks for likelihoods, not for text, or is not one of ours.
    """
    if benchmark not in _SAYS:
        raise TaskError(
            f"The oracle knows replies to {', '.join(_SAYS)}, but not to {benchmark!r}. "
            "Add them to mistral_eval/suite/oracle_replies.py."
        )
    says = _SAYS[benchmark]
    return says.right(doc) if right else says.wrong
