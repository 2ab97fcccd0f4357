"""Settings: what the command line may ask, and which questions a limited run asks."""

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistral_eval.errors import UsageError
from mistral_eval.run.limits import choose
from mistral_eval.settings import (
    RunSettings,
    parse_limit,
    parse_pairs,
    parse_tasks,
)
from mistral_eval.suite.suites import paper_benchmarks


def test_benchmarks_come_in_the_papers_order_and_once():
    assert parse_tasks("gsm8k, mmlu,gsm8k,lm_eval:boolq") == ("mmlu", "gsm8k", "lm_eval:boolq")


def test_paper_is_all_twelve():
    assert parse_tasks("paper") == tuple(benchmark.id for benchmark in paper_benchmarks())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("mmlux", "Unknown task 'mmlux'. Did you mean mmlu?"),
        ("arc", "Did you mean"),
        ("lm_eval:", "Unknown task 'lm_eval:'"),
        ("lm_eval:mmlu,mmlu", "would have one name in the results"),
        (" , ", "--tasks is empty"),
    ],
)
def test_an_unknown_task_is_answered_with_the_nearest_names(text, sentence):
    with pytest.raises(UsageError) as caught:
        parse_tasks(text)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("text", "limit"),
    [(None, None), ("1", 1), ("100", 100), ("0.1", Fraction(1, 10)), ("1/4", Fraction(1, 4))],
)
def test_a_limit_is_a_count_or_a_fraction(text, limit):
    assert parse_limit(text) == limit


@pytest.mark.parametrize("text", ["0", "-3", "1e999999999", "1.5", "many", "", "0/0", "nan", "inf"])
def test_a_limit_that_means_nothing_is_refused(text):
    with pytest.raises(UsageError, match="--limit takes"):
        parse_limit(text)


def test_model_arguments_are_pairs():
    found = parse_pairs("rope_theta=10000, a=b=c", "--model-args")
    assert found == {"rope_theta": "10000", "a": "b=c"}
    with pytest.raises(UsageError, match="--model-args takes key=value"):
        parse_pairs("rope_theta", "--model-args")


def test_a_data_revision_is_part_of_a_runs_id_and_none_changes_nothing():
    plain = RunSettings(tasks=("mmlu", "nq"))
    pinned = [
        RunSettings(tasks=("mmlu", "nq"), data_revision={name: revision})
        for name in ("mmlu", "nq")
        for revision in ("v1", "v2")
    ]
    assert len({one.run_id({}) for one in (plain, *pinned)}) == 5


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"data_revision": {"gsm8k": "v1"}}, "names 'gsm8k', which is not run. Known: mmlu"),
        ({"data_revision": {"mlu": "v1"}}, "names 'mlu', which is not run. Did you mean mmlu?"),
        ({"data_revision": {"mmlu": "v1"}, "data": "sample"}, "the hub's rows, and --data is sam"),
    ],
)
def test_a_data_revision_that_would_mean_nothing_is_refused(change, sentence):
    with pytest.raises(UsageError) as caught:
        RunSettings(tasks=("mmlu",), **change)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "change", [{"engine": "nativ"}, {"dtype": "float8"}, {"batch_tokens": 0}, {"num_fewshot": -1}]
)
def test_settings_that_cannot_be_are_refused(change):
    with pytest.raises(UsageError):
        RunSettings(tasks=("mmlu",), **change)


def test_a_limit_over_subjects_takes_one_of_each_before_two_of_any():
    """100 questions over 57 subjects: each gives one or two."""
    strata = [f"s{i % 57}" for i in range(14042)]
    counts = Counter(strata[i] for i in choose(strata, 100))
    assert len(counts) == 57
    assert set(counts.values()) == {1, 2}


def test_a_limit_without_subjects_is_spread_evenly():
    assert choose([None] * 10, 5) == [0, 2, 4, 6, 8]


def test_a_fraction_is_rounded_up_to_questions():
    assert len(choose([None] * 11, Fraction(1, 10))) == 2


@given(
    strata=st.lists(st.sampled_from("abcde"), min_size=1, max_size=60),
    limit=st.one_of(st.none(), st.integers(1, 80), st.fractions(Fraction(1, 50), Fraction(49, 50))),
)
def test_a_choice_is_a_sorted_set_of_rows_as_even_as_the_subjects_allow(strata, limit):
    rows = choose(strata, limit)
    assert rows == sorted(set(rows))
    assert all(0 <= row < len(strata) for row in rows)
    if isinstance(limit, int):
        assert len(rows) == min(limit, len(strata))
    sizes, taken = Counter(strata), Counter(strata[row] for row in rows)
    unfilled = [taken[s] for s in sizes if taken[s] < sizes[s]]
    if unfilled:  # nobody who could give more has given two less than another
        assert max(taken.values()) - min(unfilled) <= 1


def test_equal_settings_have_one_run_and_any_difference_another():
    base = RunSettings(tasks=("mmlu", "gsm8k"), model="tiny")
    same = RunSettings(tasks=("mmlu", "gsm8k"), model="tiny", fresh=True, batch_tokens=99)
    assert base.run_id({}) == same.run_id({})
    others = [
        RunSettings(tasks=("mmlu",), model="tiny"),
        RunSettings(tasks=("mmlu", "gsm8k"), model="tiny", seed=1),
        RunSettings(tasks=("mmlu", "gsm8k"), model="tiny", limit=3),
        RunSettings(tasks=("mmlu", "gsm8k"), model="tiny", dtype="bfloat16"),
        RunSettings(tasks=("mmlu", "gsm8k"), model="tiny", data="sample"),
    ]
    ids = {settings.run_id({}) for settings in [base, *others]} | {base.run_id({"model": 1})}
    assert len(ids) == len(others) + 2
    assert base.run_id({}).startswith("mmlu+gsm8k-")


def test_a_models_folder_is_named_as_lm_eval_names_it(tmp_path):
    assert RunSettings(tasks=("mmlu",)).model_folder == "mistralai__Mistral-7B-v0.1"
    local = RunSettings(tasks=("mmlu",), model=str(tmp_path))
    assert local.model_folder == tmp_path.name
    assert RunSettings(tasks=("mmlu",), engine="oracle").model_folder == "oracle"
