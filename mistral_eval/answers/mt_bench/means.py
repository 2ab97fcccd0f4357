"""MT-Bench's figures from ratings: means, intervals over questions, and several runs.

The mean is over all judgments, not the mean of the two turns' means. The interval is over
questions: the two turns of one question are one cluster. Neither says how much the judge or the
sampling vary; `over_runs` does.
"""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Final

from mistral_eval.answers.mt_bench.ratings import (
    HIGHEST,
    LOWEST,
    Difference,
    differences,
    read_fastchat_rating,
    read_rating,
)
from mistral_eval.errors import DataError
from mistral_eval.stats import Interval, clustered_mean

UNREAD_SCORE: Final = -1
"""What FastChat stores for a judgment without a rating."""


@dataclass(frozen=True, slots=True)
class RatedAnswer:
    """One judgment of one answer: its rating, or None if none could be read."""

    model: str
    question_id: int
    turn: int
    judge: str
    rating: float | None
    category: str = ""


@dataclass(frozen=True, slots=True)
class JudgedText:
    """One judgment of one answer as the judge wrote it."""

    model: str
    question_id: int
    turn: int
    judge: str
    text: str
    category: str = ""

    def rated(self, rating: float | None) -> RatedAnswer:
        """Return the judgment with the rating that a rule read from it."""
        return RatedAnswer(
            self.model, self.question_id, self.turn, self.judge, rating, self.category
        )


@dataclass(frozen=True, slots=True)
class Score:
    """A mean of ratings with its interval over questions, and how many could not be read.

    `interval` is None if no rating could be read.
    """

    interval: Interval | None
    questions: int
    rated: int
    unread: int


@dataclass(frozen=True, slots=True)
class Scores:
    """A model's MT-Bench figures by one judge.

    Attributes:
        overall: Over all judgments.
        turns: Turn -> its score.
        categories: Category -> its score over both turns.
        counting_unread: The overall mean with each unread judgment as -1; it is the overall mean
            itself where every one was read, and None without judgments.
        missing: (question, turn) pairs of these questions without a judgment. Missing second turns
            raise the mean, because they are rated lower.
    """

    overall: Score
    turns: Mapping[int, Score]
    categories: Mapping[str, Score]
    counting_unread: float | None
    missing: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class ByBothRules:
    """A model's figures by either rule of reading, and the judgments that they read differently."""

    ours: Scores
    fastchat: Scores
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class OverRuns:
    """Mean and standard deviation of the overall means of several runs (n - 1 below the root).

    It says how much sampling and judging vary on these questions, and nothing of other questions.
    """

    mean: float
    deviation: float | None
    runs: int

    def __str__(self) -> str:
        """Say the figure in words that cannot be taken for an interval over questions."""
        if self.deviation is None:
            return f"{self.mean:.2f} (1 run)"
        return f"{self.mean:.2f} ± {self.deviation:.2f} (standard deviation of {self.runs} runs)"


def check_unique(rows: Iterable[RatedAnswer]) -> None:
    """Check that no judge rated an answer twice.

    Duplicates are never averaged: in the one real file that has them they are two sets of answers,
    with means of 5.39 and 6.33.

    Raises:
        DataError: Two rows have one model, question, turn and judge.
    """
    found = Counter((row.model, row.question_id, row.turn, row.judge) for row in rows)
    for (model, question, turn, judge), count in found.items():
        if count > 1:
            raise DataError(
                f"{model}, question {question}, turn {turn}, judge {judge}: expected one judgment, "
                f"found {count}. Keep one set of answers per model name."
            )


def score(rows: Sequence[RatedAnswer]) -> Scores:
    """Return the figures of one model by one judge.

    Raises:
        DataError: An answer was rated twice, or the rows are of several models or judges.
    """
    check_unique(rows)
    sources = sorted({(row.model, row.judge) for row in rows})
    if len(sources) > 1:
        raise DataError(
            "Expected judgments of one model by one judge, found "
            f"{' and '.join(f'{model} by {judge}' for model, judge in sources)}. "
            "Score them one by one."
        )
    return _figures(rows)


