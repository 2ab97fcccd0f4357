"""Replies are a function of the request alone: not of order, neighbours, budget or chunk size."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mistral_eval.errors import EngineError
from mistral_eval.model.attention import SequencesAttend
from mistral_eval.native.requests import GenerateRequest, Sampling, ScoreRequest
from mistral_eval.native.runner import ModelRunner
from tests.pairs import our_logits

ENGINES = ["window 8", "no window", "mixed windows"]
ids = st.lists(st.integers(0, 60), min_size=1, max_size=25).map(tuple)
score_requests = st.lists(st.builds(ScoreRequest, ids, ids), min_size=1, max_size=8)
samplings = st.sampled_from(
    [Sampling(), Sampling(0.7), Sampling(1.3, top_p=0.8), Sampling(1.0, top_k=5, top_p=0.9)]
)
generate_requests = st.lists(
    st.builds(GenerateRequest, ids, st.integers(0, 30), samplings, st.text("abc", max_size=4)),
    min_size=1,
    max_size=6,
)


@pytest.fixture(name="build", params=ENGINES, scope="module")
def fixture_build(request, make_engine, make_mixed_engine):
    """Builds an engine of one kind of window for a budget of tokens."""
    if request.param == "mixed windows":
        return make_mixed_engine
    window = 8 if request.param == "window 8" else None
    return lambda batch_tokens=None: make_engine(batch_tokens, window)


def scores(engine, requests):
    replies = dict(engine.score(requests))
    assert sorted(replies) == list(range(len(requests)))
    return [replies[n] for n in range(len(requests))]


def generations(engine, requests):
    replies = dict(engine.generate(requests))
    assert sorted(replies) == list(range(len(requests)))
    return [replies[n] for n in range(len(requests))]


def assert_same_scores(left, right):
    assert [r.is_greedy for r in left] == [r.is_greedy for r in right]
    assert [r.logprob for r in left] == pytest.approx(
        [r.logprob for r in right], abs=1e-5, rel=1e-5
    )


@settings(max_examples=25)
@given(data=st.data(), requests=score_requests, budget=st.integers(1, 80))
def test_scores_depend_on_neither_order_nor_budget(build, data, requests, budget):
    order = data.draw(st.permutations(range(len(requests))))
    alone = [scores(build(), [request])[0] for request in requests]
    shuffled = scores(build(budget), [requests[n] for n in order])

    assert_same_scores([alone[n] for n in order], shuffled)


@settings(max_examples=20)
@given(data=st.data(), requests=generate_requests, budget=st.integers(1, 80))
def test_generated_ids_depend_on_neither_order_nor_budget(build, data, requests, budget):
    order = data.draw(st.permutations(range(len(requests))))
    alone = [generations(build(), [request])[0] for request in requests]
    shuffled = generations(build(budget), [requests[n] for n in order])

    assert [alone[n] for n in order] == shuffled


@settings(max_examples=15)
@given(requests=generate_requests)
def test_what_is_generated_scores_the_log_probability_it_was_drawn_with(build, requests):
    """Greedy generations are greedy when scored again, past several windows."""
    engine = build(7)
    greedy = [GenerateRequest(r.prompt, 30) for r in requests]
    replies = generations(engine, greedy)
    again = [
        ScoreRequest(r.prompt, reply.ids)
        for r, reply in zip(greedy, replies, strict=True)
        if reply.ids
    ]

    for request, reply in zip(again, scores(engine, again), strict=True):
        assert reply.is_greedy or is_nearly_greedy(engine.model, request)


def is_nearly_greedy(model, request) -> bool:
    """Whether each token's logit is within 1e-5 of the best one's: rounding decides such ties."""
    ids = torch.tensor(request.context + request.continuation)
    logits = our_logits(model, ids)[len(request.context) - 1 : -1]
    drawn = logits.gather(1, torch.tensor(request.continuation)[:, None])[:, 0]
    return bool((logits.amax(dim=1) - drawn).max() < 1e-5)


def test_a_score_is_the_sum_of_log_softmax_over_the_whole_sequence(make_engine):
    """Against one pass with the full mask and torch's own log_softmax."""
    engine = make_engine()
    request = ScoreRequest(tuple(range(1, 21)), (5, 9, 33))
    tokens = torch.tensor(request.context + request.continuation)
    model = engine.model
    attend = SequencesAttend([23], model.config.sliding_window, model.dtype, model.device)
    logprobs = model.logits(model.hidden(tokens, torch.arange(23), attend)).log_softmax(dim=-1)
    expected = sum(float(logprobs[19 + n, token]) for n, token in enumerate((5, 9, 33)))

    assert scores(engine, [request])[0].logprob == pytest.approx(expected, abs=1e-5)


