"""Intervals and paired tests over questions, computed with scipy and numpy.

Wilson (1927) for one proportion, Student's t for a mean of single values or of clusters, McNemar's
exact test and a stratified percentile bootstrap for a pair of runs, Holm (1979) over several
benchmarks.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

CONFIDENCE: Final = 0.95
NEGLIGIBLE: Final = 1e-12  # probabilities below it are left out of a sum


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with the ends of its interval, all in the same unit."""

    value: float
    low: float
    high: float


NOTHING_KNOWN: Final = Interval(0.0, 0.0, 100.0)
"""A share in percent of no question at all."""


def wilson(correct: int, n: int) -> Interval:
    """Return the share of correct questions, in percent, with its Wilson interval.

    Raises:
        ValueError: n is 0, or correct is not between 0 and n.
    """
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"expected 0 <= correct <= n and n > 0, found {correct} of {n}")
    interval = stats.binomtest(correct, n).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(
        100.0 * correct / n,
        max(0.0, 100.0 * float(interval.low)),
        min(100.0, 100.0 * float(interval.high)),
    )


def mean_interval(values: Sequence[float]) -> Interval:
    """Return the mean of values between 0 and 1, in percent, with Student's t interval.

    The interval is cut to 0 to 100. Equal values, which would have none, get that of a share, whose
    variance is the largest of any values with this mean; no value at all gets 0 to 100.
    """
    if not values:
        return NOTHING_KNOWN
    mean = math.fsum(values) / len(values)
    if min(values) == max(values):
        share = wilson(round(mean * len(values)), len(values))
        return Interval(100.0 * mean, min(share.low, 100.0 * mean), max(share.high, 100.0 * mean))
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    half = quantile * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Interval(
        100.0 * mean, max(0.0, 100.0 * (mean - half)), min(100.0, 100.0 * (mean + half))
    )


def clustered_mean(
    values: Sequence[float], clusters: Sequence[Hashable], *, bounds: tuple[float, float]
) -> Interval:
    """Return the mean of all values, in their own unit, with an interval over clusters.

    Values of one cluster may depend on each other, such as the two turns of a question. The
    standard error is the linearised one of a ratio of totals (Cochran 1977, section 9A), which
    allows clusters of several sizes; Student's t has one degree of freedom less than there are
    clusters. Equal values, which would have no interval, get that of a share between the bounds.
    With one cluster the interval is `bounds`.

    Args:
        values: The values, (n,).
        clusters: Each value's cluster, (n,).
        bounds: Least and greatest possible value; the interval is cut to them.

    Raises:
        ValueError: There is no value.
    """
    if not values:
        raise ValueError("expected at least one value, found none")
    mean = math.fsum(values) / len(values)
    surplus: dict[Hashable, float] = {}
    for value, cluster in zip(values, clusters, strict=True):
        surplus[cluster] = surplus.get(cluster, 0.0) + value - mean
    count = len(surplus)
    if count == 1:
        return Interval(mean, *bounds)
    low, high = bounds
    if min(values) == max(values):
        share = wilson(round((mean - low) / (high - low) * count), count)
        low, high = (low + end / 100.0 * (high - low) for end in (share.low, share.high))
        return Interval(mean, min(low, mean), max(high, mean))
    squares = math.fsum(total * total for total in surplus.values())
    error = math.sqrt(count / (count - 1) * squares) / len(values)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * error
    return Interval(mean, max(low, mean - half), min(high, mean + half))


def overdispersion(counts: Sequence[tuple[int, int]]) -> float:
    """Return how much more shares of several groups differ than one share's binomial noise.

    Pearson's chi-squared by its degrees of freedom, at least 1 (McCullagh and Nelder 1989, section
    4.5). Counts divided by it carry the groups' differences.

    Args:
        counts: (count, out of) of each group; empty groups do not count.
    """
    groups = [(count, n) for count, n in counts if n]
    share = (sum(count for count, _ in groups) + 1) / (sum(n for _, n in groups) + 2)
    squares = ((count - n * share) ** 2 / (n * share * (1 - share)) for count, n in groups)
    return max(1.0, math.fsum(squares) / max(1, len(groups) - 1))


def corrected_share(
    positive: int, n: int, sensitivity: tuple[float, float], specificity: tuple[float, float]
) -> Interval:
    """Return a share in percent, corrected by the known error of the judge that counted it.

    The value is Rogan and Gladen's (1978), (p + specificity - 1) / (sensitivity + specificity - 1),
    cut to 0 to 100. The interval is that of Lang and Reiczigel (2014), which allows for chance in
    all three shares. Where the judge is no better than chance it is 0 to 100.

    Args:
        positive: Answers that the judge counts.
        n: Answers judged, at least 1.
        sensitivity: (hits, positives): of answers that are right to count, how many the judge
            counts. Counts may be divided by an overdispersion, and so be no whole numbers.
        specificity: (hits, negatives): of the others, how many the judge leaves out.

    Raises:
        ValueError: There is no answer, or the counts do not fit.
    """
    if not 0 <= positive <= n or n == 0:
        raise ValueError(f"expected 0 <= positive <= n and n > 0, found {positive} of {n}")
    z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    hits, positives = sensitivity
    passes, negatives = specificity
    sens, spec = (hits + 1) / (positives + 2), (passes + 1) / (negatives + 2)
    better = sens + spec - 1
    if better <= 0:
        return Interval(100.0 * positive / n, 0.0, 100.0)
    judged = (positive + z * z / 2) / (n + z * z)
    share = (judged + spec - 1) / better
    noise = sens * (1 - sens) / (positives + 2), spec * (1 - spec) / (negatives + 2)
    shift = 2 * z * z * (share * noise[0] - (1 - share) * noise[1])
    variance = judged * (1 - judged) / (n + z * z)
    variance += share**2 * noise[0] + (1 - share) ** 2 * noise[1]
    half = z * math.sqrt(variance) / better
    raw = hits / positives + passes / negatives - 1 if positives and negatives else 0.0
    value = (positive / n + passes / negatives - 1) / raw if raw > 0 else share
    low, high = share + shift - half, share + shift + half
    value, low, high = (min(100.0, max(0.0, 100.0 * end)) for end in (value, low, high))
    return Interval(value, min(low, value), max(high, value))


