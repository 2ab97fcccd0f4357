"""Where rows come from, and what is said when they do not come."""

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mistral_eval.data import dataset_from, load_benchmark_data, make_source
from mistral_eval.data.sources import SAMPLE, Source
from mistral_eval.data.task_file import data_spec
from mistral_eval.errors import DataError, HubError
from mistral_eval.suite.registry import BY_ID

PIQA = {"goal": "open a jar", "sol1": "twist", "sol2": "shout", "label": 0}
ARC = {
    "id": "q1",
    "question": "What melts?",
    "choices": {"text": ["ice", "fire"], "label": ["A", "B"]},
    "answerKey": "A",
}


def write(folder: Path, file: str, rows: list[dict]) -> Source:
    """A data folder with one file, parquet or jsonl."""
    target = folder / file
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), target)
    else:
        target.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return make_source(str(folder))


def error_of(benchmark: str, source: Source) -> str:
    """What is said when a run loads the rows."""
    load = dataset_from(source, unpinned=True, check=BY_ID[benchmark].check_golds)
    with pytest.raises(DataError) as raised:
        load(**data_spec(benchmark).model_dump())
    return str(raised.value)


def test_hub_and_sample_are_names_and_all_else_is_a_folder(tmp_path):
    (tmp_path / "x").touch()
    assert make_source("hub") == Source("hub")
    assert make_source("sample") == Source("sample", SAMPLE)
    assert make_source(str(tmp_path)) == Source("folder", tmp_path)
    assert [str(make_source(name)) for name in ("hub", "sample")] == ["hub", "sample"]


def test_a_folder_that_is_missing_empty_or_a_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        make_source(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="is empty"):
        make_source(str(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file"):
        make_source(str(tmp_path / "file"))


def test_parquet_and_jsonl_give_the_same_rows(tmp_path):
    """The column format does not matter, nor do extra columns and fields."""
    rows = [{**PIQA, "extra": 1}, {**PIQA, "goal": "line\u2028break", "extra": 2}]
    spec = data_spec("piqa")
    loaded = [
        list(load_benchmark_data(spec, write(tmp_path / kind, file, rows))["validation"])
        for kind, file in (
            ("p", "piqa/plain_text/validation.parquet"),
            ("j", "piqa/plain_text/validation.jsonl"),
        )
    ]
    expected = [{k: v for k, v in row.items() if k != "extra"} for row in rows]
    assert expected == loaded[0] == loaded[1]


def test_a_json_line_may_hold_a_line_separator_as_it_is(tmp_path):
    source = write(tmp_path, "piqa/plain_text/validation.jsonl", [PIQA])
    file = tmp_path / "piqa/plain_text/validation.jsonl"
    row = {**PIQA, "goal": "a\u2028b"}
    file.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [row] == list(load_benchmark_data(data_spec("piqa"), source)["validation"])


def test_nested_columns_are_reduced_to_the_fields_that_count(tmp_path):
    row = {"question": "Q?", "question_id": "1", "answer": {"aliases": ["a"], "value": "a"}}
    source = write(tmp_path, "trivia_qa/unfiltered.nocontext/validation.parquet", [row])
    rows = load_benchmark_data(data_spec("triviaqa"), source)["validation"]
    assert list(rows) == [{"question": "Q?", "answer": {"aliases": ["a"]}}]
    assert rows.column_names == ["question", "answer"]


def test_a_missing_benchmark_is_named_with_the_files_that_were_looked_for(tmp_path):
    source = write(tmp_path, "piqa/plain_text/validation.parquet", [PIQA])
    message = error_of("hellaswag", source)
    for folder in ("hellaswag/default", "hellaswag/reconstructed"):
        assert f"{folder}/validation.parquet (or .jsonl)" in message


def test_missing_columns_are_named(tmp_path):
    rows = [{"goal": "g", "first": "a", "sol2": "b", "label": 0}]
    for suffix in ("parquet", "jsonl"):
        source = write(tmp_path / suffix, f"piqa/plain_text/validation.{suffix}", rows)
        message = error_of("piqa", source)
        assert "sol1 is missing; found goal, first, sol2, label" in message


def test_a_missing_field_of_a_column_is_named(tmp_path):
    rows = [{"question": "Q?", "answer": {"value": "a"}}]
    source = write(tmp_path, "trivia_qa/unfiltered.nocontext/validation.parquet", rows)
    assert "answer.aliases is missing" in error_of("triviaqa", source)


def test_damaged_files_are_named(tmp_path):
    source = write(tmp_path, "piqa/plain_text/validation.parquet", [PIQA])
    (tmp_path / "piqa/plain_text/validation.parquet").write_bytes(b"PAR1 not really")
    assert "could not be read" in error_of("piqa", source)
    (tmp_path / "piqa/plain_text/validation.parquet").unlink()
    write(tmp_path, "piqa/plain_text/validation.jsonl", [PIQA])
    with (tmp_path / "piqa/plain_text/validation.jsonl").open("a", encoding="utf-8") as file:
        file.write("{broken\n")
    assert "line 2 is not" in error_of("piqa", source)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label": 2}, "its gold is outside them"),
        ({"label": "0"}, "an integer in column label, but holds '0'"),
        ({"label": True}, "an integer in column label, but holds True"),
        ({"sol2": None}, "text in column sol2, but holds None"),
    ],
)
def test_a_row_that_cannot_be_scored_is_refused(tmp_path, change, words):
    source = write(tmp_path, "piqa/plain_text/validation.jsonl", [PIQA, {**PIQA, **change}])
    message = error_of("piqa", source)
    assert words in message
    assert "row 1" in message


