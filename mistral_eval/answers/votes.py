"""Majority votes over the samples of a question (maj@k), for numbers and for formulas.

The cell is the vote; the mean accuracy of the single samples is kept beside it, as in Mistral's
model card. Source: Wang et al. 2022 (self-consistency). How samples form classes and how ties are
broken is part of the protocol.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Generic, TypeVar

from mistral_eval.answers import numbers
from mistral_eval.answers.latex.boxed import Equality, boxed_answer, final_answer
from mistral_eval.answers.math_checker import MathChecker, Pair
from mistral_eval.answers.verdict import Outcome, QuestionVerdict, Verdict

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Vote(Generic[T]):
    """The result of a vote.

    Attributes:
        winner: Representative of the largest class; None when no sample could be read.
        classes: Sample indices of each class, in order of appearance; the first index of a class
            is its representative.
    """

    winner: T | None
    classes: tuple[tuple[int, ...], ...]


def vote(answers: Sequence[T | None], equal: Callable[[T, T], bool]) -> Vote[T]:
    """Group the answers of one question into classes and elect the largest.

    An answer joins the first class whose representative it equals. Equivalence of formulas is not
    transitive, so the order of the samples is part of the rule. Ties go to the class that
    appeared first. None stands for a reply without a readable answer and does not vote.

    Args:
        answers: One answer per sample, in sample order.
        equal: Whether a representative (first argument) and an answer (second) are equivalent.
    """
    representatives: list[T] = []
    classes: list[list[int]] = []
    for index, answer in enumerate(answers):
        if answer is None:
            continue
        for representative, members in zip(representatives, classes, strict=True):
            if equal(representative, answer):
                members.append(index)
                break
        else:
            representatives.append(answer)
            classes.append([index])
    if not classes:
        return Vote(None, ())
    largest = max(range(len(classes)), key=lambda place: len(classes[place]))
    return Vote(representatives[largest], tuple(tuple(members) for members in classes))


def vote_on_formulas(
    replies: Sequence[Sequence[str]],
    golds: Sequence[str],
    checker: MathChecker,
    on_done: Callable[[int, int], None] | None = None,
) -> list[QuestionVerdict]:
    r"""Decide questions by a vote over equivalent final answers.

    Args:
        replies: The samples of each question, truncated at the stops.
        golds: Each question's gold answer, or its gold solution, whose last \boxed is the answer.
        checker: An open checker. It gets the comparisons of all questions in one call.
        on_done: Called with (comparisons done, comparisons in all), for a progress bar.

    Returns:
        Verdicts with the metrics "maj@4", the vote's result (0 or 1), and "maj@1", the mean
        accuracy of the single samples.
    """
    wanted = [boxed_answer(gold) or gold for gold in golds]
    answers = [[final_answer(reply) for reply in samples] for samples in replies]
    pairs = [
        pair
        for gold, samples in zip(wanted, answers, strict=True)
        for pair in _pairs(gold, samples)
    ]
    found = dict(zip(pairs, checker.equal_many(pairs, on_done), strict=True))

    def equal(representative: str, answer: str) -> bool:
        same = representative == answer
        return same or found[_ordered(representative, answer)] is Equality.EQUAL

    verdicts = []
    for gold, samples in zip(wanted, answers, strict=True):
        single = tuple(_compare(gold, answer, found) for answer in samples)
        verdict = _verdict_of(vote(samples, equal), single)
        metrics = {"maj@4": float(verdict.is_correct), "maj@1": _mean(single)}
        verdicts.append(QuestionVerdict(verdict, single, metrics))
    return verdicts


def vote_on_numbers(
    replies: Sequence[Sequence[str]], golds: Sequence[str]
) -> list[QuestionVerdict]:
    """Decide questions by a vote over strictly read numbers.

    Args:
        replies: The samples of each question, truncated at the stops.
        golds: Each question's gold number, or the row's `answer`, whose number follows `####`.

    Returns:
        Verdicts with the metrics "maj@8", the strict vote's result (0 or 1), "maj@1", the mean
        accuracy of the single samples, and "maj@8_flexible", the result of a vote over the replies'
        last numbers.
    """
    verdicts = []
    for samples, answer in zip(replies, golds, strict=True):
        gold = answer.rpartition("####")[2].strip()
        single = tuple(numbers.match_number(reply, gold, "strict") for reply in samples)
        strict = vote([verdict.answer for verdict in single], numbers.equal)
        flexible = vote([numbers.flexible(reply) for reply in samples], numbers.equal)
        verdict = _verdict_of(strict, single)
        right = flexible.winner is not None and numbers.equal(flexible.winner, gold)
        metrics = {
            "maj@8": float(verdict.is_correct),
            "maj@1": _mean(single),
            "maj@8_flexible": float(right),
        }
        verdicts.append(QuestionVerdict(verdict, single, metrics))
    return verdicts


def _pairs(gold: str, answers: Sequence[str | None]) -> list[Pair]:
    """List the comparisons of a question: each answer with the gold and with later answers."""
    distinct = list(dict.fromkeys(answer for answer in answers if answer is not None))
    among = [_ordered(*pair) for pair in combinations(distinct, 2)]
    return [(gold, answer) for answer in distinct] + among


def _ordered(a: str, b: str) -> Pair:
    """Put an answer that is no equation in the gold's place: in a vote `a+b=7` and 7 agree."""
    return (b, a) if "=" in a and "=" not in b else (a, b)


def _compare(gold: str, answer: str | None, found: Mapping[Pair, Equality]) -> Verdict:
    """Return the verdict on one sample from the comparisons `found`."""
    if answer is None:
        return Verdict(Outcome.NO_ANSWER, None, "the reply states no final answer")
    equality = found[gold, answer]
    if equality is Equality.EQUAL:
        return Verdict(Outcome.CORRECT, answer, f"equals the gold answer {gold}")
    if equality is Equality.DIFFERENT:
        return Verdict(Outcome.WRONG, answer, f"differs from the gold answer {gold}")
    why = "exceeded its limit" if equality is Equality.TIMEOUT else "failed"
    return Verdict(Outcome.TIMEOUT, answer, f"the comparison with the gold answer {gold} {why}")


def _verdict_of(result: Vote[str], single: Sequence[Verdict]) -> Verdict:
    """Return the winner's verdict; its reason says how many samples agree with it."""
    if result.winner is None:
        return Verdict(Outcome.NO_ANSWER, None, f"none of {len(single)} samples can be read")
    won = max(result.classes, key=len)
    chosen = single[won[0]]
    reason = f"{len(won)} of {len(single)} samples agree; it {chosen.reason}"
    return Verdict(chosen.outcome, chosen.answer, reason)


def _mean(single: Sequence[Verdict]) -> float:
    return fmean(verdict.is_correct for verdict in single) if single else 0.0