def mean_of(parts: Sequence[Interval]) -> Interval:
    """Return the plain mean of independent shares, with an interval from theirs.

    The distances to the ends are added in squares on each side (MOVER, "square and add": Newcombe
    1998, Zou and Donner 2008), which keeps the interval within 0 to 100.
    """
    k = len(parts)
    value = math.fsum(part.value for part in parts) / k
    below = math.sqrt(math.fsum((part.value - part.low) ** 2 for part in parts)) / k
    above = math.sqrt(math.fsum((part.high - part.value) ** 2 for part in parts)) / k
    return Interval(value, max(0.0, value - below), min(100.0, value + above))


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the exact two-sided p-value of McNemar's test.

    `only_a` and `only_b` count the questions that only one run answered correctly; if both are 0
    the p-value is 1.
    """
    if only_a + only_b == 0:
        return 1.0
    return float(stats.binomtest(only_a, only_a + only_b, 0.5).pvalue)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return Holm's adjusted p-values, in the order given.

    The j-th smallest of m is multiplied by m - j + 1; the results are made non-decreasing.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    scaled = p[order] * np.arange(p.size, 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return tuple(float(value) for value in adjusted)


def paired_bootstrap(
    differences: NDArray[np.int8],
    strata: Sequence[str] | None = None,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Return the mean difference, in points, with its percentile bootstrap interval.

    A question's difference is -1, 0 or 1, so a resample of a stratum is one multinomial draw of
    the three counts: the same distribution as drawing questions one by one, a thousand times
    faster.

    Args:
        differences: B's correctness minus A's, one per question: (n,), values -1, 0, 1.
        strata: Each question's stratum, resampled separately; None means one stratum.
        resamples: Number of bootstrap resamples.
        seed: Random seed.

    Raises:
        ValueError: There is no question, or a value is not -1, 0 or 1.
    """
    values = np.asarray(differences)
    if values.size == 0 or not np.isin(values, (-1, 0, 1)).all():
        raise ValueError("expected at least one difference, each -1, 0 or 1")
    labels = (
        np.zeros(values.size, int) if strata is None else np.unique(strata, return_inverse=True)[1]
    )
    rng = np.random.default_rng(seed)
    total = np.zeros(resamples)
    for stratum in range(int(labels.max()) + 1):
        inside = values[labels == stratum]
        counts = np.array([(inside == step).sum() for step in (-1, 0, 1)])
        drawn = rng.multinomial(inside.size, counts / inside.size, size=resamples)  # (R, 3)
        total += drawn[:, 2] - drawn[:, 0]
    means = 100.0 * total / values.size
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    return Interval(100.0 * float(values.mean()), float(low), float(high))


def mcnemar_power(n: int, discordant: float, difference: float, *, alpha: float) -> float:
    """Return the probability that McNemar's exact test finds a true difference.

    Args:
        n: Paired questions.
        discordant: Share of questions that exactly one of the runs answers correctly, above 0.
        difference: True difference as a share of questions, 0 to `discordant`.
        alpha: Two-sided level of the test.
    """
    flips = np.arange(n + 1)
    weights = stats.binom.pmf(flips, n, discordant)
    flips, weights = flips[weights > NEGLIGIBLE], weights[weights > NEGLIGIBLE]
    # The test rejects if the smaller count is at most `most`; -1 where it never does.
    most = stats.binom.ppf(alpha / 2, flips, 0.5) - 1
    share = min(1.0, (discordant + difference) / (2 * discordant))
    found = stats.binom.cdf(most, flips, share) + stats.binom.sf(flips - most - 1, flips, share)
    return float(weights @ np.where(most < 0, 0.0, found))


def smallest_detectable(
    n: int, discordant: float, *, alpha: float = 1 - CONFIDENCE, power: float = 0.8
) -> float | None:
    """Return the true difference, in points, that a test of n pairs detects with the given power.

    The power is that of McNemar's exact test, summed over the number of questions on which the
    runs may disagree. A difference cannot exceed the share of such questions: a larger one is
    taken to come from that many questions, all of which changed in one direction.

    Args:
        n: Paired questions.
        discordant: Share of questions that exactly one of the runs answered correctly, 0 to 1.
        alpha: Two-sided level of the test.
        power: Probability of detecting the difference.

    Returns:
        The difference; None if n is so small that the test detects none.

    Raises:
        ValueError: n is not positive, or the share lies outside 0 to 1.
    """
    if n <= 0 or not 0 <= discordant <= 1:
        raise ValueError(f"expected n > 0 and a share from 0 to 1, found {n} and {discordant}")

    def surplus(d: float) -> float:
        return mcnemar_power(n, max(discordant, d, NEGLIGIBLE), d, alpha=alpha) - power

    if surplus(1.0) < 0:
        return None
    return 100.0 * float(optimize.brentq(surplus, 0.0, 1.0, xtol=1e-9))
