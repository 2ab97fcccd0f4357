"""Runs in an S3 bucket: a server on the loopback, a kill, a resume elsewhere, and its refusals."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mistral_eval.record import remote
from mistral_eval.record.replies import Replies
from mistral_eval.record.store import Store

pytest.importorskip("s3fs", reason="needs s3fs, of the extra mistral-eval[s3]")
server = pytest.importorskip("moto.server", reason="needs moto[server], an S3 server")

DRIVER = Path(__file__).with_name("remote_driver.py")
OPTIONS = ("-t", "winogrande,gsm8k", "--data", "sample", "-L", 2, "-m", "tiny", "--quiet")
REQUESTS = 2 * 2 + 2 * 8


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(endpoint, monkeypatch, tmp_path, request) -> Iterator[str]:
    """The URL of an empty bucket; requests go to the server, with no credentials of this user."""
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "first"))
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"bucket-{abs(hash(request.node.name))}"
    s3fs.S3FileSystem().mkdir(name)
    yield f"s3://{name}"
    s3fs.S3FileSystem.clear_instance_cache()


def logged(store: Store, folder: Path) -> int:
    """Fetch the store's replies and count those that are whole."""
    names = [name for name in store.sizes() if name.endswith(".jsonl") and "/replies/" in name]
    store.fetch(names, folder)
    return sum(Replies(run).count() for run in folder.glob("*/*"))


@pytest.mark.slow
def test_a_run_killed_in_a_bucket_goes_on_on_another_machine(bucket, monkeypatch, tmp_path, cli):
    url, store = f"{bucket}/runs", Store(f"{bucket}/runs")
    command = [sys.executable, DRIVER, "0.05", "run", *OPTIONS, "-o", url]
    started = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and started.poll() is None:
        if any(name.endswith(".jsonl") for name in store.sizes()):
            break
        time.sleep(0.02)
    started.send_signal(signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL
    durable = logged(store, tmp_path / "seen")
    assert 0 < durable < REQUESTS
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "second"))
    code, out, _ = cli("run", *OPTIONS, "-o", url)
    assert code == 0
    (name,) = (name for name in store.sizes() if name.endswith("/run.json"))
    counts = json.loads(store.read(name))["counts"]
    assert (counts["from_log"], counts["computed"]) == (durable, REQUESTS - durable)
    code, apart, _ = cli("run", *OPTIONS, "-o", tmp_path / "apart")
    assert (code, out) == (0, apart)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "third"))
    code, table, _ = cli("table", f"{url}/{name.removesuffix('/run.json')}")
    assert (code, table) == (0, out)


RANDOM = ("-t", "nq", "--data", "sample", "--engine", "random", "--quiet")


def test_a_finished_run_lies_in_the_bucket_and_is_read_from_there(bucket, cli):
    code, out, _ = cli("run", *RANDOM, "-o", f"{bucket}/deep/prefix")
    assert code == 0
    names = sorted(Store(f"{bucket}/deep/prefix").sizes("random"))
    kinds = {Path(name).name.partition("_")[0] for name in names}
    assert kinds >= {"run.json", "table.md", "results", "samples"}
    assert cli("run", *RANDOM, "-o", f"{bucket}/deep/prefix")[1] == out
    (run,) = {name.rpartition("/")[0] for name in names if name.endswith("/run.json")}
    code, out, _ = cli("samples", f"{bucket}/deep/prefix/{run}", "--limit", 1, "--json")
    assert (code, len(json.loads(out))) == (0, 1)


def refused(cli, url: str) -> str:
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()  # a connection keeps its server and credentials
    code, out, err = cli("run", *RANDOM, "-o", url)
    assert (code, out) == (1, "")
    assert err.startswith(f"mistral-eval: {url}")
    assert "Traceback" not in err
    assert err.count("\n") == 1
    return err


def test_a_bucket_that_does_not_exist_is_one_sentence(bucket, cli):
    said = refused(cli, f"{bucket}-other/runs")
    assert "no such bucket or folder" in said


def test_missing_credentials_are_one_sentence(bucket, cli, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    said = refused(cli, f"{bucket}/runs")
    assert "credentials" in said.partition("(")[2].partition(")")[0].lower()


def test_a_server_that_is_not_there_is_one_sentence(bucket, cli, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert "127.0.0.1:9" in refused(cli, f"{bucket}/runs")


def test_a_server_that_goes_away_in_the_middle_costs_no_reply(bucket, cli, monkeypatch, tmp_path):
    url = f"{bucket}/runs"
    monkeypatch.setattr(remote, "PAUSES", (0.01,))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")

    def lose(self: remote.Upload) -> None:
        import s3fs

        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        s3fs.S3FileSystem.clear_instance_cache()
        self._store = Store(url)

    with monkeypatch.context() as patch:
        patch.setattr(remote.Upload, "start", lose)
        patch.setattr(remote.Upload, "stop", lambda self: None)
        code, _, err = cli("run", *RANDOM, "-o", url)
    assert code == 1
    assert "The run's files are in" in err
    (record,) = (tmp_path / "first").rglob("run.json")
    assert Replies(record.parent).count() == 16
