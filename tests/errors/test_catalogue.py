"""Every row of the catalogue: one sentence, its exit code, no traceback, nothing spoilt."""

import importlib.util
import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from mistral_eval.record.journal import Journal

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


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda path: path.write_bytes(b"mine " * 999), "but is no SQLite file and holds no reply"),
        (lambda path: _sql(path, "PRAGMA user_version=99"), "schema 3, found 0x4d45564a and 99"),
        (lambda path: _sql(path, "PRAGMA user_version=2"), "schema 3, found 0x4d45564a and 2."),
        (lambda path: _sql(path, "PRAGMA application_id=7"), None),
    ],
    ids=["no database", "a newer journal", "an older journal", "the mark alone is gone"],
)
def test_a_journal_that_is_not_ours_is_refused_and_kept(cli, earlier, spoil, sentence):
    """A journal whose mark alone was lost still holds our checked replies: it is recovered."""
    (journal,) = earlier.rglob("journal.sqlite")
    (journal.parent / "run.json").unlink()
    spoil(journal)
    before = journal.read_bytes()
    code, out, err = cli(*RUN, "-o", earlier)
    if sentence is None:
        assert (code, err) == (0, "")
        assert journal.with_suffix(".damaged-1").read_bytes() == before
        return
    assert (code, out) == (1, "")
    assert sentence in err
    assert journal.read_bytes() == before


def test_a_damaged_journal_is_told_of_and_its_run_goes_on(cli, earlier):
    (journal,) = earlier.rglob("journal.sqlite")
    record = journal.parent / "run.json"
    scores = json.loads(record.read_text())["scores"]
    record.unlink()
    journal.write_bytes(journal.read_bytes()[:4096])
    code, _, err = cli(*RUN[:-1], "-o", earlier)
    assert code == 0
    assert "was damaged: 0 of its replies were recovered, 32 are lost" in err
    again = json.loads(record.read_text())
    assert again["scores"] == scores
    assert again["counts"]["computed"] == 32


def test_a_run_in_use_is_one_sentence(cli, earlier):
    (journal,) = earlier.rglob("journal.sqlite")
    (journal.parent / "run.json").unlink()
    with Journal(journal):
        code, out, err = cli(*RUN, "-o", earlier)
    assert (code, out) == (1, "")
    assert "Another process is working on the run" in err


def _sql(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute(statement)
