"""Answers that must equal the target: whole replies, and what follows "the answer is".

Sources: the comparison is lm-eval's `exact_match`, case and spaces between words included, after
white space at either end is removed. Reading the *last* "answer is" and one full stop after the
answer is the rule of the authors of BIG-Bench Hard's chain-of-thought prompts, whose examples all
end in "So the answer is X."
"""

import re
from typing import Final

from mistral_eval.answers.verdict import Outcome, Verdict

_MARK: Final = re.compile(r"\bthe answer is\b", re.IGNORECASE)


def direct_answer(reply: str) -> str:
    """Return the reply's first line that is not empty, without white space at either end."""
    return reply.strip().partition("\n")[0].rstrip()


def stated_answer(reply: str) -> str | None:
    """Return what follows the last "the answer is" on its line, without one final full stop.

    Returns:
        The answer, which may be empty; None if nothing is stated.
    """
    marks = list(_MARK.finditer(reply))
    if not marks:
        return None
    line = reply[marks[-1].end() :].partition("\n")[0].strip()
    return line.removesuffix(".").rstrip()


def match_exactly(answer: str | None, target: str) -> Verdict:
    """Compare an answer with the target; an empty one or None is `no_answer`."""
    if not answer:
        return Verdict(Outcome.NO_ANSWER, None, "the reply states no answer")
    if answer == target.strip():
        return Verdict(Outcome.CORRECT, answer, f"equals the target {target!r}")
    return Verdict(Outcome.WRONG, answer, f"is not the target {target!r}")
