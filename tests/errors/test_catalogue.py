"""Every row of the catalogue: one sentence, its exit code, no traceback, nothing spoilt."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest

from mistral_eval.record.replies import RepliesLog

FILE = Path(__file__).with_name("bad_inputs.py")
SPEC = importlib.util.spec_from_file_location("bad_inputs", FILE)
BAD = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = BAD
SPEC.loader.exec_module(BAD)
RUN = ("run", "-t", "winogrande", "--data", "sample", "--engine", "random", "-q")


@pytest.fixture
def earlier(cli, tmp_path) -> Path:
    """A results folder with a finished run in it."""
    results = tmp_path / "results"
    assert cli(*RUN, "-o", results)[0] == 0
    return results


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_the_table_and_the_others_have_at_least_sixty_rows():
    """13 in test_cli_errors.py's table, 18 tests beside it, 21 in test_config_file.py.

    And 15 in test_runtime.py.
    """
    names = [bad.name for bad in BAD.CATALOGUE]
    assert len(set(names)) == len(names)
    assert len(names) >= 40


@pytest.mark.parametrize("bad", BAD.CATALOGUE, ids=lambda bad: bad.name)
def test_bad_input_is_one_sentence_and_spoils_nothing(cli, earlier, tmp_path, bad):
    folder = tmp_path / "bad"
    folder.mkdir()
    before = snapshot(earlier)
    arguments = tuple(bad.make(folder))
    if arguments[0] == "run":
        arguments = (*arguments, "-q", "-o", earlier)
    code, out, err = cli(*arguments)
    assert (code, out) == (bad.code, "")
    assert bad.sentence in err
    assert err.startswith("mistral-eval: ")
    assert err.count("\n") == 1
    after = snapshot(earlier)
    assert {name: after.get(name) for name in before} == before


def test_a_run_of_version_0_1_0_is_refused_and_left_as_it_is(cli, earlier):
    (replies,) = earlier.rglob("replies")
    (replies.parent / "run.json").unlink()
    shutil.rmtree(replies)
    (replies.parent / "journal.sqlite").write_bytes(b"SQLite format 3\0")
    before = snapshot(earlier)
    code, out, err = cli(*RUN, "-o", earlier)
    assert (code, out) == (1, "")
    assert "holds journal.sqlite, the journal of a run of mistral-eval 0.1.0" in err
    assert "--fresh" in err
    assert err.count("\n") == 1
    assert snapshot(earlier) == before
    assert cli(*RUN, "--fresh", "-o", earlier)[0] == 0


@pytest.mark.parametrize("damage", ["cut", "noise"])
def test_a_damaged_log_is_told_of_and_its_run_is_resumed(cli, earlier, damage):
    (log,) = earlier.rglob("replies/*.jsonl")
    record = log.parent.parent / "run.json"
    scores = json.loads(record.read_text())["scores"]
    record.unlink()
    if damage == "cut":
        log.write_bytes(log.read_bytes()[:-9])
        sentence, lost = "1 damaged line was skipped in", 1
    else:
        log.write_bytes(b"mine " * 999)
        sentence, lost = "1 file holds no readable reply in", 32
    code, _, err = cli(*RUN[:-1], "-o", earlier)
    assert code == 0
    assert sentence in err
    again = json.loads(record.read_text())
    assert again["scores"] == scores
    assert again["counts"]["computed"] == lost


def test_a_run_in_use_is_one_sentence(cli, earlier):
    (run,) = earlier.rglob("run.json")
    run.unlink()
    with RepliesLog(run.parent):
        code, out, err = cli(*RUN, "-o", earlier)
    assert (code, out) == (1, "")
    assert "Another process is working on the run" in err
