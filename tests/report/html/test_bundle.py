"""What is embedded in a report: each question once, each block of shots once, nothing lost."""

import base64
import json
import zlib

from hypothesis import given
from hypothesis import strategies as st

from mistral_eval.record.run_record import read_record
from mistral_eval.record.sample_files import load_samples, read_rows, sample_files
from mistral_eval.report.html.bundle import Blocks, bundle, packed


def unpacked(data):
    return json.loads(zlib.decompress(base64.b64decode(data)))


def files(sample_runs, task, names=("oracle", "random")):
    return [sample_files(read_record(sample_runs[n]), sample_runs[n])[task] for n in names]


def questions(found):
    return [question for chunk in found.chunks for question in unpacked(chunk)]


def test_the_shots_and_the_rest_are_the_prompt_again(sample_runs):
    for task in ("mmlu", "winogrande", "nq", "gsm8k"):
        (file,) = files(sample_runs, task, ["random"])
        found = bundle(task, [file])
        blocks = unpacked(found.blocks)
        for row, (_, _, shots, rest, *_) in zip(read_rows(file), questions(found), strict=True):
            prompt = (blocks[shots] if shots >= 0 else "") + rest
            assert prompt == row["arguments"]["gen_args_0"]["arg_0"]


def test_the_shots_are_kept_once_and_hold_no_question(sample_runs):
    for task, many in (("nq", 1), ("gsm8k", 1), ("winogrande", 0)):
        (file,) = files(sample_runs, task, ["random"])
        found = bundle(task, [file])
        assert len(unpacked(found.blocks)) == many
        for row, (_, _, _, rest, *_) in zip(read_rows(file), questions(found), strict=True):
            assert row["doc"].get("question", "") in rest


def test_runs_share_a_question_and_each_keeps_its_verdict(sample_runs):
    found = bundle("gsm8k", files(sample_runs, "gsm8k"))
    for name, verdicts, outcomes in zip(
        ("oracle", "random"), found.index["verdicts"], found.outcomes, strict=True
    ):
        read = load_samples([sample_runs[name]])[0].benchmarks["gsm8k"].questions
        assert outcomes == read
        assert verdicts.count("c") == sum(one.correct for one in read.values())
        assert len(verdicts) == found.index["n"] == len(questions(found))


def test_a_run_without_the_benchmark_has_no_verdicts(sample_runs):
    found = bundle("nq", [None, *files(sample_runs, "nq", ["random"])])
    assert set(found.index["verdicts"][0]) == {"-"}
    assert found.outcomes[0] is None
    assert [question[5][0] for question in questions(found)] == [None] * found.index["n"]


def test_runs_that_asked_differently_have_an_entry_each(sample_runs, tmp_path):
    (file,) = files(sample_runs, "nq", ["random"])
    other = tmp_path / "samples.jsonl"
    rows = [row | {"prompt_hash": "another"} for row in read_rows(file)]
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = bundle("nq", [file, other])
    assert found.index["n"] == 2 * len(rows)
    ids = [question[0] for question in questions(found)]
    assert ids[len(rows) :] == [f"{name}~2" for name in ids[: len(rows)]]


def test_chunks_begin_where_the_index_says(sample_runs, monkeypatch):
    monkeypatch.setattr("mistral_eval.report.html.bundle.CHUNK_CHARACTERS", 2000)
    found = bundle("gsm8k", files(sample_runs, "gsm8k"))
    sizes = [len(unpacked(chunk)) for chunk in found.chunks]
    assert len(sizes) > 2
    assert found.index["starts"] == [sum(sizes[:i]) for i in range(len(sizes))]
    assert sum(sizes) == found.index["n"]


@given(st.recursive(st.none() | st.text(), st.lists, max_leaves=5))
def test_any_text_survives_packing_and_cannot_end_its_element(value):
    data = packed(value)
    assert unpacked(data) == value
    assert "<" not in data


@given(st.text(), st.text(min_size=1), st.text())
def test_splitting_a_prompt_loses_nothing(before, words, after):
    blocks = Blocks()
    place, rest = blocks.split(before + words + after, words)
    assert (blocks.texts[place] if place >= 0 else "") + rest == before + words + after
