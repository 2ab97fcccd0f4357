"""MT-Bench's means: the published ones, their intervals over questions, and runs in words."""

import csv

import pytest

from mistral_eval.answers.mt_bench.means import (
    RatedAnswer,
    as_published,
    check_unique,
    official_mean,
    over_runs,
    score,
)
from mistral_eval.errors import DataError


def rows(*ratings: tuple[int, int, float | None], category: str = "") -> list[RatedAnswer]:
    return [RatedAnswer("m", question, turn, "j", r, category) for question, turn, r in ratings]


def stored_scores(shared) -> dict[str, list[float | None]]:
    import pandas as pd

    table = pd.read_parquet(shared / "transcripts" / "chat" / "mt_bench_lmsys_scores.parquet")
    return {
        model: [None if row.stored_minus_one else row.score for row in part.itertuples()]
        for model, part in table.groupby("model")
    }


def test_seventeen_official_means_come_out_with_the_unread_as_minus_one(shared):
    published = shared / "transcripts" / "chat" / "mt_bench_published.csv"
    with published.open(encoding="utf-8") as file:
        expected = {row["model"]: row["published"] for row in csv.DictReader(file)}
    scores = stored_scores(shared)
    counted = {model: as_published(scores[model], count_unread=True) for model in expected}
    assert counted == expected
    assert len(expected) == 17
    dropped = {model: as_published(scores[model], count_unread=False) for model in expected}
    assert {model for model in expected if dropped[model] != expected[model]} == {
        "claude-instant-v1",
        "mpt-7b-chat",
    }


def test_6_84_lies_within_the_interval_of_llama_2_13bs_6_65(shared):
    import pandas as pd

    table = pd.read_parquet(shared / "transcripts" / "chat" / "mt_bench_lmsys_scores.parquet")
    made = [
        RatedAnswer(row.model, row.question_id, row.turn, "gpt-4", row.score)
        for row in table[table.model == "Llama-2-13b-chat"].itertuples()
    ]
    overall = score(made).overall
    assert (overall.questions, overall.rated) == (80, 160)
    assert overall.interval.value == pytest.approx(6.65)
    assert overall.interval.low < 6.1
    assert overall.interval.high > 7.2


def test_a_tie_rounds_half_up_where_floats_would_not():
    assert as_published([8.1, 8.11], count_unread=True) == "8.11"  # 8.105 from decimal ratings
    assert as_published([1.0] * 199 + [2.0], count_unread=True) == "1.01"  # 1.005


def test_two_turns_are_one_question():
    """Ratings that agree within a question count once: the interval is that of single turns."""
    once = score(rows(*((q, 1, float(r)) for q, r in enumerate([4, 5, 6, 7], 1)))).overall
    twice = score(rows(*((q, t, 3.0 + q) for q in range(1, 5) for t in (1, 2)))).overall
    assert once.interval.low == pytest.approx(twice.interval.low)
    assert once.interval.high == pytest.approx(twice.interval.high)
    assert 1 < once.interval.low < once.interval.high < 10
    assert (once.questions, twice.questions, twice.rated) == (4, 4, 8)


def test_the_mean_is_over_rows_and_missing_turns_are_named():
    found = score(rows((81, 1, 10.0), (81, 2, 4.0), (82, 1, 10.0)))
    assert found.overall.interval.value == 8.0  # the mean of the turns' means is 7
    assert found.turns[1].interval.value == 10.0
    assert found.turns[2].interval.value == 4.0
    assert found.missing == ((82, 2),)


def test_an_unread_rating_is_counted_and_is_no_number():
    found = score(rows((81, 1, 9.0), (81, 2, None), (82, 1, 7.0), (82, 2, 8.0)))
    assert found.overall.unread == 1
    assert found.overall.interval.value == 8.0
    assert found.counting_unread == 5.75
    nothing = score(rows((81, 1, None)))
    assert nothing.overall.interval is None
    assert nothing.counting_unread == -1
    assert official_mean([None], count_unread=False) is None
    assert score([]).counting_unread is None


def test_categories_hold_both_turns():
    made = rows((81, 1, 9.0), (81, 2, 7.0), category="writing")
    made += rows((111, 1, 3.0), (111, 2, 1.0), category="math")
    found = score(made)
    assert {name: part.interval.value for name, part in found.categories.items()} == {
        "writing": 8.0,
        "math": 2.0,
    }


def test_equal_ratings_still_have_an_interval():
    interval = score(rows(*((q, 1, 10.0) for q in range(80)))).overall.interval
    assert interval.high == interval.value == 10.0
    assert 9.5 < interval.low < 10.0


def test_a_duplicate_is_an_error_that_names_it():
    made = rows((81, 1, 5.0), (81, 1, 6.0))
    with pytest.raises(DataError, match=r"question 81, turn 1, judge j: .* found 2"):
        check_unique(made)
    with pytest.raises(DataError):
        score(made)


def test_the_one_real_file_with_duplicates_is_refused(shared):
    import pandas as pd

    table = pd.read_parquet(shared / "transcripts" / "chat" / "mt_bench_judgments.parquet")
    part = table[table.model == "Meta-Llama-3-8B-Instruct-Normal"]
    made = [
        RatedAnswer(r.model, r.question_id, r.turn, r.judge, r.score) for r in part.itertuples()
    ]
    with pytest.raises(DataError, match="question 81, turn 1"):
        score(made)


def test_two_judges_are_not_averaged():
    made = [RatedAnswer("m", 81, 1, "gpt-4", 5.0), RatedAnswer("m", 82, 1, "other", 5.0)]
    with pytest.raises(DataError, match="m by gpt-4 and m by other"):
        score(made)


def test_runs_have_a_standard_deviation_in_words():
    assert str(over_runs([6.8, 6.9, 6.85])) == "6.85 ± 0.05 (standard deviation of 3 runs)"
    assert str(over_runs([6.8])) == "6.80 (1 run)"
    with pytest.raises(ValueError, match="at least one run"):
        over_runs([])
