"""A member of a suite whose rows a data folder lacks is left out, and every output says so."""

import json
import shutil

import pytest

from mistral_eval.data.sources import SAMPLE
from mistral_eval.errors import DataError
from mistral_eval.run.absent import lacking, leave_out_absent
from mistral_eval.settings import RunSettings
from mistral_eval.suite.registry import BY_ID, SUITES, asked_as, only_in_suites, parse_tasks

HERE = ("piqa", "winogrande", "boolq")
NO_QUAC = (
    "QuAC is left out: the data folder has no quac_helm/default/validation.parquet (or .jsonl) or"
)


@pytest.fixture
def data(tmp_path):
    """A folder with the rows of three benchmarks."""
    folder = tmp_path / "data"
    for name in HERE:
        shutil.copytree(SAMPLE / name, folder / name)
    return folder


@pytest.fixture
def run(cli, data, tmp_path):
    """Run the oracle on the folder: (arguments) to (run.json, its folder, stdout, stderr)."""

    def call(*more: object):
        where = ("--engine", "oracle", "--data", data, "-o", tmp_path / "results")
        code, out, err = cli("run", *where, *more)
        assert code == 0, err
        (folder, *_) = sorted(
            (tmp_path / "results").glob("*/*/run.json"), key=lambda file: -file.stat().st_mtime_ns
        )
        return json.loads(folder.read_text()), folder.parent, out, err

    return call


def test_a_suite_runs_without_its_absent_members(run):
    record, folder, out, err = run("-t", "figure4")
    assert set(record["scores"]) == set(HERE)
    assert set(record["settings"]["left_out"]) == set(SUITES["figure4"]) - set(HERE)
    assert folder.name.startswith("figure4-")
    for name in record["settings"]["left_out"]:
        assert err.count(f"{lacking(name)}.\n") == 1
    assert NO_QUAC in err
    assert NO_QUAC in " ".join(out.split())


def test_the_table_and_the_figure_of_a_finished_run_say_what_is_missing(run, cli):
    _, folder, *_ = run("-t", "figure4")
    code, out, _ = cli("table", folder, "--format", "md")
    assert code == 0
    assert NO_QUAC in out.replace("\\_", "_")
    code, out, _ = cli("table", folder, "--layout", "figure4", "--format", "md")
    assert code == 0
    assert "Comprehension (1 of 2) lacks QuAC: oracle" in out


def test_the_same_command_finds_its_finished_run(run):
    first, folder, *_ = run("-t", "figure4")
    second, again, _, err = run("-t", "figure4")
    assert (second, again) == (first, folder)
    assert "This run is finished" in err
    assert NO_QUAC in err


def test_a_run_repeated_from_its_record_is_the_same_run(run):
    first, folder, *_ = run("-t", "figure4")
    assert run("--config", folder / "run.json")[:2] == (first, folder)


@pytest.mark.parametrize("tasks", ["figure4", "paper", "figure4,bbh_cot", "piqa,paper"])
def test_the_record_says_what_was_asked(data, tasks):
    """What --config makes of a record leaves out the same benchmarks again."""
    if "bbh_cot" in tasks:
        shutil.copytree(SAMPLE / "bbh", data / "bbh")
    settings = RunSettings(tasks=parse_tasks(tasks), data=str(data))
    found = leave_out_absent(settings, only_in_suites(tasks))
    assert found.left_out
    again = ",".join(asked_as(found.tasks, found.left_out))
    settings = RunSettings(tasks=parse_tasks(again), data=str(data))
    assert leave_out_absent(settings, only_in_suites(again)) == found


def test_rows_that_arrive_later_are_another_run(run, data):
    _, before, *_ = run("-t", "figure4")
    shutil.copytree(SAMPLE / "quac_helm", data / "quac_helm")
    record, after, _, err = run("-t", "figure4")
    assert set(record["scores"]) == {*HERE, "quac"}
    assert after.name.startswith("figure4-")
    assert after != before
    assert "QuAC is left out" not in err


def test_rescoring_keeps_what_was_left_out(run, cli, data):
    record, folder, *_ = run("-t", "figure4")
    shutil.copytree(SAMPLE / "quac_helm", data / "quac_helm")
    assert cli("rescore", folder)[0] == 0
    again = json.loads((folder / "run.json").read_text())
    assert again["rescored"]
    for kept in ("settings", "scores", "notes"):
        assert again[kept] == record[kept]


def test_a_plan_counts_what_the_run_would_run(cli, data):
    where = ("-m", "tiny", "--data", data, "--no-calibrate", "--limit", "2")
    code, out, _ = cli("plan", "--tasks", "figure4", *where, "--json", "--quiet")
    plan = json.loads(out)
    assert code == 0
    assert set(plan["benchmarks"]) == set(HERE)
    assert f"{lacking('quac')}." in plan["left_out"]
    code, out, _ = cli("plan", "--tasks", "figure4", *where, "--quiet")
    assert NO_QUAC in " ".join(out.split())


@pytest.mark.parametrize("tasks", ["quac", "figure4,quac", "piqa,quac"])
def test_asked_for_by_its_name_it_is_an_error(cli, run, data, tmp_path, tasks):
    """Also after a run that left it out is finished."""
    run("-t", "figure4")
    where = ("--engine", "oracle", "--data", data, "-o", tmp_path / "results")
    code, out, err = cli("run", "--tasks", tasks, *where)
    assert (code, out) == (1, "")
    assert "should hold quac_helm/default/validation.parquet (or .jsonl) or" in err
    assert "for quac, but there is no such file" in err


def test_a_folder_without_any_of_a_suite_s_rows_is_an_error(cli, tmp_path):
    (tmp_path / "data" / "photos").mkdir(parents=True)
    where = ("--engine", "oracle", "--data", tmp_path / "data", "-o", tmp_path / "results")
    code, _, err = cli("run", "--tasks", "figure4", *where)
    assert code == 1
    assert "for mmlu, but there is no such file" in err


def test_a_part_of_a_benchmark_s_files_is_an_error(data):
    """A folder with one of several subjects is damaged."""
    shutil.copytree(SAMPLE / "hendrycks_math" / "algebra", data / "hendrycks_math" / "algebra")
    settings = RunSettings(tasks=parse_tasks("paper"), data=str(data))
    assert "math" not in leave_out_absent(settings, only_in_suites("paper")).left_out


@pytest.mark.parametrize("source", ["hub", "sample"])
def test_other_sources_leave_nothing_out(source):
    settings = RunSettings(tasks=SUITES["figure4"], data=source)
    assert leave_out_absent(settings, only_in_suites("figure4")) == settings


def test_a_folder_that_does_not_exist_is_an_error(tmp_path):
    settings = RunSettings(tasks=SUITES["figure4"], data=str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="does not exist"):
        leave_out_absent(settings, only_in_suites("figure4"))


def test_a_name_takes_a_benchmark_out_of_what_only_a_suite_asks_for():
    assert only_in_suites("figure4") == SUITES["figure4"]
    assert set(only_in_suites("figure4, quac")) == set(SUITES["figure4"]) - {"quac"}
    assert only_in_suites("quac,mmlu,lm_eval:piqa") == ()
    assert set(only_in_suites("paper")) == {one for one in BY_ID if one in SUITES["paper"]}
