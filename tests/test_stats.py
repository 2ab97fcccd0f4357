"""Intervals and paired tests against known values, hand-computed cases and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistral_eval.stats import (
    Interval,
    clustered_mean,
    corrected_share,
    holm,
    mcnemar,
    mean_interval,
    mean_of,
    overdispersion,
    paired_bootstrap,
    smallest_detectable,
    wilson,
)

Z = 1.959963984540054


class TestWilson:
    @pytest.mark.parametrize(
        ("correct", "n", "low", "high"),
        [
            (81, 263, 25.53, 36.62),
            (15, 148, 6.24, 16.05),
            (0, 20, 0.0, 16.11),
            (1, 29, 0.61, 17.18),
        ],
    )
    def test_published_cases(self, correct, n, low, high):
        """The four cases of Newcombe (1998), method 3, printed to four decimals of a share."""
        found = wilson(correct, n)
        assert (low, high) == pytest.approx((found.low, found.high), abs=5.1e-3)

    @given(st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
    def test_it_is_the_score_intervals_closed_form(self, case):
        """The ends solve |p - p0| = z sqrt(p0 (1 - p0) / n)."""
        correct, n = case
        p = correct / n
        middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
        half = Z / (1 + Z * Z / n) * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
        found = wilson(correct, n)
        expected = (100 * (middle - half), 100 * (middle + half))
        assert expected == pytest.approx((found.low, found.high), abs=1e-6)
        assert 0 <= found.low <= found.value <= found.high <= 100

    @pytest.mark.parametrize(("correct", "n"), [(0, 0), (-1, 5), (6, 5)])
    def test_impossible_counts_are_refused(self, correct, n):
        with pytest.raises(ValueError, match="expected 0 <= correct <= n"):
            wilson(correct, n)


class TestMeanInterval:
    def test_hand_computed(self):
        """Mean 0.5, standard deviation 0.5, t(2, 97.5 %) = 4.302653: cut to 0 to 100."""
        assert mean_interval([0.0, 0.5, 1.0]) == Interval(50.0, 0.0, 100.0)
        found = mean_interval([0.4, 0.5, 0.6, 0.5])  # deviation 0.0816497, t(3) = 3.182446
        half = 100 * 3.182446 * 0.0816497 / 2
        assert (50 - half, 50 + half) == pytest.approx((found.low, found.high), abs=1e-3)

    @pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
    def test_equal_values_are_no_certainty(self, value):
        found = mean_interval([value] * 20)
        assert found.low <= found.value <= found.high
        assert found.value == pytest.approx(100 * value)
        assert found.high - found.low > 10

    def test_no_value_says_nothing(self):
        assert mean_interval([]) == Interval(0.0, 0.0, 100.0)


class TestMeanOf:
    def test_one_part_is_itself(self):
        assert Interval(50, 40, 65) == mean_of([Interval(50, 40, 65)])

    def test_two_equal_parts_shrink_by_the_square_root_of_two(self):
        found = mean_of([Interval(50, 40, 60), Interval(50, 40, 60)])
        assert (50, 50 - 10 / math.sqrt(2), 50 + 10 / math.sqrt(2)) == pytest.approx(
            (found.value, found.low, found.high)
        )


class TestMcNemar:
    def test_hand_computed(self):
        """With 1 against 9, both tails: 2 (C(10,0) + C(10,1)) / 2^10."""
        assert pytest.approx(mcnemar(1, 9)) == 2 * 11 / 1024

    def test_runs_that_never_differ_are_not_different(self):
        assert mcnemar(0, 0) == 1.0

    @given(st.integers(0, 300), st.integers(0, 300))
    def test_order_does_not_matter_and_p_is_a_probability(self, a, b):
        assert mcnemar(a, b) == mcnemar(b, a)
        assert 0 <= mcnemar(a, b) <= 1


class TestHolm:
    def test_hand_computed(self):
        """Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, made monotone."""
        assert pytest.approx(holm([0.03, 0.01, 0.02, 0.04])) == (0.06, 0.04, 0.06, 0.06)

    def test_none_exceeds_one(self):
        assert holm([0.7, 0.9]) == (1.0, 1.0)

    def test_no_test_no_correction(self):
        assert holm([]) == ()

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
    def test_it_agrees_with_the_definition(self, p):
        """Against the slow definition: the maximum over the hypotheses at least as significant."""
        order = sorted(range(len(p)), key=lambda i: p[i])
        slow = [0.0] * len(p)
        for place, i in enumerate(order):
            slow[i] = min(1.0, max((len(p) - j) * p[order[j]] for j in range(place + 1)))
        assert tuple(slow) == pytest.approx(holm(p))


class TestClusteredMean:
    def test_single_values_have_students_t_interval(self):
        """The hand-computed interval of 2, 4, 4, 6: mean 4, standard error sqrt(8 / 3) / 2."""
        found = clustered_mean([2, 4, 4, 6], "abcd", bounds=(1, 10))
        half = 3.182446305 * math.sqrt(8 / 3) / 2
        assert (found.value, found.low, found.high) == pytest.approx((4, 4 - half, 4 + half))

    def test_copies_within_a_cluster_add_nothing(self):
        once = clustered_mean([2, 4, 4, 6], "abcd", bounds=(1, 10))
        assert clustered_mean([2, 2, 4, 4, 4, 4, 6, 6], "aabbccdd", bounds=(1, 10)) == once

    def test_one_cluster_says_nothing_of_others(self):
        assert clustered_mean([3, 5], "aa", bounds=(1, 10)) == Interval(4, 1, 10)

    def test_equal_values_have_an_interval(self):
        found = clustered_mean([10.0] * 80, range(80), bounds=(1, 10))
        assert 9.5 < found.low < found.high == 10

    @given(st.lists(st.tuples(st.integers(1, 10), st.integers(0, 5)), min_size=1))
    def test_it_holds_its_value_and_keeps_to_the_bounds(self, rows):
        found = clustered_mean([v for v, _ in rows], [c for _, c in rows], bounds=(1, 10))
        assert 1 <= found.low <= found.value + 1e-9
        assert found.value - 1e-9 <= found.high <= 10

    def test_nothing_has_no_mean(self):
        with pytest.raises(ValueError, match="at least one value"):
            clustered_mean([], [], bounds=(1, 10))

    def test_it_covers_the_true_mean_95_percent_of_the_time_with_turns_that_depend(self):
        """2000 simulated sets of 80 questions, some without a second turn."""
        rng = np.random.default_rng(5)
        hits = 0
        for _ in range(2000):
            level = rng.normal(5.5, 1, 80)
            turns = rng.integers(1, 3, 80)
            values = [
                v for q, n in zip(level, turns, strict=True) for v in q + rng.normal(0, 0.5, n)
            ]
            found = clustered_mean(values, np.repeat(range(80), turns).tolist(), bounds=(1, 10))
            hits += found.low <= 5.5 <= found.high
        assert 0.935 < hits / 2000 < 0.965


class TestCorrectedShare:
    def test_the_value_is_rogan_and_gladens(self):
        found = corrected_share(30, 100, (90, 100), (80, 100))
        assert found.value == pytest.approx(100 * (0.3 + 0.8 - 1) / (0.9 + 0.8 - 1))

    def test_a_perfect_judge_with_many_known_answers_gives_wilsons_interval(self):
        found, plain = corrected_share(30, 100, (10**9, 10**9), (10**9, 10**9)), wilson(30, 100)
        assert (found.value, found.low, found.high) == pytest.approx(
            (plain.value, plain.low, plain.high), abs=1.0
        )

    def test_a_judge_no_better_than_chance_corrects_nothing(self):
        assert corrected_share(30, 100, (50, 100), (50, 100)) == Interval(30.0, 0.0, 100.0)

    def test_less_is_known_from_fewer_labelled_answers(self):
        many = corrected_share(30, 100, (900, 1000), (800, 1000))
        few = corrected_share(30, 100, (9, 10), (8, 10))
        assert few.high - few.low > many.high - many.low

    @given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
    def test_it_keeps_to_0_and_100_and_holds_its_value(self, case):
        found = corrected_share(*case, (177, 196), (283, 304))
        assert 0 <= found.low <= found.value <= found.high <= 100

    @pytest.mark.parametrize(
        ("share", "sens", "spec"), [(0.02, 0.9, 0.93), (0.19, 0.9, 0.93), (0.96, 0.97, 0.6)]
    )
    def test_it_covers_the_true_share_with_both_uncertainties(self, share, sens, spec):
        """4000 simulated runs of 250 answers and known errors of 200 and 300 answers."""
        rng = np.random.default_rng(2)
        counted = rng.binomial(250, share * sens + (1 - share) * (1 - spec), 4000)
        hits, passes = rng.binomial(200, sens, 4000), rng.binomial(300, spec, 4000)
        found = [
            corrected_share(int(k), 250, (int(h), 200), (int(p), 300))
            for k, h, p in zip(counted, hits, passes, strict=True)
        ]
        held = [one.low <= 100 * share <= one.high for one in found]
        assert 0.94 < np.mean(held) <= 0.99

    @pytest.mark.parametrize(("positive", "n"), [(0, 0), (3, 2), (-1, 2)])
    def test_counts_that_do_not_fit_are_refused(self, positive, n):
        with pytest.raises(ValueError, match="expected 0 <="):
            corrected_share(positive, n, (9, 10), (9, 10))

    def test_groups_that_differ_by_chance_alone_are_not_overdispersed(self):
        assert overdispersion([(50, 100), (52, 100)]) == 1.0
        assert overdispersion([(5, 100), (50, 100)]) > 30
        assert overdispersion([(5, 10), (0, 0)]) == 1.0


class TestPairedBootstrap:
    def test_no_difference_anywhere_is_a_point(self):
        assert Interval(0, 0, 0) == paired_bootstrap(np.zeros(50, np.int8))

    def test_the_same_seed_gives_the_same_interval(self):
        d = np.array([1, 0, -1, 0, 1, 1, 0, 0] * 20, np.int8)
        assert paired_bootstrap(d, seed=3) == paired_bootstrap(d, seed=3)
        assert paired_bootstrap(d, seed=3) != paired_bootstrap(d, seed=4)

    def test_it_agrees_with_drawing_questions_one_by_one(self):
        """The multinomial draw has the quantiles of the slow bootstrap."""
        rng = np.random.default_rng(0)
        d = rng.choice([-1, 0, 1], 400, p=[0.1, 0.7, 0.2]).astype(np.int8)
        fast = paired_bootstrap(d, resamples=40_000)
        slow = 100 * d[rng.integers(0, 400, (40_000, 400))].mean(axis=1)
        assert np.quantile(slow, (0.025, 0.975)) == pytest.approx((fast.low, fast.high), abs=0.3)

    def test_strata_are_resampled_within(self):
        """Where each stratum is constant, nothing varies, however the strata differ."""
        d = np.array([1] * 30 + [-1] * 70, np.int8)
        found = paired_bootstrap(d, ["easy"] * 30 + ["hard"] * 70)
        assert Interval(-40, -40, -40) == found
        assert paired_bootstrap(d).low < -40

    @pytest.mark.parametrize("bad", [[], [2], [0.5]])
    def test_only_differences_of_right_and_wrong_are_taken(self, bad):
        with pytest.raises(ValueError, match="each -1, 0 or 1"):
            paired_bootstrap(np.array(bad))

    def test_intervals_cover_the_true_difference_95_percent_of_the_time(self):
        """2000 simulated pairs of 300 questions with a true difference of 6 points."""
        rng = np.random.default_rng(11)
        hits = 0
        for i in range(2000):
            d = rng.choice([-1, 0, 1], 300, p=[0.12, 0.70, 0.18]).astype(np.int8)
            found = paired_bootstrap(d, resamples=2000, seed=i)
            hits += found.low <= 6.0 <= found.high
        assert hits / 2000 == pytest.approx(0.95, abs=0.015)


def test_wilson_covers_95_percent_of_the_time():
    """20,000 simulated scores each for three rates at N 164 and 1319."""
    rng = np.random.default_rng(5)
    for n, rate in itertools.product((164, 1319), (0.12, 0.305, 0.6)):
        counts, times = np.unique(rng.binomial(n, rate, 20_000), return_counts=True)
        inside = [wilson(int(k), n) for k in counts]
        hits = sum(
            int(t) for found, t in zip(inside, times, strict=True)
            if found.low <= 100 * rate <= found.high
        )  # fmt: skip
        assert hits / 20_000 == pytest.approx(0.95, abs=0.015), (n, rate)


def test_mcnemar_raises_at_most_five_percent_false_alarms():
    """1000 simulated pairs of equally good runs that disagree on a fifth of 500 questions."""
    rng = np.random.default_rng(7)
    draws = rng.multinomial(500, [0.8, 0.1, 0.1], size=1000)
    alarms = sum(mcnemar(int(a), int(b)) < 0.05 for _, a, b in draws)
    assert alarms <= 50


def rejected(rng, n, discordant, difference, runs=4000):
    """Return how often McNemar's test rejects in simulated pairs of runs."""
    share = max(discordant, difference)
    odds = [max(0.0, 1 - share), (share + difference) / 2, (share - difference) / 2]
    draws = rng.multinomial(n, odds, size=runs)
    pairs, counts = np.unique(draws[:, 1:], axis=0, return_counts=True)
    hits = [mcnemar(int(a), int(b)) < 0.05 for a, b in pairs]
    return counts[hits].sum() / runs


