"""Runs in a store: uploaded as they go on, resumed on another machine, read by every command."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mistral_eval.console import Talk
from mistral_eval.errors import StoppedError, StoreError
from mistral_eval.record import remote
from mistral_eval.record.remote import Copy, local_folder
from mistral_eval.record.replies import Replies
from mistral_eval.run.run import run_suite
from mistral_eval.settings import RunSettings

DRIVER = Path(__file__).with_name("remote_driver.py")
OPTIONS = ("-t", "winogrande,nq", "--data", "sample", "--engine", "random")
REQUESTS = 16 * 2 + 16


@pytest.fixture
def store(tmp_path) -> Path:
    """The folder behind the store file://…, as another machine would see it."""
    return tmp_path / "store"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Go on as another machine: with a cache folder of this name."""

    def move_to(name: str) -> Path:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        return tmp_path / name

    move_to("first")
    return move_to


class Heard(Talk):
    """A voice that is kept."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def run_in(store: Path, talk: Talk | None = None, **more: object) -> Path:
    chosen = {"tasks": ("winogrande", "nq"), "data": "sample", "engine": "random", **more}
    return run_suite(RunSettings(output_path=f"file://{store}", **chosen), talk or Talk(quiet=True))


def files(folder: Path) -> dict[str, bytes]:
    kept = (f for f in folder.rglob("*") if f.is_file() and f.suffix not in (".lock", ".txt"))
    return {str(f.relative_to(folder)): f.read_bytes() for f in kept}


def counts(folder: Path) -> tuple[int, int, int]:
    """Computed, from the run's own log, from other runs."""
    found = json.loads((folder / "run.json").read_text())["counts"]
    return found["computed"], found["from_log"], found["from_other_runs"]


def test_a_finished_run_is_in_the_store_as_it_is_in_the_local_copy(store, machine):
    talk = Heard()
    folder = run_in(store, talk)
    assert files(store) == files(local_folder(f"file://{store}"))
    assert folder == local_folder(f"file://{store}") / "random" / folder.name
    url = f"file://{store}/random/{folder.name}"
    assert f"The run works in {folder}, a copy of {url}." in talk.lines
    assert f"The run is in {url}." in talk.lines


def test_another_machine_finds_the_finished_run(store, machine):
    here = run_in(store)
    before, cache = files(store), machine("second")
    talk = Heard()
    there = run_in(store, talk)
    assert there.is_relative_to(cache)
    assert (there / "run.json").read_bytes() == (here / "run.json").read_bytes()
    assert any("This run is finished" in line for line in talk.lines)
    assert files(store) == before


def test_other_runs_of_the_model_in_the_store_share_their_replies(store, machine):
    assert counts(run_in(store, limit=4)) == (4 * 3, 0, 0)
    machine("second")
    assert counts(run_in(store)) == (12 * 3, 0, 4 * 3)
    machine("third")
    assert counts(run_in(store, fresh=True)) == (REQUESTS, 0, 0)
    assert len(list(store.glob("random/*-attempt2/run.json"))) == 1


def test_run_json_is_uploaded_last(store, machine, monkeypatch):
    written = []
    write = remote.Store.write

    def noted(self, name, content):
        written.append(Path(name).name)
        write(self, name, content)

    monkeypatch.setattr(remote.Store, "write", noted)
    run_in(store)
    assert written[0] == ".probe"
    assert written[-2:] == ["table.md", "run.json"]


def test_a_store_that_cannot_be_written_ends_the_run_before_it_begins(store, machine):
    store.write_text("a file, not a folder")
    with pytest.raises(StoreError, match="could not be"):
        run_in(store)
    assert not list(local_folder(f"file://{store}").rglob("*.jsonl"))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("gopher://x/runs", "gopher://x/runs should be the URL of a store that fsspec reaches"),
        ("file:///proc/nothing/runs", "file:///proc/nothing/runs could not be written"),
    ],
)
def test_a_store_that_is_none_ends_the_command_in_one_sentence(machine, cli, url, said):
    code, out, err = cli("run", *OPTIONS, "-q", "-o", url)
    assert (code, out) == (1, "")
    assert err.startswith(f"mistral-eval: {said}")
    assert err.count("\n") == 1


