"""speed/rate.py on the tiny shape and the bundled questions."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "speed" / "rate.py"


@pytest.mark.slow
def test_it_prints_the_share_of_the_matrix_rate(tmp_path):
    file = tmp_path / "rate.json"
    arguments = ("--shapes", "tiny", "--data", "sample", "--questions", 3, "--threads", 1, "--cpu")
    done = subprocess.run(
        [sys.executable, PROGRAM, *map(str, arguments), "--profile", "--json", file],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = json.loads(file.read_text())["lines"]
    assert [line["dtype"] for line in lines] == ["float32", "bfloat16"]
    assert len({(line["tokens"], line["flop"]) for line in lines}) == 1
    for line in lines:
        assert line["questions"] == 3
        assert len(line["passes"]) == 3
        assert line["seconds"] == min(line["passes"])
        assert line["share"] == pytest.approx(line["flop"] / line["seconds"] / line["matrix_rate"])
        assert line["share"] > 0
    assert lines[0]["share"] < 1
    # A processor without bfloat16 arithmetic imitates it, and slower in square products than in
    # the model's thin ones: there the share may be above 1.
    table = [row for row in done.stdout.splitlines() if row.startswith("| tiny ")]
    assert len(table) == 2
    assert "aten::mm" in done.stdout
