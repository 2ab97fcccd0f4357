"""The tiny model's numbers on the sample, as they were committed: weights, prompts, engine."""

import importlib.util
import json
from pathlib import Path

import pytest

from mistral_eval.suite.registry import BENCHMARKS, BY_ID


def _program():
    path = Path(__file__).with_name("make_golden.py")
    spec = importlib.util.spec_from_file_location("make_golden", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def expected():
    return json.loads(_program().FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def found():
    return _program().answer()


def test_the_model_is_the_one_the_numbers_were_made_with(found, expected):
    """If this fails alone, a fingerprint changed; run make_golden.py and look at its difference."""
    assert found["model"] == expected["model"]


@pytest.mark.parametrize("benchmark", [benchmark.id for benchmark in BENCHMARKS])
def test_tiny_answers_as_committed(found, expected, benchmark):
    """Log-likelihoods to 1e-4, greedy ids exactly."""
    assert found[benchmark].keys() == expected[benchmark].keys()
    assert len(expected[benchmark]) >= 2
    for question, golden in expected[benchmark].items():
        if BY_ID[benchmark].metric in ("acc", "acc_norm"):
            assert found[benchmark][question] == pytest.approx(golden, abs=1e-4, rel=0)
        else:
            assert found[benchmark][question] == golden
