"""With data and model on disk no code path opens a socket; what the hub gives is tested locally."""

import json
import subprocess
import sys

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mistral_eval.data.sources import SAMPLE
from mistral_eval.sandbox import probe
from mistral_eval.suite.registry import paper_benchmarks

CODE = ("humaneval", "mbpp")
PLAIN = tuple(benchmark.id for benchmark in paper_benchmarks() if benchmark.id not in CODE)
# Any way out raises; what a library swallows is still counted. AF_UNIX is no network.
BLOCKED = """
import socket, sys
tried = []

def refuse(name, inner):
    def call(*arguments, **named):
        if name == "connect" and arguments[0].family == socket.AF_UNIX:
            return inner(*arguments, **named)
        tried.append((name, arguments[1:] if name.startswith("connect") else arguments))
        raise OSError(f"the network is blocked: {name}")
    return call

class Blocked(socket.socket):
    pass

for name in ("connect", "connect_ex", "sendto"):
    setattr(Blocked, name, refuse(name, getattr(socket.socket, name)))
socket.socket = Blocked
for name in ("getaddrinfo", "gethostbyname", "create_connection"):
    setattr(socket, name, refuse(name, getattr(socket, name)))
"""
RUN = f"""
{BLOCKED}
from mistral_eval.cli.app import main
try:
    main()
finally:
    print("tried:", tried, file=sys.stderr)
"""


def run_blocked(*arguments: object, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", RUN, "run", *map(str, arguments), "--json", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        env=env,
    )
    return done.returncode, done.stdout, done.stderr


def assert_all_ran(found: tuple[int, str, str], tasks: tuple[str, ...], output) -> None:
    code, _, err = found
    assert code == 0, err
    assert err == "tried: []\n"
    (file,) = output.rglob("run.json")
    assert set(json.loads(file.read_text())["scores"]) == set(tasks)


def test_the_block_is_felt_by_everything_that_goes_out():
    """A test of the test: resolving, connecting and an HTTP library all fail and are counted."""
    program = f"""
{BLOCKED}
import requests
for call in (
    lambda: socket.getaddrinfo("localhost", 80),
    lambda: socket.socket().connect(("127.0.0.1", 9)),
    lambda: requests.get("http://127.0.0.1:9/", timeout=5),
):
    try:
        call()
    except OSError as error:
        assert "blocked" in str(error), error
    else:
        raise SystemExit("not blocked")
print(len(tried))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) >= 3


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("data", ["sample", "real"])
@pytest.mark.parametrize(
    "tasks", [PLAIN, pytest.param(CODE, marks=pytest.mark.sandbox)], ids=["ten", "code"]
)
def test_all_twelve_run_without_a_socket(tmp_path, request, tasks, data):
    """The tiny model, one question of each; nothing in the environment says `offline`."""
    if tasks == CODE and not probe().available:
        pytest.skip(f"no sandbox here: {probe().detail}")
    folder = request.getfixturevalue("shared") / "data" if data == "real" else data
    options = ("-m", "tiny", "--data", folder, "--limit", 1, "--device", "cpu", "-o", tmp_path)
    assert_all_ran(run_blocked("-t", ",".join(tasks), *options), tasks, tmp_path)


def test_the_oracle_runs_the_whole_sample_without_a_socket(tmp_path):
    options = ("--engine", "oracle", "--data", "sample", "-o", tmp_path)
    assert_all_ran(run_blocked("-t", ",".join(PLAIN), *options), PLAIN, tmp_path)


@pytest.fixture
def local_hub(monkeypatch, tmp_path):
    """A folder in the hub's layout in the place of the hub; gives what was asked of it.

    Each data set is a folder of parquet files that the real `datasets.load_dataset` reads.
    """
    load = datasets.load_dataset
    asked = []
    folders = {"winogrande": "winogrande", "gsm8k": "gsm8k"}

    def from_folder(path, name=None, *, split=None, revision=None, **more):
        asked.append((path, name, split, revision))
        mine = folders[path.rpartition("/")[2].lower()]
        (source,) = (SAMPLE / mine).rglob(f"{split}.jsonl")
        rows = [json.loads(line) for line in source.open(encoding="utf-8")]
        target = tmp_path / "hub" / path / (name or "default")
        target.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), target / f"{split}-00000-of-00001.parquet")
        files = {split: str(target / f"{split}-*.parquet")}
        cache = str(tmp_path / "cache")
        return load("parquet", data_files=files, split=split, cache_dir=cache, **more)

    monkeypatch.setattr(datasets, "load_dataset", from_folder)
    return asked


def test_what_the_hub_gives_is_recognised_by_its_rows(cli, local_hub, tmp_path):
    """The sample's rows through the hub's path: the same fingerprints, and the same scores."""
    tasks = "winogrande,gsm8k"
    common = ("-t", tasks, "--engine", "random", "-q")
    code, _, err = cli("run", *common, "-o", tmp_path / "hub-run")
    assert code == 0, err
    assert {path for path, *_ in local_hub} == {"allenai/winogrande", "openai/gsm8k"}
    assert cli("run", *common, "--data", "sample", "-o", tmp_path / "sample-run")[0] == 0
    runs = [
        json.loads(next((tmp_path / name).rglob("run.json")).read_text())
        for name in ("hub-run", "sample-run")
    ]
    for task in ("winogrande", "gsm8k"):
        hub, sample = (dict(run["data"][task]) for run in runs)
        assert (hub.pop("revision"), sample.pop("revision")) == ("main", None)
        assert hub == sample
    assert {revision for *_, revision in local_hub} == {"main"}
    assert runs[0]["scores"] == runs[1]["scores"]
