"""The bundled sample: real questions, chosen the same way on every machine."""

from collections import Counter
from pathlib import Path

import make_sample
import pytest
from make_pins import has_whole_set

from mistral_eval.data import load_benchmark_data, make_source
from mistral_eval.data.sources import SAMPLE
from mistral_eval.data.task_file import data_spec
from mistral_eval.suite.registry import BY_ID


def test_mmlu_s_sample_has_eight_subjects_two_questions_each_and_their_shots():
    splits = load_benchmark_data(data_spec("mmlu"), make_source("sample"))
    asked = Counter(row["subject"] for row in splits["test"])
    assert list(asked.values()) == [2] * 8
    assert dict.fromkeys(asked, 5) == Counter(row["subject"] for row in splits["dev"])


def test_hellaswag_s_sample_shows_wikihow_s_markup():
    """The cleaning of texts is exercised by what ships."""
    rows = load_benchmark_data(data_spec("hellaswag"), make_source("sample"))["validation"]
    assert any("[header]" in row["ctx_a"] for row in rows)
    assert any(
        "[step]" in ending or "[title]" in ending for row in rows for ending in row["endings"]
    )


def test_the_sample_is_small():
    files = [file for file in SAMPLE.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 200_000


@pytest.mark.parametrize(
    "benchmark", [name for name in BY_ID if name != "hellaswag" and has_whole_set(name)]
)
def test_the_sample_s_rows_are_rows_of_the_test_set(shared, benchmark):
    spec = data_spec(benchmark)
    sample = load_benchmark_data(spec, make_source("sample"))
    whole = load_benchmark_data(spec, make_source(str(shared / "data")))
    for split in spec.splits:
        everything = list(whole[split])
        assert all(row in everything for row in sample[split])


def test_the_program_makes_the_sample_again(shared, tmp_path):
    make_sample.main(str(shared / "data"), tmp_path)
    made = {file.relative_to(tmp_path): file.read_bytes() for file in tmp_path.rglob("*.jsonl")}
    ours = {file.relative_to(SAMPLE): file.read_bytes() for file in SAMPLE.rglob("*.jsonl")}
    by_hand = {
        Path(data_spec(name).folders[0]) / f"{data_spec(name).splits[0]}.jsonl"
        for name in BY_ID
        if not has_whole_set(name)
    }
    assert {file: rows for file, rows in ours.items() if file not in by_hand} == made
    assert by_hand <= set(ours)


def test_places_are_spread_evenly():
    assert make_sample.spread(3, 3) == [0, 1, 2]
    assert make_sample.spread(3, 9) == [1, 4, 7]


def test_every_sample_file_is_named_in_the_licence_file():
    licences = (SAMPLE.parent / "LICENSE-DATA").read_text(encoding="utf-8")
    for folder in SAMPLE.iterdir():
        assert f"sample/{folder.name}" in licences
