"""MT-Bench's means: the published ones, their intervals over questions, and runs in words."""

import csv
import itertools
import statistics

import pytest

from mistral_eval.answers.mt_bench.means import (
    JudgedText,
    RatedAnswer,
    as_published,
    by_both_rules,
    check_unique,
    official_mean,
    over_runs,
    score,
)
from mistral_eval.errors import DataError
from mistral_eval.stats import clustered_mean


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


def test_what_the_documentation_says_of_chance_over_80_questions(shared):
    """Half widths of single means and of paired differences, from the 17 official sets."""
    import pandas as pd

    table = pd.read_parquet(shared / "transcripts" / "chat" / "mt_bench_lmsys_scores.parquet")
    table = table[~table.stored_minus_one]
    errors = []
    for _, part in table.groupby("model"):
        found = clustered_mean(part.score.tolist(), part.question_id.tolist(), bounds=(-9, 19))
        if 5 < found.value < 7.2:
            errors.append((found.high - found.value) / 1.990)  # Student's t, 79 degrees of freedom
    assert len(errors) == 10
    assert (round(min(errors), 2), round(max(errors), 2)) == (0.32, 0.38)
    by_question = table.pivot_table("score", "question_id", "model")
    paired = [
        (by_question[a] - by_question[b]).std() / 80**0.5
        for a, b in itertools.combinations(by_question.columns, 2)
    ]
    assert statistics.median(paired) == pytest.approx(0.27, abs=0.005)
    larger = by_question["Llama-2-13b-chat"] - by_question["Llama-2-7b-chat"]
    assert larger.mean() == pytest.approx(0.38, abs=0.005)
    assert larger.std() / 80**0.5 == pytest.approx(0.25, abs=0.005)


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


def test_both_rules_give_their_means_and_where_they_differ():
    texts = ("Rating: [[7]]", "Turn one: [[9]].\nRating: [[5]]", "Rating: [[70]]", "$ERROR$")
    found = by_both_rules([JudgedText("m", 81 + i, 1, "j", text) for i, text in enumerate(texts)])
    assert found.ours.overall.interval.value == 6.0
    assert found.ours.overall.unread == 2
    assert found.fastchat.overall.interval.value == pytest.approx(86 / 3)
    assert found.fastchat.overall.unread == 1
    assert [one.index for one in found.differences] == [1, 2]


def test_the_rules_agree_on_every_stored_set(shared):
    import pandas as pd

    table = pd.read_parquet(shared / "transcripts" / "chat" / "mt_bench_judgments.parquet")
    for model, part in table.groupby("model"):
        if part.duplicated(["question_id", "turn"]).any():
            continue
        texts = [
            JudgedText(model, r.question_id, r.turn, r.judge, r.judgment) for r in part.itertuples()
        ]
        found = by_both_rules(texts)
        assert found.ours == found.fastchat
        assert found.differences == ()
