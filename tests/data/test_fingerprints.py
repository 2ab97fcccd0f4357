"""Which test set is this? Names for the copies we know, an error for all others."""

import copy
import json

import make_pins
import pytest
from make_pins import has_whole_set

from mistral_eval.data import dataset_from, fingerprint, identify, load_benchmark_data, make_source
from mistral_eval.data.fingerprints import pins
from mistral_eval.data.task_file import data_spec, read_task
from mistral_eval.errors import DataError
from mistral_eval.suite.registry import BENCHMARKS, BY_ID

NAMES = {
    **dict.fromkeys(BY_ID, "hub"),
    "hellaswag": "hellaswag-reconstructed",
    "triviaqa": "triviaqa-dpr",
    "mbpp": "mbpp-release",
    "siqa": "siqa-export",
    "openbookqa": "openbookqa-release",
    "commonsense_qa": "commonsense_qa-release",
    "boolq": "boolq-export",
    "bbh": "bbh-authors",
    "bbh_cot": "bbh-authors",
    "agieval": "agieval-authors",
    "xstest": "xstest-release",
    "simple_safety_tests": "simple_safety_tests-release",
    "moderation": "xstest-release",
    "moderation_openai": "moderation_openai-release",
    "moderation_sst": "simple_safety_tests-release",
    "mt_bench": "mt_bench-release",
}


@pytest.mark.parametrize("benchmark", BY_ID)
def test_the_sample_is_recognised(benchmark):
    spec = data_spec(benchmark)
    splits = load_benchmark_data(spec, make_source("sample"))
    assert identify(spec, splits).name == "sample"
    assert len(splits[spec.splits[0]]) == 16


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda benchmark: benchmark.id)
def test_the_shared_test_sets_are_recognised_with_their_names_and_sizes(shared, benchmark):
    if not has_whole_set(benchmark.id):
        pytest.skip(f"the rows of {benchmark.id} could not be had")
    spec = data_spec(benchmark.id)
    splits = load_benchmark_data(spec, make_source(str(shared / "data")))
    found = identify(spec, splits)
    questions = list(filter(benchmark.is_asked, splits[spec.splits[0]]))
    assert (NAMES[benchmark.id], benchmark.n) == (found.name, len(questions))
    assert found.is_hub or "never compared with the hub" in found.footnote


@pytest.mark.parametrize("benchmark", BY_ID)
def test_one_changed_value_is_an_error_that_names_both(benchmark):
    """A question, a choice, a gold or a shot: whatever the prompt or the scorer reads counts."""
    spec = data_spec(benchmark)
    splits = load_benchmark_data(spec, make_source("sample"))
    real = fingerprint(spec, splits)
    for split in spec.splits:
        for column in spec.columns:
            tampered = {name: copy.deepcopy(list(rows)) for name, rows in splits.items()}
            name, _, below = column.partition(".")
            owner, key = (tampered[split][3], name)
            if below:
                owner, key = owner[name], below
            value = owner[key]
            if value is None or isinstance(value, bool):
                owner[key] = "" if value is None else not value
            else:
                owner[key] = value + 1 if isinstance(value, int) else value + type(value)("!")
            found = fingerprint(spec, tampered)
            assert real != found, (split, column)
            with pytest.raises(DataError) as raised:
                identify(spec, tampered)
            assert found[:12] in str(raised.value)
            assert all(pin.sha256[:12] in str(raised.value) for pin in pins(benchmark))
            allowed = identify(spec, tampered, unpinned=True)
            assert ("unpinned", found) == (allowed.name, allowed.sha256)
            assert found[:12] in allowed.footnote


def test_order_and_count_of_rows_matter():
    spec = data_spec("gsm8k")
    rows = list(load_benchmark_data(spec, make_source("sample"))["test"])
    hashes = {
        fingerprint(spec, {"test": some}) for some in (rows, rows[::-1], rows[:-1], rows + rows[:1])
    }
    assert len(hashes) == 4


def test_every_benchmark_has_pins_with_names_and_footnotes():
    for benchmark in BY_ID:
        known = pins(benchmark)
        assert "sample" in [pin.name for pin in known]
        assert len(known) == len({pin.sha256 for pin in known})
        assert all(len(pin.sha256) == 64 and pin.footnote.endswith(".") for pin in known)


def test_writing_pins_keeps_those_of_other_copies(tmp_path, monkeypatch):
    """One of the same name, or of the same rows under another name, is replaced."""
    file = tmp_path / "fingerprints.json"
    monkeypatch.setattr(make_pins, "PINS", file)
    before = {
        "piqa": [
            {"name": "hub", "sha256": "a" * 64, "footnote": "Another copy."},
            {"name": "mine", "sha256": "b" * 64, "footnote": "An older one of this name."},
            {"name": "renamed", "sha256": pins("piqa")[-1].sha256, "footnote": "These rows."},
            {"name": "sample", "sha256": "c" * 64, "footnote": "An older sample."},
        ],
        "nq": [{"name": "hub", "sha256": "d" * 64, "footnote": "Another benchmark."}],
    }
    file.write_text(json.dumps(before), encoding="utf-8")
    make_pins.write_pins("piqa", "sample", "mine", "A newer one.")
    after = json.loads(file.read_text(encoding="utf-8"))
    assert after["nq"] == before["nq"]
    assert [pin["name"] for pin in after["piqa"]] == ["hub", "mine", "sample"]
    assert after["piqa"][0] == before["piqa"][0]
    assert {pin["sha256"] for pin in after["piqa"][1:]} == {pins("piqa")[-1].sha256}


def test_a_benchmark_without_a_hub_pin_says_so_when_it_refuses():
    spec = data_spec("hellaswag")
    rows = list(load_benchmark_data(spec, make_source("sample"))["validation"])[:-1]
    with pytest.raises(DataError, match=r"hub's own rows were not available.*--data-unpinned"):
        identify(spec, {"validation": rows})


def test_lm_eval_s_call_is_told_what_it_loaded():
    """`dataset_from` takes metadata and dataset_kwargs together, as lm-eval passes them."""
    task = read_task("nq")
    seen = []
    load = dataset_from(make_source("sample"), noticed=lambda *found: seen.append(found))
    splits = load(**task["metadata"], config_source="x", **task["dataset_kwargs"])
    assert list(splits) == ["validation"]
    assert [(name, identity.name) for name, identity in seen] == [("nq", "sample")]


def test_what_the_hub_gives_is_used_where_nobody_has_pinned_the_hubs_rows():
    """HellaSwag has no hub pin: its hub rows are used with a footnote. NQ has one: others fail."""
    rows = {
        name: {
            "validation": list(
                load_benchmark_data(data_spec(name), make_source("sample"))["validation"]
            )[1:]
        }
        for name in ("hellaswag", "nq")
    }
    found = identify(data_spec("hellaswag"), rows["hellaswag"], is_from_hub=True)
    assert found.name == "hub-unchecked"
    assert "never compared" in found.footnote
    with pytest.raises(DataError, match="should have a pinned fingerprint"):
        identify(data_spec("nq"), rows["nq"], is_from_hub=True)