def test_no_rows_repeated_ids_and_unknown_golds_are_refused(tmp_path):
    schema = pa.Table.from_pylist([PIQA]).schema
    empty = tmp_path / "empty" / "piqa/plain_text/validation.parquet"
    empty.parent.mkdir(parents=True)
    pq.write_table(schema.empty_table(), empty)
    assert "it is empty" in error_of("piqa", make_source(str(tmp_path / "empty")))
    twice = write(tmp_path / "twice", "ai2_arc/ARC-Easy/test.parquet", [ARC, ARC])
    assert "'q1' is there 2 times" in error_of("arc_easy", twice)
    wrong = write(tmp_path / "gold", "ai2_arc/ARC-Easy/test.parquet", [{**ARC, "answerKey": "E"}])
    assert "its gold is outside them" in error_of("arc_easy", wrong)


def test_texts_without_a_gold_answer_are_refused(tmp_path):
    source = write(tmp_path, "gsm8k/main/test.jsonl", [{"question": "Q", "answer": "It is 4."}])
    assert "none can be read from it" in error_of("gsm8k", source)


def test_a_subject_without_its_five_shots_is_refused(tmp_path):
    row = {"question": "Q", "subject": "anatomy", "choices": list("abcd"), "answer": 0}
    write(tmp_path, "mmlu/all/test.parquet", [row])
    source = write(tmp_path, "mmlu/all/dev.parquet", [row] * 4)
    assert "5 rows of subject 'anatomy' in split dev, but has 4" in error_of("mmlu", source)


def test_configurations_are_read_one_after_the_other():
    """MATH's seven files become one test set."""
    rows = load_benchmark_data(data_spec("math"), make_source("sample"))["test"]
    assert len(rows) == 16
    assert [row["type"] for row in rows[:5]] == ["Algebra"] * 4 + ["Counting & Probability"]


@pytest.mark.parametrize("data", ["sample", "folder"])
def test_a_row_knows_its_configuration(data, tmp_path):
    """BBH's files have no column that says which of the 27 tasks a row is from."""
    spec = data_spec("bbh")
    for config in spec.configs if data == "folder" else ():
        write(tmp_path, f"bbh/{config}/test.jsonl", [{"input": config, "target": "T"}])
    rows = load_benchmark_data(spec, make_source(str(tmp_path) if data == "folder" else data))
    assert {row["task"] for row in rows["test"]} <= set(spec.configs)
    assert len({row["task"] for row in rows["test"]}) == (27 if data == "folder" else 16)
    assert data == "sample" or all(row["task"] == row["input"] for row in rows["test"])


def test_a_folder_needs_every_configuration_although_the_sample_does_not(tmp_path):
    source = write(tmp_path, "bbh/navigate/test.jsonl", [{"input": "Q", "target": "T"}])
    assert "should hold bbh/boolean_expressions/test.parquet (or .jsonl)" in error_of("bbh", source)


def test_shots_can_stand_in_the_yaml_file():
    """They are rows like others: checked, and the first of their subject are shown."""
    spec = data_spec("bbh")
    shots = load_benchmark_data(spec, make_source("sample"))["shots"]
    assert Counter(row["task"] for row in shots) == dict.fromkeys(spec.configs, 3)