def test_a_cache_folder_that_cannot_be_written_is_one_sentence(store, tmp_path, monkeypatch, cli):
    (tmp_path / "cache").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    code, out, err = cli("run", *OPTIONS, "-q", "-o", f"file://{store}")
    assert (code, out) == (1, "")
    assert err.startswith(
        f"mistral-eval: Runs in file://{store} are copied to {tmp_path / 'cache'}"
    )
    assert "Set XDG_CACHE_HOME" in err
    assert err.count("\n") == 1


@pytest.fixture
def broken_store(store, machine, monkeypatch):
    """Break the store when the first replies are uploaded, and repair it when asked to."""
    away = store.with_name("away")
    monkeypatch.setattr(remote, "PAUSES", (0.01,))
    monkeypatch.setattr(remote.Upload, "start", lambda self: break_it())
    monkeypatch.setattr(remote.Upload, "stop", lambda self: None)

    def break_it() -> None:
        store.rename(away)
        store.touch()

    def repair() -> None:
        store.unlink()
        away.rename(store)

    return repair


def test_a_store_that_goes_away_costs_no_reply_and_the_same_command_uploads(store, broken_store):
    with pytest.raises(StoreError) as raised:
        run_in(store)
    (record,) = local_folder(f"file://{store}").rglob("run.json")
    place = f"The run's files are in {record.parent}; the same command uploads them."
    assert str(raised.value).endswith(place)
    broken_store()
    assert not list(store.rglob("run.json"))
    assert run_in(store) == record.parent
    assert files(store) == files(local_folder(f"file://{store}"))


def test_uploads_that_fail_meanwhile_are_said_once_and_tried_again(store, machine, tmp_path):
    copy, talk = Copy(f"file://{store}", Heard().say), Heard()
    run = copy.folder / "m" / "run"
    (run / "replies").mkdir(parents=True)
    log = run / "replies" / "a.jsonl"
    upload = remote.Upload(copy.store, "m/run", run, talk.say)
    log.write_bytes(b"1\n2\ntorn")
    store.touch()
    upload.try_replies()
    upload.try_replies()
    (line,) = talk.lines
    assert f"Replies are kept in {run}; the upload is tried again." in line
    store.unlink()
    upload.try_replies()
    assert talk.lines[1:] == [f"file://{store} can be written again; all replies so far are there."]
    assert files(store) == {"m/run/replies/a.jsonl": b"1\n2\n"}
    log.write_bytes(b"1\n2\ntorn no more\n")
    upload.try_replies()
    assert files(store) == {"m/run/replies/a.jsonl": log.read_bytes()}
    assert len(talk.lines) == 2


@pytest.mark.parametrize("stop", [KeyboardInterrupt, StoppedError("stopped", signal.SIGTERM)])
def test_a_run_that_is_stopped_uploads_its_replies_first(store, machine, stop):
    """Between two uploads; the rest of the run, which is not complete, stays here."""
    copy = Copy(f"file://{store}", Heard().say)
    run = copy.folder / "m" / "run"
    (run / "replies").mkdir(parents=True)

    def stopped() -> None:
        with copy.keeping(run):
            (run / "replies" / "a.jsonl").write_bytes(b"1\n")
            (run / "table.md").touch()
            raise stop

    with pytest.raises(BaseException) as raised:
        stopped()
    assert raised.value is stop or raised.type is stop
    assert files(store) == {"m/run/replies/a.jsonl": b"1\n"}


def test_replies_that_only_this_machine_has_are_kept_and_uploaded(store, machine):
    """A kill came between a reply and its upload; the store has less of the log than the copy."""
    folder = run_in(store)
    for place in (store, local_folder(f"file://{store}")):
        (record,) = place.rglob("run.json")
        record.unlink()
    (log,) = store.glob("random/*/replies/*.jsonl")
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:5]))
    assert counts(run_in(store)) == (0, REQUESTS, 0)
    assert (folder / "replies" / log.name).read_bytes() == log.read_bytes()
    assert Replies(log.parents[1]).count() == REQUESTS


