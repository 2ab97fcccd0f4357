"""The same engine on CUDA: what the CPU answers in float32, and its own plain path in bfloat16."""

import pytest
import torch

from mistral_eval.native.plain import PlainTwin
from mistral_eval.native.requests import GenerateRequest, Sampling, ScoreRequest
from mistral_eval.native.runner import ModelRunner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
BLOCK = tuple(range(1, 31))
SCORES = [
    ScoreRequest((*BLOCK, 40 + n, 41), continuation)
    for n in range(12)
    for continuation in ((3,), (4, 5), (6, 7, 8, 9), (10,))
]
GENERATIONS = [
    GenerateRequest((*BLOCK, 40 + n, 41), 12, sampling, f"{n}|{sample}")
    for n in range(6)
    for sampling in (Sampling(), Sampling(1.1, top_p=0.9))
    for sample in range(3)
]


@pytest.fixture(autouse=True)
def exact_products(monkeypatch):
    """Float32 products of 32 bits, as the CPU's."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


@pytest.fixture(name="engines", params=["window 8", "no window", "windows 5 and none"])
def fixture_engines(request, make_engine, make_mixed_engine, make_weights):
    """The same weights on the CPU and on CUDA."""
    if request.param == "windows 5 and none":
        cpu = make_mixed_engine()
    else:
        cpu = make_engine(16, 8 if request.param == "window 8" else None)
    config = cpu.model.config
    weights = {name: tensor.cuda() for name, tensor in make_weights(config).items()}
    return cpu, ModelRunner(
        config, weights, n_words=cpu.model.n_words, eos_ids=cpu.eos_ids, batch_tokens=16
    )


def test_scores_are_the_cpus_and_no_token_is_computed_twice(engines):
    cpu, cuda = engines
    expected, found = dict(cpu.score(SCORES)), dict(cuda.score(SCORES))

    assert found.keys() == expected.keys()
    for n, reply in found.items():
        assert reply.logprob == pytest.approx(expected[n].logprob, abs=1e-4)
        assert reply.is_greedy == expected[n].is_greedy
    assert cuda.stats.score_computed == cuda.stats.score_unique


def test_generated_ids_are_the_cpus(engines):
    cpu, cuda = engines

    assert dict(cuda.generate(GENERATIONS)) == dict(cpu.generate(GENERATIONS))
    assert cuda.stats.generated == cpu.stats.generated


def test_bfloat16_agrees_with_its_plain_path(make_engine, make_weights):
    """One request at a time, nothing shared: within the dtype's tolerance, or a tie."""
    config = make_engine().model.config
    weights = {n: w.to("cuda", torch.bfloat16) for n, w in make_weights(config).items()}
    engine = ModelRunner(config, weights, n_words=61, eos_ids=(2,))
    twin = PlainTwin(engine.model, 2)
    for n, reply in engine.score(SCORES):
        width = twin.tolerance(len(SCORES[n].continuation))
        assert reply.logprob == pytest.approx(twin.score(SCORES[n]).logprob, abs=width)
    for n, reply in engine.generate(GENERATIONS):
        parting = twin.parting(GENERATIONS[n], reply)
        assert parting is None or parting.is_tie