def score_runs(sets: Sequence[Sequence[RatedAnswer]]) -> Scores:
    """Return the figures of several runs of one model by one judge, over all of their ratings.

    The interval is over questions: all ratings of one question are one cluster. An answer is
    missing if a run lacks it.

    Raises:
        DataError: A run rated an answer twice, or its rows are of several models or judges.
    """
    missing = (answer for rows in sets for answer in score(rows).missing)
    pooled = _figures([row for rows in sets for row in rows])
    return replace(pooled, missing=tuple(dict.fromkeys(missing)))


def _figures(rows: Sequence[RatedAnswer]) -> Scores:
    turns = sorted({row.turn for row in rows})
    categories = dict.fromkeys(row.category for row in rows if row.category)
    there = {(row.question_id, row.turn) for row in rows}
    questions = sorted({row.question_id for row in rows})
    return Scores(
        _score(rows),
        {turn: _score([row for row in rows if row.turn == turn]) for turn in turns},
        {name: _score([row for row in rows if row.category == name]) for name in categories},
        official_mean([row.rating for row in rows], count_unread=True),
        tuple((one, turn) for one in questions for turn in (1, 2) if (one, turn) not in there),
    )


def by_both_rules(texts: Sequence[JudgedText]) -> ByBothRules:
    """Read the judgments of one model by one judge by either rule, and score both.

    FastChat's rule takes values outside 1 to 10, so its mean may lie outside too.

    Raises:
        DataError: As of `score`.
    """
    return ByBothRules(
        score([one.rated(read_rating(one.text).value) for one in texts]),
        score([one.rated(read_fastchat_rating(one.text).value) for one in texts]),
        differences(one.text for one in texts),
    )


def _score(rows: Sequence[RatedAnswer]) -> Score:
    rated = [(row.rating, row.question_id) for row in rows if row.rating is not None]
    questions = len({question for _, question in rated})
    interval = None
    if rated:
        values, clusters = zip(*rated, strict=True)
        bounds = min(LOWEST, *values), max(HIGHEST, *values)
        interval = clustered_mean(values, clusters, bounds=bounds)
    return Score(interval, questions, len(rated), len(rows) - len(rated))


def official_mean(ratings: Sequence[float | None], *, count_unread: bool) -> float | None:
    """Return the plain mean over all judgments; None if there is none to average.

    Args:
        ratings: Ratings; None is one that could not be read.
        count_unread: Count an unread judgment as -1, as the first leaderboard (2023-06) did.
            FastChat has dropped it since July 2023.
    """
    unread = UNREAD_SCORE if count_unread else None
    kept = [unread if rating is None else rating for rating in ratings]
    values = [value for value in kept if value is not None]
    return math.fsum(values) / len(values) if values else None


def as_published(ratings: Sequence[float | None], *, count_unread: bool) -> str:
    """Return the official mean with two decimals, ties rounded half up from the exact mean.

    Raises:
        ValueError: There is nothing to average.
    """
    unread = Fraction(UNREAD_SCORE) if count_unread else None
    kept = [unread if rating is None else Fraction(str(rating)) for rating in ratings]
    values = [value for value in kept if value is not None]
    if not values:
        raise ValueError("expected at least one rating, found none")
    mean = sum(values, Fraction()) / len(values)
    exact = Decimal(mean.numerator) / Decimal(mean.denominator)
    return str(exact.quantize(Decimal("0.01"), ROUND_HALF_UP))


def over_runs(means: Sequence[float]) -> OverRuns:
    """Return mean and standard deviation of several runs' means, as the paper's Table 4 gives.

    Raises:
        ValueError: There is no run.
    """
    if not means:
        raise ValueError("expected the mean of at least one run, found none")
    deviation = statistics.stdev(means) if len(means) > 1 else None
    return OverRuns(statistics.fmean(means), deviation, len(means))