def test_generation_stops_at_eos_without_showing_it(make_engine, make_weights):
    """EOS is what a score says comes next: the reply ends before it."""
    engine = make_engine()
    free = generations(engine, [GenerateRequest((1, 7, 9), 20)])[0].ids
    config = engine.model.config
    ending = ModelRunner(config, make_weights(config), n_words=61, eos_ids=(free[4],))
    reply = generations(ending, [GenerateRequest((1, 7, 9), 20)])[0]

    assert (free[: free.index(free[4])], "eos") == (reply.ids, reply.finish)


def test_is_done_sees_every_id_and_ends_the_generation(make_engine):
    seen = []

    def is_done(ids):
        seen.append(tuple(ids))
        return len(ids) == 3

    reply = generations(make_engine(), [GenerateRequest((1, 7, 9), 20, is_done=is_done)])[0]

    assert reply.finish == "stop"
    assert seen == [reply.ids[:1], reply.ids[:2], reply.ids]


def test_generation_ends_at_max_tokens_and_at_none_for_zero(make_engine):
    requests = [GenerateRequest((1, 7, 9), 4), GenerateRequest((1, 7, 9), 0)]
    four, none = generations(make_engine(), requests)

    assert (len(four.ids), four.finish) == (4, "length")
    assert (none.ids, none.finish) == ((), "length")


def test_a_sample_is_named_by_its_key(make_engine):
    """Equal keys draw the same, different keys do not."""
    hot = Sampling(1.5)
    keys = ["0|gsm8k|7|0", "0|gsm8k|7|1", "0|gsm8k|7|0"]
    first, second, third = generations(
        make_engine(), [GenerateRequest((1, 7, 9), 20, hot, key) for key in keys]
    )

    assert first == third
    assert first != second


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (ScoreRequest((), (1,)), "score request 1 has an empty context"),
        (ScoreRequest((1,), ()), "score request 1 has an empty continuation"),
        (ScoreRequest((1,) * 90, (1,) * 8), "score request 1 feeds 97 tokens.* has 96"),
        (ScoreRequest((1,), (61,)), r"score request 1: expected ids in 0 \.\.\. 60, found 61"),
    ],
)
def test_a_score_request_that_cannot_be_served_is_named(make_engine, request_, sentence):
    with pytest.raises(EngineError, match=sentence):
        list(make_engine().score([ScoreRequest((1,), (2,)), request_]))


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (GenerateRequest((), 5), "generate request 0 has an empty prompt"),
        (GenerateRequest((1,), -1), "generate request 0 asks for -1 tokens"),
        (GenerateRequest((1,) * 90, 7), "a prompt of 90 and 7 new tokens exceed .* 96"),
        (GenerateRequest((-1,), 5), "found -1"),
        (GenerateRequest((1,), 5, Sampling(top_p=0.0)), "top_p"),
    ],
)
def test_a_generate_request_that_cannot_be_served_is_named(make_engine, request_, sentence):
    with pytest.raises(EngineError, match=sentence):
        list(make_engine().generate([request_]))


def test_a_full_context_is_served(make_engine):
    """The last token of a continuation is never fed, so 97 tokens fit a context of 96."""
    assert len(scores(make_engine(), [ScoreRequest((1,) * 90, (1,) * 7)])) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_an_error_that_names_the_request(
    make_engine, make_weights, value
):
    engine = make_engine()
    weights = make_weights(engine.model.config)
    weights["tok_embeddings.weight"][13] = value
    broken = ModelRunner(engine.model.config, weights, n_words=61, eos_ids=(2,))

    with pytest.raises(EngineError, match="score request 1: the model's logits are not finite"):
        list(broken.score([ScoreRequest((1, 2), (3,)), ScoreRequest((1, 13), (3,))]))
    with pytest.raises(EngineError, match="generate request 0"):
        list(broken.generate([GenerateRequest((1, 13), 3)]))


def test_a_budget_of_no_tokens_is_refused(make_engine):
    with pytest.raises(EngineError, match="--batch-tokens should be 1 or more and is 0"):
        make_engine(0)


def test_no_requests_give_no_replies(make_engine):
    assert list(make_engine().score([])) == []
    assert list(make_engine().generate([])) == []


@settings(max_examples=15)
@given(requests=score_requests, budget=st.integers(1, 80))
def test_computed_tokens_are_the_unique_tokens(build, requests, budget):
    """Each distinct prefix of what is fed goes through the model once."""
    engine = build(budget)
    scores(engine, requests)
    fed = {(r.context + r.continuation)[:-1] for r in requests}
    prefixes = {ids[: n + 1] for ids in fed for n in range(len(ids))}

    assert engine.stats.score_computed == engine.stats.score_unique == len(prefixes)
    assert engine.stats.score_naive == sum(map(len, fed))
    assert engine.stats.score_seconds > 0
