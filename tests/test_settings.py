"""Settings: what the command line may ask, and which questions a limited run asks."""

import json
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.utils import handle_arg_string

from mistral_eval.errors import UsageError
from mistral_eval.run.questions import choose
from mistral_eval.settings import OWN_OPTIONS, RunSettings, parse_limit, parse_pairs, parse_value
from mistral_eval.suite.registry import BY_ID, SUITES, check_shots, parse_tasks, suite_of


def test_benchmarks_come_in_the_papers_order_and_once():
    assert parse_tasks("gsm8k, mmlu,gsm8k,lm_eval:boolq") == ("mmlu", "gsm8k", "lm_eval:boolq")


def test_a_suite_is_its_benchmarks():
    assert parse_tasks("paper") == SUITES["paper"]
    assert suite_of(RunSettings(tasks=SUITES["paper"])) == "paper"
    assert suite_of(RunSettings(tasks=SUITES["paper"][1:])) is None
    first, *rest = SUITES["paper"]
    assert suite_of(RunSettings(tasks=tuple(rest), left_out=(first,))) == "paper"


def test_more_solved_examples_than_the_protocol_has_are_refused():
    name, shots = "gsm8k", BY_ID["gsm8k"].shots
    check_shots(RunSettings(tasks=(name,), num_fewshot=shots))
    with pytest.raises(UsageError, match=f"the protocol has {shots} solved examples for {name}"):
        check_shots(RunSettings(tasks=(name,), num_fewshot=shots + 1))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("mmlux", "Unknown task 'mmlux'. Did you mean mmlu?"),
        ("arc", "Did you mean"),
        ("lm_eval:", "Unknown task 'lm_eval:'"),
        ("lm_eval:mmlu,mmlu", "would have the same name in the results"),
        (" , ", "--tasks is empty"),
    ],
)
def test_an_unknown_task_is_answered_with_the_nearest_names(text, sentence):
    with pytest.raises(UsageError) as caught:
        parse_tasks(text)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("text", "limit"),
    [(None, None), ("1", 1), (100, 100), (0.1, Fraction(1, 10)), ("1/4", Fraction(1, 4))],
)
def test_a_limit_is_a_count_or_a_fraction(text, limit):
    assert parse_limit(text) == limit
    assert RunSettings(tasks=("mmlu",), limit=text).limit == limit


@pytest.mark.parametrize(
    "given", ["0", "-3", "1e999999999", "1.5", "many", "", "0/0", "nan", "inf", True, [3]]
)
def test_a_limit_that_means_nothing_is_refused(given):
    with pytest.raises(UsageError, match=r"^--limit: expected a whole number of questions from 1"):
        RunSettings(tasks=("mmlu",), limit=given)


def test_model_arguments_are_pairs():
    assert parse_pairs("rope_theta=10000, a=b=c") == {"rope_theta": "10000", "a": "b=c"}
    for wrong in ("rope_theta", "=3", ["a=b"]):
        with pytest.raises(UsageError, match="--model-args: expected key=value pairs"):
            RunSettings(tasks=("mmlu",), model_args=wrong)


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
    ("change", "sentence"),
    [
        ({"engine": "nativ"}, "--engine: unknown value 'nativ'. Did you mean native?"),
        ({"dtype": "int8"}, "--dtype: unknown value 'int8'. Known: auto, float32, bfloat16, flo"),
        ({"batch_tokens": 0}, "--batch-tokens: expected 1 or more, found 0."),
        ({"num_fewshot": -1}, "--num-fewshot: expected 0 or more, found -1."),
        ({"seed": True}, "--seed: expected a whole number, found True."),
        ({"fresh": "yes"}, "--fresh: expected true or false, found 'yes'."),
        ({"model": ["tiny"]}, "--model: expected text, found a list."),
        ({"tasks": "mmlu"}, "--tasks: expected a list, found 'mmlu'."),
        ({"sead": 1}, "--sead: unknown field."),
        ({"output_path": "s3:/b/runs"}, "--output-path: expected a folder or a URL like s3://"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, sentence):
    with pytest.raises(UsageError) as caught:
        RunSettings(**{"tasks": ("mmlu",), **change})
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize("limit", [None, 3, Fraction(1, 7)])
def test_settings_come_back_from_their_json(limit):
    settings = RunSettings(
        tasks=("mmlu", "lm_eval:boolq"), limit=limit, model_args={"rope_theta": "1"}, seed=-1
    )
    assert RunSettings(**json.loads(json.dumps(settings.as_json()))) == settings


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
    assert base.run_id({}, "short").startswith("short-")


def test_a_models_folder_is_named_as_lm_eval_names_it(tmp_path):
    assert RunSettings(tasks=("mmlu",)).model_folder == "mistralai__Mistral-7B-v0.1"
    local = RunSettings(tasks=("mmlu",), model=str(tmp_path))
    assert local.model_folder == tmp_path.name
    assert RunSettings(tasks=("mmlu",), engine="oracle").model_folder == "oracle"


VALUES = [
    *("true", "False", " TRUE ", "none", "None", "null", "1", "-1", "+2", "+-3", "1.5", "1e3", "²"),
    *("inf", "nan", "", "yes", "'1'", '"true"', "'", "a=b", "path/to", "0x10", "1_000"),
]


@given(st.sampled_from(VALUES) | st.text(alphabet="0123456789+-.e'\"truefalsn \t", max_size=6))
def test_model_arguments_have_the_values_that_lm_eval_gives_them(text):
    ours, theirs = parse_value(text), handle_arg_string(text)
    assert (type(ours), repr(ours)) == (type(theirs), repr(theirs))


@pytest.mark.parametrize("option", sorted(OWN_OPTIONS))
def test_a_model_argument_that_an_option_sets_is_refused_with_the_options_name(option):
    with pytest.raises(UsageError, match=f"sets {option}, .*Give {OWN_OPTIONS[option]} instead"):
        RunSettings(tasks=("mmlu",), model_args=f"{option}=1")


def test_a_model_argument_given_twice_is_refused():
    with pytest.raises(UsageError, match="expected each key once, found 'a' twice"):
        RunSettings(tasks=("mmlu",), model_args="a=1,b=2,a=1")


def test_a_mapping_of_model_arguments_means_what_its_text_means():
    """As in a settings file: the same run, and run.json gives the same values back."""
    given = {"a": True, "b": None, "c": 1, "d": 0.5, "e": "false"}
    mapping = RunSettings(tasks=("mmlu",), model_args=given)
    text = RunSettings(tasks=("mmlu",), model_args="a=True,b=None,c=1,d=0.5,e=false")
    assert mapping.as_json() == text.as_json() == RunSettings(**text.as_json()).as_json()
    assert [parse_value(one) for one in text.model_args.values()] == [True, None, 1, 0.5, False]


@pytest.mark.parametrize("spelling", [".", "../model", "./", "../model/"])
def test_a_local_model_has_one_name_however_it_is_spelt(tmp_path, monkeypatch, spelling):
    folder = tmp_path / "model"
    folder.mkdir()
    monkeypatch.chdir(folder)
    found = RunSettings(tasks=("mmlu",), model=spelling)
    whole = RunSettings(tasks=("mmlu",), model=str(folder))
    assert found.model == str(folder)
    assert (found.model_folder, found.run_id({})) == ("model", whole.run_id({}))
