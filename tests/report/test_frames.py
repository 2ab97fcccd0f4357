"""Runs as data frames: tidy, complete, and harmless to look at."""

import json
import shutil
import subprocess
import sys

import pytest

import mistral_eval
from mistral_eval.errors import OutputError
from mistral_eval.record.run_folder import RUN_FILE
from mistral_eval.record.run_scores import load_scores


def test_scores_hold_every_number_of_run_json(sample_runs):
    frame = mistral_eval.load_run(sample_runs["random"]).scores
    cells = load_scores(sample_runs["random"]).cells
    main = frame[frame.cell].set_index("benchmark")
    assert main.value.to_dict() == {name: cell.value for name, cell in cells.items()}
    assert main.low.to_dict() == {name: cell.low for name, cell in cells.items()}
    other = frame[~frame.cell]
    assert {(row.benchmark, row.metric): row.value for row in other.itertuples()} == {
        (name, key): v for name, cell in cells.items() for key, v in cell.secondary.items()
    }


def test_samples_have_one_row_per_question_and_average_to_the_score(sample_runs):
    runs = mistral_eval.load_run(sample_runs["random"])
    means = 100 * runs.samples.groupby("benchmark").correct.mean()
    scores = runs.scores[runs.scores.cell].set_index("benchmark").value
    assert means.to_dict() == pytest.approx(scores.to_dict())
    gsm8k = runs.samples[runs.samples.benchmark == "gsm8k"]
    assert {len(replies) for replies in gsm8k.replies} == {8}
    mmlu = runs.samples[runs.samples.benchmark == "mmlu"]
    assert {len(logprobs) for logprobs in mmlu.logprobs} == {4}


def test_a_folder_of_runs_is_read_whole_each_under_its_own_name(sample_runs):
    folder = sample_runs["oracle"].parents[1]
    runs = mistral_eval.load_runs(folder)
    assert sorted(runs.names) == ["oracle", "oracle-wrong", "random"]
    assert set(runs.scores.run) == set(runs.names)


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(OutputError, match="should hold finished runs"):
        mistral_eval.load_runs(tmp_path)


def test_a_notebook_shows_the_paper_s_table_and_no_markup_of_a_run_s_name(sample_runs, tmp_path):
    folder = shutil.copytree(sample_runs["random"], tmp_path / "run")
    run = json.loads((folder / RUN_FILE).read_text())
    run["engine"] = "native"
    run["settings"]["model"] = "<img src=x onerror=alert(1)>"
    (folder / RUN_FILE).write_text(json.dumps(run))
    shown = mistral_eval.load_run(folder)._repr_html_()
    assert "Mistral 7B" in shown
    assert "&lt;img src=x" in shown
    assert "<img" not in shown


def test_import_mistral_eval_imports_no_pandas():
    program = "import sys, mistral_eval; print(sorted({'pandas', 'numpy'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'load_everything'"):
        _ = mistral_eval.load_everything