def test_splits_find_each_other():
    splits = load_benchmark_data(data_spec("mmlu"), make_source("sample"))
    assert splits["test"].splits["dev"] is splits["dev"]


def test_an_unreachable_hub_is_one_sentence(monkeypatch):
    """The library's connection error becomes a HubError that names what else can be done."""
    import datasets

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise ConnectionError("Couldn't reach 'baber/piqa' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(HubError, match=r"baber/piqa, split validation, could not.*--data sample"):
        load_benchmark_data(data_spec("piqa"), make_source("hub"))


def test_a_hub_that_refuses_is_one_sentence(monkeypatch):
    """A gated or missing data set says how to log in."""
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise DatasetNotFoundError("Dataset 'baber/piqa' is a gated dataset on the Hub.")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(HubError, match=r"missing or gated: .* `hf auth login`"):
        load_benchmark_data(data_spec("piqa"), make_source("hub"))


def test_other_columns_on_the_hub_are_named(monkeypatch):
    import datasets

    table = datasets.Dataset.from_list([{"goal": "g", "label": 0}])
    monkeypatch.setattr(datasets, "load_dataset", lambda *_args, **_kwargs: table)
    with pytest.raises(DataError, match="sol1, sol2 is missing; found goal, label"):
        load_benchmark_data(data_spec("piqa"), make_source("hub"))


def test_the_hub_s_rows_are_read_through_datasets(monkeypatch):
    """A `datasets.Dataset` gives the same rows as a folder, struct columns included."""
    import datasets

    asked = []

    def give(path: str, name: str, **kwargs: object) -> datasets.Dataset:
        asked.append((path, name, kwargs))
        return datasets.Dataset.from_list([{**ARC, "more": 1}])

    monkeypatch.setattr(datasets, "load_dataset", give)
    rows = load_benchmark_data(data_spec("arc_easy"), make_source("hub"))["test"]
    assert list(rows) == [ARC]
    assert asked == [("allenai/ai2_arc", "ARC-Easy", {"split": "test", "revision": "main"})]


HUB_LAYOUTS = [
    ("arc_easy", "allenai/ai2_arc/ARC-Easy/test-00000-of-00001.parquet"),
    ("arc_easy", "ai2_arc/ARC-Easy/test-00000-of-00001.parquet"),
    ("arc_easy", "allenai/ai2_arc/ARC-Easy/test.jsonl"),
    ("piqa", "baber/piqa/data/validation-00000-of-00001.parquet"),
    ("piqa", "baber/piqa/validation-00000-of-00001.parquet"),
]


@pytest.mark.parametrize(("benchmark", "file"), HUB_LAYOUTS)
def test_rows_are_read_as_they_lie_on_the_hub(tmp_path, benchmark, file):
    spec = data_spec(benchmark)
    row = ARC if benchmark == "arc_easy" else PIQA
    rows = load_benchmark_data(spec, write(tmp_path, file, [row]))
    assert len(rows[spec.splits[0]]) == 1


def test_shards_are_read_in_their_order_and_a_missing_one_is_named(tmp_path):
    for shard in (1, 0, 2):
        file = f"allenai/ai2_arc/ARC-Easy/test-0000{shard}-of-00003.parquet"
        source = write(tmp_path, file, [{**ARC, "id": f"q{shard}"}])
    rows = load_benchmark_data(data_spec("arc_easy"), source)["test"]
    assert [row["id"] for row in rows] == ["q0", "q1", "q2"]
    (tmp_path / "allenai/ai2_arc/ARC-Easy/test-00001-of-00003.parquet").unlink()
    assert "test-00001-of-00003 is missing" in error_of("arc_easy", source)


def test_an_error_about_missing_rows_names_what_lies_there(tmp_path):
    source = write(tmp_path, "somewhere/else.parquet", [ARC])
    said = error_of("arc_easy", source)
    assert "ai2_arc/ARC-Easy/test.parquet" in said
    assert "allenai/ai2_arc/ARC-Easy/test-00000-of-00001.parquet" in said
    assert "it holds somewhere/else.parquet." in said


def test_rows_that_git_lfs_did_not_fetch_are_told_with_the_command(tmp_path):
    source = write(tmp_path, "ai2_arc/ARC-Easy/test.jsonl", [ARC])
    for name in ("test.jsonl", "test.parquet"):
        file = tmp_path / "ai2_arc/ARC-Easy" / name
        file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n")
        assert "is a Git LFS pointer: run `git lfs pull` in" in error_of("arc_easy", source)
