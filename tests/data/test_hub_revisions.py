"""Hub loading for real, from a hub on the loopback: revisions, commits, fingerprints, offline.

Each run is a process of its own: the libraries read their environment when they are imported.
"""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mistral_eval.data.sources import SAMPLE

OLD, NEW = "a" * 40, "b" * 40
REPOSITORY = "allenai/winogrande"
README = b"""---
configs:
- config_name: winogrande_xl
  data_files:
  - split: validation
    path: winogrande_xl/validation-*
---
"""
RUN = ("run", "-t", "winogrande", "--engine", "random", "--quiet")
LOAD = """
import json, sys
from dataclasses import replace
from mistral_eval.data import Source, identify, load_benchmark_data
from mistral_eval.data.task_file import data_spec
from mistral_eval.errors import HubError
spec = data_spec("winogrande").model_copy(update={"revision": sys.argv[1]})
try:
    splits = load_benchmark_data(spec, Source("hub"))
except HubError as error:
    print(json.dumps({"error": str(error)}))
else:
    rows = splits["validation"]
    found = identify(spec, splits, unpinned=True, is_from_hub=True)
    print(json.dumps({"rows": len(rows), "commit": rows.commit, "name": found.name}))
"""


def files(rows: list[dict]) -> dict[str, bytes]:
    """A data set repository with one parquet file, as the hub keeps WinoGrande."""
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), content)
    return {
        "README.md": README,
        "winogrande_xl/validation-00000-of-00001.parquet": content.getvalue(),
    }


class Place:
    """The hub, a home for the libraries, and processes that use both."""

    def __init__(self, hub, folder: Path) -> None:
        self.hub, self.folder = hub, folder
        self.home = folder / "hf"

    def _call(self, program: str, *arguments: object, **env: str) -> tuple[int, str, str]:
        self.hub.asked.clear()
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE"))}
        loopback = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1")
        mine = {"HOME": self.folder, "HF_ENDPOINT": self.hub.url, "HF_HOME": self.home}
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env={**clean, **loopback, **{k: str(v) for k, v in mine.items()}, **env},
        )
        return done.returncode, done.stdout, done.stderr

    def load(self, revision: str, **env: str) -> dict[str, object]:
        """WinoGrande's rows as the harness loads them: number, name and commit, or a sentence."""
        code, out, err = self._call(LOAD, revision, **env)
        assert code == 0, err
        return dict(json.loads(out))

    def run(self, *arguments: object, **env: str) -> tuple[int, str]:
        """The command line: exit code and stderr."""
        code, _, err = self._call(
            "from mistral_eval.cli.app import main; main()", *arguments, **env
        )
        assert "Traceback" not in err
        return code, err


@pytest.fixture(scope="module")
def place(hub, tmp_path_factory):
    """A hub whose main branch has moved on from the sample's rows to five of them."""
    (source,) = (SAMPLE / "winogrande").rglob("validation.jsonl")
    rows = [json.loads(line) for line in source.open(encoding="utf-8")]
    hub.add(REPOSITORY, OLD, files(rows), "v1")
    hub.add(REPOSITORY, NEW, files(rows[:5]))
    return Place(hub, tmp_path_factory.mktemp("place"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_rows_are_of_the_revision_that_was_asked_for(place):
    """One story, since each step goes on with the cache of the one before."""
    newest = place.load("main")
    assert (newest["rows"], newest["commit"], newest["name"]) == (5, NEW, "unpinned")
    for revision in ("v1", OLD):
        found = place.load(revision)
        assert place.hub.asked
        assert (found["rows"], found["commit"], found["name"]) == (16, OLD, "sample")
    assert "'v9' doesn't exist" in place.load("v9")["error"]

    assert (place.home / "hub").is_dir(), "HF_HOME is where copies are kept"
    assert (place.home / "datasets").is_dir()
    assert not (place.folder / ".cache" / "huggingface").exists(), "and nowhere else"

    for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        found = place.load(OLD, **{variable: "1"})
        assert (found["rows"], found["commit"], place.hub.asked) == (16, OLD, [])
        error = place.load("main", **{variable: "1"})["error"]
        assert place.hub.asked == []
        assert f"should be of main (commit {NEW})" in error, "the cache's last copy is another's"
        assert f"--data-revision winogrande={OLD}" in error
    empty = place.load(OLD, HF_HOME=str(place.folder / "empty"), HF_HUB_OFFLINE="1")
    assert "could not be loaded from the Hugging Face hub" in empty["error"]
    assert place.hub.asked == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_records_its_rows_revision_and_can_be_repeated_without_the_hub(place):
    code, err = place.run(*RUN, "-o", place.folder / "refused")
    assert code == 1, "the rows of main are not those that are pinned"
    assert "should have a pinned fingerprint" in err

    options = ("-o", place.folder / "first", "--data-revision", f"winogrande={OLD}")
    code, err = place.run(*RUN, *options)
    assert code == 0, err
    (file,) = (place.folder / "first").rglob("run.json")
    first = json.loads(file.read_text())
    assert first["settings"]["data_revision"] == {"winogrande": OLD}
    rows = first["data"]["winogrande"]
    assert (rows["revision"], rows["commit"], rows["name"]) == (OLD, OLD, "sample")

    again = ("run", "--config", file, "-o", place.folder / "again", "-q")
    code, err = place.run(*again, HF_HUB_OFFLINE="1")
    assert (code, place.hub.asked) == (0, []), err
    (file,) = (place.folder / "again").rglob("run.json")
    second = json.loads(file.read_text())
    assert (second["id"], second["scores"]) == (first["id"], first["scores"])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_offline_a_model_is_looked_for_in_hf_home_and_nobody_is_asked(place):
    arguments = ("run", "-t", "winogrande", "--data", "sample", "-m", "someone/model")
    code, err = place.run(*arguments, "-o", place.folder / "model", HF_HUB_OFFLINE="1")
    assert (code, place.hub.asked) == (1, [])
    assert f"HF_HUB_OFFLINE is set and the cache {place.home / 'hub'} holds no copy" in err


def test_without_visible_devices_the_device_is_the_cpu():
    """On a machine with a GPU as on one without."""
    program = (
        "from mistral_eval.engines.devices import choose_device\n"
        "from mistral_eval.errors import EngineError\n"
        "print(choose_device('auto'))\n"
        "try:\n    choose_device('cuda')\n"
        "except EngineError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    first, second = done.stdout.splitlines()
    assert first == "cpu"
    assert second.startswith("--device cuda cannot be used here (")
