"""speed/stream.py on a toy shape, from writing the model to the ratios."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "speed"
TOY = {"dim": 64, "layers": 6, "hidden": 96, "heads": 4, "kv-heads": 2, "head-dim": 16}


@pytest.mark.slow
def test_it_compares_both_ways_and_keeps_a_folder_that_is_named(tmp_path):
    shape = [part for name, size in TOY.items() for part in (f"--{name}", str(size))]
    given = ["--data", "sample", "--questions", "2", "--rounds", "1", "--dtype", "float32"]
    made, file = tmp_path / "made", tmp_path / "found.json"
    done = subprocess.run(
        [sys.executable, FOLDER / "stream.py", *shape, *given, "--folder", made, "--json", file],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert [run["way"] for run in found["runs"]] == ["resident", "streamed"]
    assert found["difference"] <= 1e-5
    assert len(found["runs"][0]["logprobs"]) == 8
    for run in found["runs"]:
        assert run["tokens"] == run["unique"] > 0
        assert 0 < run["before_bytes"] <= run["peak_bytes"] <= run["peak_with_files_bytes"]
        assert 0 < run["open_seconds"] < run["seconds"]
    stored = sum(shard.stat().st_size for shard in made.glob("*.safetensors"))
    assert found["weights"] < stored < 1.01 * found["weights"]
    assert "peak of the streamed run over the weights" in done.stdout
