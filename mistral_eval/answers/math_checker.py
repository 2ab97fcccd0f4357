"""Maths questions: read every sample, let the samples vote, judge the winner.

The cell is the vote (maj@k); the mean over single samples stands beside it, as in Mistral's card.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean

from mistral_eval.answers import numbers
from mistral_eval.answers.latex.boxed import Equality, boxed_answer, final_answer
from mistral_eval.answers.math_pool import MathChecker, Pair
from mistral_eval.answers.verdict import Outcome, QuestionVerdict, Verdict
from mistral_eval.answers.votes import Vote, vote

__all__ = ["MathChecker", "judge_formulas", "judge_numbers"]


def judge_formulas(
    replies: Sequence[Sequence[str]],
    golds: Sequence[str],
    checker: MathChecker,
    *,
    vote_metric: str = "maj@4",
    mean_metric: str = "maj@1",
    on_done: Callable[[int, int], None] | None = None,
) -> list[QuestionVerdict]:
    r"""Judge questions whose answers are formulas.

    Args:
        replies: The samples of each question, cut at the stops.
        golds: Each question's gold answer, or its gold solution, whose last \boxed is the answer.
        checker: An open checker; all comparisons of all questions go through it at once.
        vote_metric: Name under which the vote's verdict (0 or 1) is kept.
        mean_metric: Name under which the mean accuracy of the single samples is kept.
        on_done: Called with (comparisons done, comparisons in all) for a progress bar.
    """
    wanted = [boxed_answer(gold) or gold for gold in golds]
    answers = [[final_answer(reply) for reply in samples] for samples in replies]
    pairs = [
        pair
        for gold, samples in zip(wanted, answers, strict=True)
        for pair in _pairs(gold, samples)
    ]
    found = dict(zip(pairs, checker.equal_many(pairs, on_done), strict=True))
    return [
        _judge_question(gold, samples, found, (vote_metric, mean_metric))
        for gold, samples in zip(wanted, answers, strict=True)
    ]


def judge_numbers(
    replies: Sequence[Sequence[str]],
    golds: Sequence[str],
    *,
    vote_metric: str = "maj@8",
    mean_metric: str = "maj@1",
    flexible_metric: str = "maj@8_flexible",
) -> list[QuestionVerdict]:
    """Judge questions whose answers are numbers: the vote over strictly read ones decides.

    Args:
        replies: The samples of each question, cut at the stops.
        golds: Each question's gold number, or the row's `answer`, whose number follows `####`.
        vote_metric: Name of the strict vote's verdict (0 or 1).
        mean_metric: Name of the mean accuracy of the single, strictly read samples.
        flexible_metric: Name of the verdict (0 or 1) of a vote over the replies' last numbers.
    """
    verdicts = []
    for samples, answer in zip(replies, golds, strict=True):
        gold = answer.rpartition("####")[2].strip()
        single = tuple(numbers.judge(reply, gold, "strict") for reply in samples)
        strict = vote([verdict.answer for verdict in single], numbers.equal)
        flexible = vote([numbers.flexible(reply) for reply in samples], numbers.equal)
        verdict = _verdict_of(strict, single)
        right = flexible.winner is not None and numbers.equal(flexible.winner, gold)
        metrics = {
            vote_metric: float(verdict.is_correct),
            mean_metric: _mean(single),
            flexible_metric: float(right),
        }
        verdicts.append(QuestionVerdict(verdict, single, metrics))
    return verdicts


def _pairs(gold: str, answers: Sequence[str | None]) -> Iterator[Pair]:
    """Yield the comparisons a question needs: each answer with the gold and with later answers."""
    distinct = list(dict.fromkeys(answer for answer in answers if answer is not None))
    for place, answer in enumerate(distinct):
        yield gold, answer
        for later in distinct[place + 1 :]:
            yield answer, later


def _judge_question(
    gold: str,
    answers: Sequence[str | None],
    found: Mapping[Pair, Equality],
    names: tuple[str, str],
) -> QuestionVerdict:
    single = tuple(_judge_sample(gold, answer, found) for answer in answers)

    def equal(representative: str, answer: str) -> bool:
        return representative == answer or found[representative, answer] is Equality.EQUAL

    verdict = _verdict_of(vote(answers, equal), single)
    metrics = dict(zip(names, (float(verdict.is_correct), _mean(single)), strict=True))
    return QuestionVerdict(verdict, single, metrics)


def _judge_sample(gold: str, answer: str | None, found: Mapping[Pair, Equality]) -> Verdict:
    if answer is None:
        return Verdict(Outcome.NO_ANSWER, None, "the reply states no final answer")
    equality = found[gold, answer]
    if equality is Equality.EQUAL:
        return Verdict(Outcome.CORRECT, answer, f"equals the gold answer {gold}")
    if equality is Equality.DIFFERENT:
        return Verdict(Outcome.WRONG, answer, f"differs from the gold answer {gold}")
    why = "was stopped at its limit" if equality is Equality.TIMEOUT else "broke off"
    return Verdict(Outcome.TIMEOUT, answer, f"the comparison with the gold answer {gold} {why}")


def _verdict_of(result: Vote[str], single: Sequence[Verdict]) -> Verdict:
    """Return the winner's verdict; its reason says how many samples stood behind it."""
    if result.winner is None:
        return Verdict(Outcome.NO_ANSWER, None, f"none of {len(single)} samples can be read")
    won = max(result.classes, key=len)
    chosen = single[won[0]]
    reason = f"{len(won)} of {len(single)} samples agree; it {chosen.reason}"
    return Verdict(chosen.outcome, chosen.answer, reason)


def _mean(single: Sequence[Verdict]) -> float:
    return fmean(verdict.is_correct for verdict in single) if single else 0.0
