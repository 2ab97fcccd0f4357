"""The tiny model's numbers on the sample, as they were committed: weights, prompts, engine."""

import json

import golden_tiny
import pytest

from mistral_eval.suite.registry import BY_ID, PAPER


@pytest.fixture(scope="module")
def expected():
    return json.loads(golden_tiny.FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def found():
    return golden_tiny.answer()


def test_the_model_is_the_one_the_numbers_were_made_with(found, expected):
    """If this fails alone, a fingerprint changed; see what tools/golden_tiny.py changes."""
    assert found["model"] == expected["model"]


@pytest.mark.parametrize("benchmark", PAPER)
def test_tiny_answers_as_committed(found, expected, benchmark):
    """Log-likelihoods to 1e-4, greedy ids exactly."""
    assert found[benchmark].keys() == expected[benchmark].keys()
    assert len(expected[benchmark]) >= 2
    for question, golden in expected[benchmark].items():
        if BY_ID[benchmark].kind == "score":
            assert found[benchmark][question] == pytest.approx(golden, abs=1e-4, rel=0)
        else:
            assert found[benchmark][question] == golden
