"""Print the fingerprints of a test set: `python tools/make_pins.py DIR [BENCHMARK…]`.

Use it for another copy of a test set, such as the hub's own: add its hash to
`mistral_eval/data/fingerprints.json` with a name and a footnote.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from mistral_eval.data import fingerprint, load_benchmark_data, make_source
from mistral_eval.data.fingerprints import PINS
from mistral_eval.data.fingerprints import pins as known
from mistral_eval.data.task_file import data_spec
from mistral_eval.suite.registry import BY_ID

Pin: TypeAlias = Mapping[str, str]

SAMPLE_FOOTNOTE = (
    "16 real questions that ship with the package; a check that all parts work, not a score."
)


MADE_UP_FOOTNOTE = (
    "16 made-up questions in the hub's columns; a check that all parts work, not a score."
)


def has_whole_set(benchmark: str) -> bool:
    """Return whether a whole test set is pinned; without one the sample is written by hand."""
    return any(pin.name != "sample" for pin in known(benchmark))


def hash_of(benchmark: str, source: str) -> str:
    """Return the fingerprint of a benchmark's rows from `source`, as --data names it."""
    spec = data_spec(benchmark)
    return fingerprint(spec, load_benchmark_data(spec, make_source(source)))


def write_pins(benchmark: str, folder: str | None, name: str, footnote: str) -> None:
    """Pin the rows of `folder` under `name`, and the sample; without a folder, the sample.

    Pins of other copies stay; one of the same name or of the same rows is replaced.
    """
    pins = json.loads(PINS.read_text(encoding="utf-8"))
    about_sample = SAMPLE_FOOTNOTE if folder else MADE_UP_FOOTNOTE
    written = [{"name": "sample", "sha256": hash_of(benchmark, "sample"), "footnote": about_sample}]
    if folder:
        whole = {"name": name, "sha256": hash_of(benchmark, folder), "footnote": footnote}
        written.insert(0, whole)
    pins[benchmark] = merged(pins.get(benchmark, []), written)
    text = json.dumps(pins, indent=2, ensure_ascii=False) + "\n"
    PINS.write_text(text, encoding="utf-8")


def merged(known: Sequence[Pin], written: Sequence[Pin]) -> list[Pin]:
    """Return the known pins that `written` does not replace, then `written`, the sample last."""
    replaced = {pin[key] for pin in written for key in ("name", "sha256")}
    kept = [pin for pin in known if not {pin["name"], pin["sha256"]} & replaced]
    return [*kept, *written]


def main(source: str, *benchmarks: str) -> None:
    """Write benchmark to sha256 as JSON on stdout."""
    found = {benchmark: hash_of(benchmark, source) for benchmark in benchmarks or BY_ID}
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