class TestSmallestDetectable:
    def test_hand_computed_where_there_are_many_questions(self):
        """N 10,000, a tenth discordant: about (1.960 + 0.842) sqrt(0.1 / 10,000) = 0.89 points."""
        assert smallest_detectable(10_000, 0.1) == pytest.approx(0.886, abs=0.02)

    def test_six_flips_in_one_direction_are_the_fewest_that_show(self):
        """16 questions: 6 of them are 37.5 points; 80 % of the time 6 or more need more than that.

        P(Binomial(16, 0.449) >= 6) = 0.80.
        """
        for flips in range(5):
            assert smallest_detectable(16, flips / 16) == pytest.approx(44.9, abs=0.1)

    @pytest.mark.parametrize("flips", range(11))
    @pytest.mark.parametrize("n", [10, 16, 50, 164, 1319])
    def test_it_is_found_as_often_as_it_promises(self, n, flips):
        """Simulated at the very difference it names, the test finds it four times in five.

        At nine tenths of it, less often.
        """
        found = smallest_detectable(n, flips / n)
        assert found is not None
        rng = np.random.default_rng(100 * n + flips)
        assert rejected(rng, n, flips / n, found / 100) == pytest.approx(0.8, abs=0.03)
        assert rejected(rng, n, flips / n, 0.9 * found / 100) < 0.78

    def test_it_shrinks_with_more_questions(self):
        sizes = [smallest_detectable(n, 0.2) for n in (16, 50, 200, 1000, 14_042)]
        assert sizes == sorted(sizes, key=lambda size: -float(size or 0))

    @pytest.mark.parametrize("n", [1, 4, 5])
    def test_too_few_questions_show_nothing(self, n):
        """Five flips of five have p = 0.0625."""
        assert smallest_detectable(n, 1 / n) is None
        assert smallest_detectable(6, 1.0) is not None

    @pytest.mark.parametrize(("n", "share"), [(0, 0.1), (10, -0.1), (10, 1.1)])
    def test_nonsense_is_refused(self, n, share):
        with pytest.raises(ValueError, match="expected n > 0"):
            smallest_detectable(n, share)