def lines_in(place: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in place.glob("*/*/replies/*.jsonl"))


@pytest.mark.slow
def test_a_killed_run_goes_on_elsewhere_from_what_was_uploaded(store, machine, tmp_path, cli):
    options = ("-t", "winogrande,gsm8k", "--data", "sample", "-L", 2, "-m", "tiny", "--quiet")
    options = (*options, "-o", f"file://{store}")
    command = [sys.executable, DRIVER, "0.05", "run", *options]
    started = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE)
    deadline = time.monotonic() + 300
    while not lines_in(store) and time.monotonic() < deadline and started.poll() is None:
        time.sleep(0.01)
    started.send_signal(signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL
    shutil.rmtree(tmp_path / "first")
    (run,) = store.glob("tiny/*")
    durable = Replies(run).count()
    assert 0 < durable < 2 * 2 + 2 * 8
    machine("second")
    code, out, _ = cli("run", *options)
    assert code == 0
    assert counts(run) == (2 * 2 + 2 * 8 - durable, durable, 0)
    code, apart, _ = cli("run", *options[:-2], "-o", tmp_path / "apart")
    assert (code, out) == (0, apart)


def test_every_command_that_reads_runs_takes_urls(store, machine, tmp_path, cli):
    oracle, chance = (run_in(store, engine=name) for name in ("oracle", "random"))
    urls = [f"file://{store}/{one.parent.name}/{one.name}" for one in (oracle, chance)]
    machine("second")
    code, out, err = cli("table", *urls, "--format", "json")
    assert (code, err) == (0, "")
    rows = [row for row in json.loads(out)["rows"] if row["kind"] == "run"]
    assert [row["name"] for row in rows] == ["oracle", "random"]
    assert not list(tmp_path.glob("second/**/*.jsonl"))  # a table needs run.json alone
    assert cli("compare", *urls)[0] == 3
    assert cli("report", *urls, "-o", tmp_path / "report.html")[0] == 0
    code, out, _ = cli("samples", urls[1], "--limit", 1, "--json")
    assert (code, len(json.loads(out))) == (0, 1)
    assert not list(tmp_path.glob("second/**/replies"))
    code, out, _ = cli("rescore", f"{urls[1]}/run.json", "--quiet")
    assert code == 0
    assert json.loads((store / "random" / chance.name / "run.json").read_text())["rescored"]


def test_a_url_without_a_run_is_one_sentence(store, machine, cli):
    code, out, err = cli("table", f"file://{store}/random/none")
    assert (code, out) == (1, "")
    assert f"file://{store}/random/none should be a run's folder with a run.json in it" in err


def test_a_rescoring_elsewhere_replaces_the_copy_and_an_older_one_does_not(store, machine, cli):
    folder = run_in(store)
    stale = (folder / "run.json").read_bytes()
    url = f"file://{store}/random/{folder.name}"
    machine("second")
    assert cli("rescore", url, "--quiet")[0] == 0
    newer = (store / "random" / folder.name / "run.json").read_bytes()
    assert newer != stale
    machine("first")
    assert cli("table", url)[0] == 0
    assert (folder / "run.json").read_bytes() == newer
    (store / "random" / folder.name / "run.json").write_bytes(stale)
    assert cli("table", url)[0] == 0
    assert (folder / "run.json").read_bytes() == newer


def test_a_plan_reads_the_length_of_replies_of_runs_in_the_store(store, machine, cli):
    options = ("-t", "nq", "--data", "sample", "-L", 1, "-m", "tiny", "-o", f"file://{store}")
    assert cli("run", *options, "--quiet")[0] == 0
    machine("second")
    code, out, _ = cli("plan", *options, "--no-calibrate", "--json")
    assert code == 0
    assert json.loads(out)["reply_tokens"]["nq"] > 0
