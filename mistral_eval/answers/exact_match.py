"""Short free-form answers: exact match with any gold answer after normalising.

Source: the normalisation of SQuAD 1.1's `evaluate-v1.1.py` (Rajpurkar et al. 2016), in the order
LLaMA's authors describe; `docs/scoring.md` lists the additions for Unicode.
"""

import re
import string
import unicodedata
from collections.abc import Sequence

from mistral_eval.answers.verdict import Outcome, Verdict

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
ASCII_PUNCTUATION = frozenset(string.punctuation)


def cut(text: str) -> str:
    """Truncate a reply at its first line break and drop one final full stop or comma."""
    line = text.partition("\n")[0].strip()
    return line[:-1].rstrip() if line.endswith((".", ",")) else line


def normalise(text: str) -> str:
    """Lower the case, then remove punctuation, articles and repeated spaces, in this order."""
    lowered = unicodedata.normalize("NFC", text).lower()
    bare = "".join(char for char in lowered if not _is_punctuation(char))
    return " ".join(ARTICLES.sub(" ", bare).split())


def match_any(text: str, golds: Sequence[str]) -> Verdict:
    """Compare a reply, already truncated by `cut`, with all gold answers.

    A gold answer that normalises to nothing (`---`, `A+`; two real questions have no other) is
    compared as a stripped raw string, in lower case: else a reply of `the` would equal it. An empty
    reply is `no_answer`.
    """
    answer = text.strip()
    if not answer:
        return Verdict(Outcome.NO_ANSWER, None, "the reply is empty")
    normalised = normalise(answer)
    for gold in golds:
        wanted = normalise(gold)
        if normalised == wanted if wanted else answer.lower() == gold.strip().lower():
            return Verdict(Outcome.CORRECT, answer, f"equals the gold answer {gold!r}")
    return Verdict(Outcome.WRONG, answer, f"equals none of {len(golds)} gold answers")


def _is_punctuation(char: str) -> bool:
    """Return whether SQuAD removes the character or Unicode classes it as punctuation."""
    return char in ASCII_PUNCTUATION or (
        not char.isascii() and unicodedata.category(char).startswith("P")
    )
