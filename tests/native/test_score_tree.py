"""Scores on the prefix tree are those of the plain scorer, and every prefix is computed once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mistral_eval.native.pack import cut_packs
from mistral_eval.native.plain import score_plain
from mistral_eval.native.requests import Counters, ScoreRequest
from mistral_eval.native.score_tree import score_tree
from mistral_eval.native.tree import build_tree

few = st.lists(st.integers(0, 2), min_size=1, max_size=14).map(tuple)  # 3 words: much is shared
some_requests = st.lists(st.builds(ScoreRequest, few, few), min_size=1, max_size=12)


def fed(request):
    return (request.context + request.continuation)[:-1]


def prefixes(requests):
    return {fed(r)[: n + 1] for r in requests for n in range(len(fed(r)))}


@pytest.fixture(
    name="model", params=["window 8", "no window", "windows 5 and none"], scope="module"
)
def fixture_model(request, make_engine, make_mixed_engine):
    """A toy transformer with one kind of window."""
    if request.param == "windows 5 and none":
        return make_mixed_engine().model
    return make_engine(None, 8 if request.param == "window 8" else None).model


def assert_equal_to_plain(model, requests, batch_tokens, group_tokens):
    plain = dict(score_plain(model, requests, 1000))
    tree = dict(score_tree(model, requests, batch_tokens, Counters(), group_tokens))
    assert sorted(tree) == list(range(len(requests)))
    for n, reply in plain.items():
        assert tree[n].logprob == pytest.approx(reply.logprob, abs=1e-4)
        assert tree[n].is_greedy == reply.is_greedy


@settings(max_examples=150)
@given(requests=some_requests, batch_tokens=st.integers(1, 60), group_tokens=st.integers(1, 30))
def test_scores_are_those_of_the_plain_scorer(model, requests, batch_tokens, group_tokens):
    """For every cut into packs and groups, with and without windows."""
    assert_equal_to_plain(model, requests, batch_tokens, group_tokens)


@settings(max_examples=30)
@given(requests=some_requests, batch_tokens=st.integers(1, 60))
def test_scores_read_a_pack_late_are_the_same_bits(model, requests, batch_tokens):
    """As on CUDA, where the next pack begins before the host reads the last one's numbers."""
    at_once, late = (
        dict(score_tree(model, requests, batch_tokens, Counters(), reads_late=reads_late))
        for reads_late in (False, True)
    )

    assert late == at_once


@given(requests=some_requests)
def test_each_distinct_prefix_is_one_token_of_the_tree(requests):
    """Computed tokens = unique tokens, and each comes after its ancestors."""
    tree = build_tree(requests)
    path, walked = [], []
    for token, depth in zip(tree.tokens.tolist(), tree.depths.tolist(), strict=True):
        assert depth <= len(path)
        path = [*path[:depth], token]
        walked.append(tuple(path))

    assert len(walked) == len(set(walked))
    assert set(walked) == prefixes(requests)
    assert tree.naive_tokens == sum(len(ids) for ids in {fed(r) for r in requests})


@given(requests=some_requests, batch_tokens=st.integers(1, 60), group_tokens=st.integers(1, 30))
def test_packs_and_groups_hold_every_token_once_and_within_their_budgets(
    requests, batch_tokens, group_tokens
):
    tree = build_tree(requests)
    packs = list(cut_packs(tree, batch_tokens, group_tokens))
    rows = [
        row
        for pack in packs
        for group in pack.groups
        for row in range(pack.first + group.start, pack.first + group.end)
    ]

    assert rows == list(range(len(tree.tokens)))
    assert all(pack.last - pack.first <= batch_tokens for pack in packs)
    assert all(g.end - g.start <= group_tokens for pack in packs for g in pack.groups)


@given(data=st.data(), requests=some_requests)
def test_the_tree_does_not_depend_on_the_order_of_the_requests(data, requests):
    order = data.draw(st.permutations(requests))
    left, right = build_tree(requests), build_tree(order)

    assert np.array_equal(left.tokens, right.tokens)
    assert np.array_equal(left.depths, right.depths)
    assert np.array_equal(left.starts, right.starts)


def test_a_whole_sequence_that_is_a_prefix_of_another_is_scored(model):
    """Its last row lies inside another request's path; nano-vllm's issue 144."""
    long = ScoreRequest((1, 5, 7), (9, 11, 13))
    requests = [long, ScoreRequest((1, 5), (7, 9)), ScoreRequest((1,), (5,)), long]

    assert build_tree(requests).tokens.tolist() == [1, 5, 7, 9, 11]
    assert_equal_to_plain(model, requests, 2, 2)


def test_choices_of_one_token_share_one_row(model):
    """MMLU's letters: four requests, one sequence."""
    requests = [ScoreRequest((1, 5, 7), (letter,)) for letter in (20, 21, 22, 23)]

    assert set(build_tree(requests).asked_node.tolist()) == {2}
    assert_equal_to_plain(model, requests, 64, 64)


def test_a_continuation_that_merges_at_the_boundary_is_scored(model):
    """Where context ends and continuation begins is each request's own affair."""
    requests = [
        ScoreRequest((1, 5, 7), (9, 11)),
        ScoreRequest((1, 5), (7, 9, 11)),
        ScoreRequest((1, 5, 8), (9,)),
        ScoreRequest((1, 5), (8, 9)),
    ]

    assert_equal_to_plain(model, requests, 3, 2)


def test_a_request_as_long_as_the_context_is_scored(model):
    """97 tokens in a context of 96: the last is never fed."""
    requests = [ScoreRequest((3,) * 60, (4,) * 37), ScoreRequest((3,) * 60, (4,) * 36 + (5,))]

    assert build_tree(requests).height == 96
    assert_equal_to_plain(model, requests, 40, 16)


def test_no_requests_make_an_empty_tree(model):
    assert list(score_tree(model, [], 8, Counters())) == []
