"""Reading a finished run's questions back, and refusing what is not one."""

import json
import re
import shutil

import pytest

from mistral_eval.errors import OutputError
from mistral_eval.record.run_folder import RUN_FILE
from mistral_eval.record.run_record import read_record
from mistral_eval.record.run_scores import load_scores
from mistral_eval.record.sample_files import load_samples, read_rows, sample_files


@pytest.fixture
def copied(sample_runs, tmp_path):
    """A run's folder that a test may spoil."""
    return shutil.copytree(sample_runs["random"], tmp_path / "run")


def test_every_question_of_every_benchmark_is_read_with_the_verdict_that_the_table_counts(
    sample_runs,
):
    for folder in sample_runs.values():
        cells = load_scores(folder).cells
        found = load_samples([folder])[0].benchmarks
        assert found.keys() == cells.keys()
        for name, samples in found.items():
            right = sum(outcome.correct for outcome in samples.questions.values())
            assert (right, len(samples.questions)) == (cells[name].correct, cells[name].n)


def test_only_files_of_the_run_s_own_time_are_read(copied):
    file = next(copied.glob("samples_nq_*.jsonl"))
    (copied / "samples_nq_1999-01-01T00-00-00.000000.jsonl").write_text("not this one\n")
    assert sample_files(read_record(copied), copied)["nq"] == file


def test_mmlu_questions_carry_their_subject(sample_runs):
    questions = load_samples([sample_runs["oracle"]])[0].benchmarks["mmlu"].questions
    assert all(outcome.stratum for outcome in questions.values())


def test_runs_of_one_name_are_told_apart(sample_runs):
    names = [run.name for run in load_samples([sample_runs["random"], sample_runs["random"] / "."])]
    assert names == ["random", "random (2)"]


def test_a_samples_file_that_is_gone_is_named(copied):
    file = next(copied.glob("samples_nq_*.jsonl"))
    file.unlink()
    with pytest.raises(OutputError, match=f"{file.name} should hold the run's questions"):
        load_samples([copied])


def test_a_samples_file_that_was_cut_is_named_and_rescoring_writes_it_again(copied, cli):
    file = next(copied.glob("samples_nq_*.jsonl"))
    whole = file.read_bytes()
    file.write_bytes(b"".join(whole.splitlines(keepends=True)[:-3]))
    said = f"{file} should hold the run's 16 questions, a line each, and has 13 lines."
    for command in (("samples", copied), ("report", copied, "-o", copied / "report.html")):
        code, out, err = cli(*command)
        assert (code, out) == (1, "")
        assert said in err
    assert cli("rescore", copied)[0] == 0
    (again,) = (one for one in copied.glob("samples_nq_*.jsonl") if one != file)
    assert again.read_bytes() == whole
    assert cli("samples", copied)[0] == 0


def test_a_results_file_that_is_damaged_is_named(copied):
    file = next(copied.glob("results_*.json"))
    file.write_text('{"n-samples": 3}')
    with pytest.raises(OutputError, match=f"{file.name} cannot be read as lm-eval's results"):
        load_samples([copied])


def test_bytes_that_are_no_text_are_named_with_their_line(copied):
    file = next(copied.glob("samples_nq_*.jsonl"))
    content = file.read_bytes()
    file.write_bytes(content[:50] + b"\xff\xfe" + content[52:])
    with pytest.raises(OutputError, match="line 1: expected a question with its verdict"):
        list(read_rows(file))


@pytest.mark.parametrize("field", ["doc", "resps", "arguments", "target"])
def test_a_row_without_a_field_is_named_with_its_line(copied, field):
    file = next(copied.glob("samples_nq_*.jsonl"))
    file.write_text(file.read_text().replace(f'"{field}"', '"other"'))
    with pytest.raises(OutputError, match=f"line 1: .* found something else .{field}: expected"):
        list(read_rows(file))


@pytest.mark.parametrize("line", ["", "{}", "[1]", '{"doc_id": 1, "verdict": null}', '{"doc_id"'])
def test_a_damaged_line_is_named_with_its_number(copied, line):
    file = next(copied.glob("samples_nq_*.jsonl"))
    good = file.read_text().splitlines()[0]
    file.write_text(f"{good}\n{line}\n")
    with pytest.raises(OutputError, match="line 2: expected a question with its verdict"):
        list(read_rows(file))


def _in(*path):
    """Return how to put a value at a path of a row."""

    def put(row, value):
        *folders, last = path
        for step in folders:
            row = row[step]
        row[last] = value

    return put


@pytest.mark.parametrize(
    ("put", "value", "why"),
    [
        (_in("resps", 1), "x", r"resps\[1\]: expected a list, found 'x'"),
        (_in("resps"), {}, "resps: expected a list, found a mapping"),
        (_in("resps", 0), [], r"resps\[0\]: expected a list that is not empty, found an empty one"),
        (_in("resps", 0, 0), ["x", "True"], r"resps\[0\]\[0\]: expected a text or a log-l"),
        (_in("resps", 0, 0), ["-1.5"], r"resps\[0\]\[0\]: expected a text or a log-l"),
        (_in("resps"), [[["-1.5", "True"]]], "expected replies to 4 requests, found 1 reply"),
        (_in("resps", 0), ["a text"], "expected log-likelihoods of choices, and texts otherwise"),
        (_in("arguments"), "x", "arguments: expected a mapping, found 'x'"),
        (_in("arguments"), {}, "arguments: expected a mapping that is not empty, found an empty"),
        (
            _in("arguments", "gen_args_0", "arg_1"),
            7,
            "arg_1: expected a text or a mapping, found 7",
        ),
        (_in("resps", 0, 0), [10**400, "True"], r"resps\[0\]\[0\]: expected a text or a log-l"),
        (_in("arguments", "gen_args_0"), {"arg_0": "a"}, "arg_1: expected a value, found no"),
        (_in("doc"), 7, "doc: expected a mapping, found 7"),
        (_in("doc_id"), "x", "doc_id: expected a whole number, found 'x'"),
        (
            _in("verdict", "outcome"),
            "maybe",
            "verdict.outcome: unknown value 'maybe'. Known: correct, wrong,",
        ),
        (_in("verdict", "samples"), [1], r"verdict.samples\[0\]: expected a mapping, found 1"),
        (
            _in("verdict", "samples"),
            [{"outcome": "wrong", "answer": None, "reason": ""}] * 3,
            "expected replies to 4 requests, found 4 replies and 3 verdicts on them",
        ),
    ],
)
def test_a_row_of_another_shape_is_named_with_the_place(copied, cli, put, value, why):
    file = next(copied.glob("samples_mmlu_*.jsonl"))
    first, *others = file.read_text().splitlines()
    row = json.loads(first)
    put(row, value)
    file.write_text("\n".join([json.dumps(row), *others]) + "\n")
    for command in (("samples", copied), ("report", copied, "-o", copied / "report.html")):
        code, _, err = cli(*command)
        assert code == 1
        assert re.search(f"line 1: .*{why}", err), err
        assert f"rescore {copied}" in err


def test_a_run_without_its_results_file_s_name_is_refused(copied):
    run = json.loads((copied / RUN_FILE).read_text()) | {"results_file": None}
    (copied / RUN_FILE).write_text(json.dumps(run))
    with pytest.raises(OutputError, match="results_file: expected text, found nothing"):
        load_samples([copied])
