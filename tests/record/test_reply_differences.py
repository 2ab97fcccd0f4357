"""How far the replies of two runs are apart, from samples files that are changed by hand."""

import json
import shutil

import pytest

from mistral_eval.errors import OutputError
from mistral_eval.record.reply_differences import CLOSE, reply_differences


@pytest.fixture
def pair(sample_runs, tmp_path):
    """A run and a copy of it; `change(task, n, **fields)` changes row n of the copy."""
    folder = shutil.copytree(sample_runs["random"], tmp_path / "run")

    def change(task, n, edit):
        [file] = folder.glob(f"samples_{task}_*.jsonl")
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        edit(rows[n])
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    return sample_runs["random"], folder, change


def of(a, b, name):
    [found] = [one for one in reply_differences(a, b) if one.id == name]
    return found


def test_a_run_has_its_own_replies(sample_runs):
    for folder in sample_runs.values():
        for one in reply_differences(folder, folder):
            assert one.scores + one.greedy + one.sampled > 0, one
            assert (one.median or 0.0, one.largest or 0.0, one.beyond, one.flags) == (0, 0, 0, 0)
            assert (one.same_greedy, one.same_sampled) == (one.greedy, one.sampled)
            assert not one.unpaired


def test_samples_and_greedy_replies_are_counted_apart(sample_runs):
    found = {one.id: one for one in reply_differences(*[sample_runs["random"]] * 2)}
    assert found["gsm8k"].sampled % 8 == 0 < found["gsm8k"].sampled
    assert found["nq"].greedy > 0 == found["nq"].sampled
    assert found["winogrande"].scores > 0 == found["winogrande"].greedy


def test_log_likelihoods_and_flags_that_differ_are_counted(pair):
    a, b, change = pair

    def edit(row):
        row["resps"][0][0][0] = str(float(row["resps"][0][0][0]) - 0.5)
        row["resps"][1][0][0] = str(float(row["resps"][1][0][0]) + CLOSE / 2)
        row["resps"][1][0][1] = str(row["resps"][1][0][1] != "True")

    change("winogrande", 1, edit)
    found = of(a, b, "winogrande")
    assert found.largest == pytest.approx(0.5)
    assert (found.median, found.beyond, found.flags) == (0.0, 1, 1)


def test_a_text_that_differs_is_counted(pair):
    a, b, change = pair
    change("nq", 0, lambda row: row["resps"][0].__setitem__(0, "other"))
    change("gsm8k", 0, lambda row: row["resps"][0].__setitem__(3, "other"))
    nq, gsm8k = of(a, b, "nq"), of(a, b, "gsm8k")
    assert nq.greedy - nq.same_greedy == 1
    assert gsm8k.sampled - gsm8k.same_sampled == 1


def test_replies_to_other_prompts_are_left_out_and_counted(pair):
    a, b, change = pair
    change("nq", 0, lambda row: row["arguments"]["gen_args_0"].update(arg_0="another prompt"))
    nq = of(a, b, "nq")
    assert nq.unpaired == 1
    assert nq.greedy == of(a, a, "nq").greedy - 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda row: row.update(resps=[]),
        lambda row: row.update(resps=[[["x", "False"]]] * len(row["resps"])),
        lambda row: row.update(resps=[[[]]] * len(row["resps"])),
        lambda row: row.update(resps=5),
    ],
)
def test_a_row_without_its_replies_is_named(pair, spoil):
    a, b, change = pair
    change("winogrande", 2, spoil)
    for runs in ((a, b), (b, a)):
        with pytest.raises(OutputError, match="line 3: expected a question with its verdict"):
            reply_differences(*runs)


@pytest.mark.parametrize("field", ["resps", "arguments"])
def test_a_row_that_lacks_a_field_is_named(pair, field):
    a, b, change = pair
    change("winogrande", 2, lambda row: row.pop(field))
    with pytest.raises(OutputError, match="line 3: expected a question with its verdict"):
        reply_differences(a, b)


def test_what_is_infinitely_unlikely_in_both_runs_is_equal(pair, sample_runs):
    a, b, change = pair
    change("winogrande", 0, lambda row: row["resps"][0][0].__setitem__(0, "-inf"))
    assert of(b, b, "winogrande").largest == 0.0
    assert of(a, b, "winogrande").largest == float("inf")


def test_questions_of_one_run_alone_are_left_out(pair):
    a, b, _ = pair
    [file] = b.glob("samples_nq_*.jsonl")
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    [results] = b.glob("results_*.json")
    content = json.loads(results.read_text())
    content["n-samples"]["nq"]["effective"] -= 1
    results.write_text(json.dumps(content))
    assert of(a, b, "nq").greedy == of(a, a, "nq").greedy - 1
