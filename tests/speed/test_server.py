"""The program that measures the server engine runs, on few requests."""

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).resolve().parents[2] / "speed" / "server.py"


def test_it_measures_both_kinds_of_request():
    done = subprocess.run(
        [sys.executable, PROGRAM, "--requests", "40"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["requests"] == 40
    for kind in ("generate", "score"):
        assert found[kind]["per_cpu_second"] > 0
        assert found[kind]["mib_after_all"] > 0
