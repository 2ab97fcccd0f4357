"""Print the fingerprints of a test set: `python -m mistral_eval.data.make_pins DIR [BENCHMARK…]`.

For whoever has another copy (the hub's own HellaSwag, say) and wants to add its pin, with a name
and a footnote, to `fingerprints.json`.
"""

import json
import sys

from mistral_eval.data.fingerprints import fingerprint
from mistral_eval.data.load import load_benchmark_data
from mistral_eval.data.sources import make_source
from mistral_eval.data.task_file import data_spec
from mistral_eval.suite.registry import BY_ID


def main(source: str, *benchmarks: str) -> None:
    """Write benchmark to sha256 as JSON on stdout."""
    found = {}
    for benchmark in benchmarks or BY_ID:
        spec = data_spec(benchmark)
        found[benchmark] = fingerprint(spec, load_benchmark_data(spec, make_source(source)))
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
