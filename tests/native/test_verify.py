"""The plain twin says how far a reply lies from what it computes itself, and what a tie is."""

import pytest
import torch

from mistral_eval.native.plain import Parting, PlainTwin, tolerance
from mistral_eval.native.requests import GenerateReply, GenerateRequest, Sampling, ScoreRequest
from mistral_eval.native.runner import ModelRunner

HOT = Sampling(0.7, top_p=0.95)


def twin_of(engine) -> PlainTwin:
    return PlainTwin(engine.model, engine.eos_ids)


@pytest.fixture
def half(make_engine, make_weights):
    """The toy engine in bfloat16."""
    config = make_engine().model.config
    weights = {name: w.to(torch.bfloat16) for name, w in make_weights(config).items()}
    return ModelRunner(config, weights, n_words=61, eos_ids=(2,))


@pytest.mark.parametrize("sampling", [Sampling(), HOT])
def test_the_engines_replies_do_not_part_from_the_plain_ones(make_engine, sampling):
    engine = make_engine()
    requests = [GenerateRequest((1, 7, 9, n), 25, sampling, f"k{n}") for n in range(8)]
    replies = dict(engine.generate(requests))
    twin = twin_of(engine)
    assert [twin.parting(r, replies[n]) for n, r in enumerate(requests)] == [None] * 8
    score = ScoreRequest((1, 7, 9), (4, 5, 6))
    assert twin.score(score).logprob == pytest.approx(dict(engine.score([score]))[0].logprob)


@pytest.mark.parametrize("sampling", [Sampling(), HOT])
def test_a_parting_names_its_step_and_both_tokens_and_is_no_tie_in_float32(make_engine, sampling):
    engine = make_engine()
    request = GenerateRequest((1, 7, 9), 10, sampling, "k")
    ids = list(dict(engine.generate([request]))[0].ids)
    true, ids[4] = ids[4], (ids[4] + 1) % 61
    parting = twin_of(engine).parting(request, GenerateReply(tuple(ids), "length"))
    assert parting == Parting(4, ids[4], true, is_tie=False)


@pytest.mark.parametrize("sampling", [Sampling(), HOT])
def test_in_half_precision_a_close_second_is_a_tie_and_the_unlikeliest_token_is_not(half, sampling):
    """Rank the tokens of step 0 by their scores, which decide greedy and nearly sampled draws."""
    request = GenerateRequest((1, 7, 9), 1, sampling, "k")
    scores = [
        reply.logprob
        for _, reply in sorted(half.score([ScoreRequest((1, 7, 9), (t,)) for t in range(61)]))
    ]
    worst = min(range(61), key=scores.__getitem__)
    parting = twin_of(half).parting(request, GenerateReply((worst,), "length"))
    assert parting is not None
    assert not parting.is_tie
    first, second = sorted(range(61), key=scores.__getitem__)[:-3:-1]
    if sampling.temperature == 0:
        close = scores[first] - scores[second] <= 2 * tolerance(torch.bfloat16, 1)
        other = twin_of(half).parting(request, GenerateReply((second,), "length"))
        assert other == Parting(0, second, first, is_tie=close)


def test_tolerances_grow_with_the_tokens_in_half_precision_and_of_other_engines():
    assert [tolerance(torch.float32, n) for n in (1, 100)] == [1e-4, 1e-4]
    assert [tolerance(torch.bfloat16, n) for n in (1, 4)] == [0.25, 0.5]
    others = [tolerance(torch.float32, n, is_other=True) for n in (0, 100)]
    assert others == pytest.approx([3e-4, 3.3e-3])
    assert [tolerance(torch.float16, n) for n in (1, 4)] == [2**-5, 2**-4]
