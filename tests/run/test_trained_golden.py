"""A trained model's scores on questions of the real test sets, as they were committed.

The model is better than chance, so that an engine that computes something else also loses points.
"""

import json

import golden_trained
import pytest
from golden_trained import NATS, PROMPTS, QUESTIONS

from mistral_eval.stats import wilson

pytestmark = [pytest.mark.trained, pytest.mark.slow, pytest.mark.timeout(1800)]

EXPECTED = json.loads(golden_trained.FILE.read_text(encoding="utf-8"))
CHANCE = {"piqa": 50.0, "arc_easy": 25.0, "hellaswag": 25.0}


@pytest.fixture(scope="module")
def engine(trained):
    return golden_trained.open_engine()


@pytest.mark.parametrize("benchmark", QUESTIONS)
def test_scores_are_those_committed(engine, shared, benchmark):
    """Log-likelihoods to 1e-3 nats, and as many right answers; close calls are left out."""
    expected = EXPECTED[benchmark]
    loaded = golden_trained.load(benchmark, str(shared / "data"), QUESTIONS[benchmark])
    loaded.questions = [q for q in loaded.questions if str(q.doc_id) in expected["logprobs"]]
    assert len(loaded.questions) >= 0.9 * QUESTIONS[benchmark]

    found = golden_trained.scores(engine, loaded)

    assert found.keys() == expected["logprobs"].keys()
    for question, logprobs in found.items():
        assert logprobs == pytest.approx(expected["logprobs"][question], abs=NATS, rel=0)
    assert golden_trained.correct(loaded, found) == expected["correct"]


@pytest.mark.parametrize("benchmark", PROMPTS)
def test_greedy_replies_are_those_committed(engine, shared, benchmark):
    """Token by token, up to the first that leads the next best by less than 0.01 nats."""
    expected = EXPECTED[benchmark]["ids"]
    loaded = golden_trained.load(benchmark, str(shared / "data"), PROMPTS[benchmark])

    found = golden_trained.greedy(engine, loaded)

    assert {key: ids[: len(expected[key])] for key, ids in found.items()} == expected
    assert sum(map(len, expected.values())) >= 8


@pytest.mark.parametrize("benchmark", CHANCE)
def test_the_committed_scores_are_better_than_chance(benchmark):
    expected = EXPECTED[benchmark]
    assert wilson(expected["correct"], len(expected["logprobs"])).low > CHANCE[benchmark]
