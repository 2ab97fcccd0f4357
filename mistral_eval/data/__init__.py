"""Rows of the test sets, from the hub, a folder or the sample, with their fingerprints."""

from mistral_eval.data.fingerprints import Fingerprint, fingerprint, identify, pins
from mistral_eval.data.load import Rows, dataset_from, load_benchmark_data
from mistral_eval.data.sources import Source, make_source
from mistral_eval.data.task_file import DataSpec, Row

__all__ = [
    "DataSpec",
    "Fingerprint",
    "Row",
    "Rows",
    "Source",
    "dataset_from",
    "fingerprint",
    "identify",
    "load_benchmark_data",
    "make_source",
    "pins",
]
