"""A stock lm-eval task through our engines, its rows from a local file instead of the hub."""

import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mistral_eval.data.sources import SAMPLE
from mistral_eval.model.export import save_hf
from mistral_eval.model.tiny import make_tiny, tiny_tokenizer_file

pytestmark = pytest.mark.slow  # lm-eval reads thousands of task files before the first one


@pytest.fixture
def local_arc(monkeypatch, tmp_path):
    """`datasets.load_dataset` finds ARC-Easy's sample as local parquet; anything else fails."""
    keep_local(monkeypatch, tmp_path, "ai2_arc/ARC-Easy", ("allenai/ai2_arc", "ARC-Easy"))


def keep_local(monkeypatch, tmp_path, sample, asked):
    """Let `datasets.load_dataset` find a sample's rows under one name of the hub."""
    lines = (SAMPLE / sample / "test.jsonl").open(encoding="utf-8")
    file = tmp_path / "test.parquet"
    pq.write_table(pa.Table.from_pylist([json.loads(line) for line in lines]), file)
    load = datasets.load_dataset

    def from_file(path, name=None, **_):
        assert (path, name) == asked
        files = dict.fromkeys(("train", "validation", "test"), str(file))
        return load("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", from_file)


def test_a_stock_task_scores_as_the_benchmark_of_the_same_prompt(cli, local_arc, tmp_path):
    """ARC-Easy is asked alike by lm-eval and by the protocol; so both replies are the same."""
    options = ("-m", "tiny", "--data", "sample", "--quiet", "-o", tmp_path / "results")
    code, out, err = cli("run", "-t", "lm_eval:arc_easy,piqa", *options)
    assert (code, err.count("mistral-eval:")) == (0, 0), err
    assert "PIQA" in out
    (stock,) = (tmp_path / "results" / "tiny").iterdir()
    assert cli("run", "-t", "arc_easy", *options)[0] == 0
    (ours,) = set((tmp_path / "results" / "tiny").iterdir()) - {stock}
    theirs, mine = (_read(folder, "results_*.json") for folder in (stock, ours))
    for key in ("acc,none", "acc_norm,none", "sample_len"):
        assert theirs["results"]["arc_easy"][key] == mine["results"]["arc_easy"][key]
    assert theirs["results"].keys() == {"arc_easy", "piqa"}
    assert theirs["n-samples"]["arc_easy"] == {"original": 16, "effective": 16}
    assert _read(stock, "run.json")["stock"]["arc_easy"]["acc,none"] >= 0
    rows, others = (_read(folder, "samples_arc_easy_*.jsonl") for folder in (stock, ours))
    for row, other in zip(rows, others, strict=True):
        assert {key: row[key] for key in ("arguments", "filter", "target")} == {
            key: other[key] for key in ("arguments", "filter", "target")
        }
        assert [float(resps[0][0]) for resps in row["resps"]] == pytest.approx(
            [float(resps[0][0]) for resps in other["resps"]], abs=1e-4
        )


def test_a_stock_tasks_scores_are_told(cli, local_arc, tmp_path):
    """The paper's table has no column for them."""
    options = ("--engine", "random", "--data", "sample", "-o", tmp_path)
    code, _, err = cli("run", "-t", "lm_eval:arc_easy", *options)
    assert code == 0
    assert "lm_eval:arc_easy: acc,none 0." in err


def test_a_stock_name_that_lm_eval_does_not_know_is_refused_before_the_model_loads(
    cli, tmp_path, monkeypatch
):
    monkeypatch.setattr("mistral_eval.run.run.open_engine", pytest.fail)
    options = ("--data", "sample", "--quiet", "-o", tmp_path)
    code, out, err = cli("run", "-t", "lm_eval:arc_esay", "-m", "tiny", *options)
    assert (code, out) == (2, "")
    assert "lm-eval has no task 'arc_esay'" in err
    assert "arc_easy" in err


def test_a_stock_task_and_a_benchmark_of_one_name_are_two_runs(cli, local_arc, tmp_path):
    options = ("--engine", "random", "--data", "sample", "--quiet", "-o", tmp_path)
    code, out, err = cli("run", "-t", "lm_eval:arc_easy,arc_easy", *options)
    assert (code, out) == (2, "")
    assert "Run them one after the other" in err


def _read(folder, pattern):
    (file,) = folder.glob(pattern)
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return json.loads(text)


def test_a_stock_task_that_has_no_room_is_refused_before_anything_is_computed(
    cli, monkeypatch, tmp_path
):
    keep_local(monkeypatch, tmp_path, "gsm8k/main", ("openai/gsm8k", "main"))
    folder = save_hf(make_tiny(), tmp_path / "model", tokenizer_file=tiny_tokenizer_file())
    fields = json.loads((folder / "config.json").read_text())
    short = {**fields, "max_position_embeddings": 240}
    (folder / "config.json").write_text(json.dumps(short))
    options = ("-m", folder, "--data", "sample", "--quiet", "-o", tmp_path / "results")
    code, out, err = cli("run", "-t", "piqa,lm_eval:gsm8k", *options)
    assert (code, out) == (1, "")
    assert "lm_eval:gsm8k: 256 new tokens leave no room for a prompt in a context of 240" in err
    assert "Leave lm_eval:gsm8k out of --tasks" in err
    replies = (tmp_path / "results").rglob("replies/*.jsonl")
    assert [file for file in replies if file.stat().st_size] == []
