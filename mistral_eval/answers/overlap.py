"""Spans of a passage, compared by the words they share with several annotators' spans.

Source: `scorer.py` of Choi et al. 2018, read from copies in public repositories: `handle_cannot`,
`leave_one_out`, `leave_one_out_max` and the limit of 0.4. Words are those of SQuAD 1.1's script.
Recognising "cannot answer" in a reply is ours: the authors compare with the exact token, which a
model that writes text can spell in other ways.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from mistral_eval.answers.exact_match import ARTICLES, ASCII_PUNCTUATION

NO_ANSWER: Final = "CANNOTANSWER"
LEAST_AGREEMENT: Final = 0.4
# The references that HELM adds where all annotators found no answer
HELM_SYNONYMS: Final = ("Not enough information", "Cannot answer", "Do not know")


@dataclass(frozen=True, slots=True)
class Overlap:
    """What a reply scores, between 0 and 1.

    Attributes:
        f1: The mean, over the references left out one at a time, of the best F1 with the others.
        best: The best F1 with any reference.
        human: The references' mean best F1 with one another; 1 for a single reference.
    """

    f1: float
    best: float
    human: float

    @property
    def is_kept(self) -> bool:
        """Whether the references agree enough for the question to count."""
        return self.human >= LEAST_AGREEMENT

    @property
    def is_human(self) -> bool:
        """Whether the reply is as good as a person's; one without a shared word never is."""
        return 0 < self.f1 >= self.human


def words(text: str) -> list[str]:
    """Lower the case, remove ASCII punctuation, then articles, and split at white space."""
    bare = "".join(char for char in text.lower() if char not in ASCII_PUNCTUATION)
    return ARTICLES.sub(" ", bare).split()


_UNANSWERED: Final = tuple(words(text) for text in (NO_ANSWER, *HELM_SYNONYMS))


def says_no_answer(reply: str) -> bool:
    """Return whether a reply is one of the ways to say that the passage has no answer."""
    return words(reply) in _UNANSWERED


def references(given: Sequence[str]) -> list[str]:
    """Return the references that count.

    If "cannot answer" is at least as frequent as spans, it is the only reference; otherwise it is
    none. Empty texts and HELM's synonyms are dropped.
    """
    unanswered = given.count(NO_ANSWER)
    synonyms = HELM_SYNONYMS if unanswered else ()
    spans = [text for text in given if text not in ("", NO_ANSWER, *synonyms)]
    return [NO_ANSWER] if unanswered and unanswered >= len(spans) else spans


def word_f1(text: str, reference: str) -> float:
    """Return the harmonic mean of precision and recall over words, with multiplicity."""
    mine, theirs = words(text), words(reference)
    shared = sum((Counter(mine) & Counter(theirs)).values())
    return 2 * shared / (len(mine) + len(theirs)) if shared else 0.0


def overlap(reply: str, given: Sequence[str]) -> Overlap:
    """Score a reply against the annotators' references, of which at least one is not empty."""
    kept = references(given)
    scores = [_score(reply, reference) for reference in kept]
    if len(kept) == 1:
        return Overlap(scores[0], scores[0], 1.0)
    among = [
        [word_f1(one, other) for place, other in enumerate(kept) if place != index]
        for index, one in enumerate(kept)
    ]
    left_out = [max(scores[:index] + scores[index + 1 :]) for index in range(len(kept))]
    return Overlap(fmean(left_out), max(scores), fmean(max(row) for row in among))


def _score(reply: str, reference: str) -> float:
    """Return the F1; "cannot answer" equals only itself."""
    if says_no_answer(reply) or reference == NO_ANSWER:
        return float(says_no_answer(reply) and reference == NO_ANSWER)
    return word_f1(reply, reference)
