"""Measure how long `mistral-eval --help` takes, beside a Python that does nothing.

    python speed/startup.py [--runs N]

The two alternate, so that a busy moment affects both. Prints the medians.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from machine import machine

COMMANDS = {
    "python -c pass": (sys.executable, "-c", "pass"),
    "mistral-eval --help": (
        *(sys.executable, "-c", "from mistral_eval.cli.app import main; main()"),
        "--help",
    ),
}


def seconds(command: Sequence[str]) -> float:
    """Return the wall-clock seconds of one run of a command."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Measure both and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args().runs
    print(f"machine: {machine()}")
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs + 1):  # the first run fills the file cache
        for name, command in COMMANDS.items():
            found[name].append(seconds(command))
    for name, measured in found.items():
        kept = sorted(measured[1:])
        print(f"{name}: median {statistics.median(kept):.3f} s, {kept[0]:.3f} to {kept[-1]:.3f}")
    print(f"machine: {machine()}")


if __name__ == "__main__":
    main()
