"""What the caller knows already changes no bit of the other replies, and spares their work."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mistral_eval.native.clusters import cluster_prompts
from mistral_eval.native.pack import cut_packs
from mistral_eval.native.requests import Counters, GenerateRequest, Sampling, ScoreRequest, Turn
from mistral_eval.native.score_tree import score_tree
from mistral_eval.native.tree import build_tree

few = st.lists(st.integers(0, 2), min_size=1, max_size=14).map(tuple)  # 3 words: much is shared
some_requests = st.lists(st.builds(ScoreRequest, few, few), min_size=1, max_size=16)
budgets = {"batch_tokens": st.integers(1, 40), "group_tokens": st.integers(1, 30)}
block = (1, *range(20, 32))
prompts = st.lists(st.integers(3, 5), min_size=1, max_size=3).map(tuple)


@st.composite
def scores_and_known(draw):
    requests = draw(some_requests)
    return requests, draw(st.sets(st.integers(0, len(requests) - 1)))


@st.composite
def generations_and_known(draw):
    """Questions behind one block and others without, some with several samples."""
    requests = [
        GenerateRequest(
            (*root, *tail), draw(st.integers(0, 6)), Sampling(0.8, 0.9), f"{n}|{sample}"
        )
        for n, tail in enumerate(draw(st.lists(prompts, min_size=1, max_size=6)))
        for root in [draw(st.sampled_from([block, (1,)]))]
        for sample in range(draw(st.integers(1, 3)))
    ]
    return requests, draw(st.sets(st.integers(0, len(requests) - 1)))


@pytest.fixture(
    name="model", params=["window 8", "no window", "windows 5 and none"], scope="module"
)
def fixture_model(request, make_engine, make_mixed_engine):
    """A toy transformer with one kind of window."""
    if request.param == "windows 5 and none":
        return make_mixed_engine().model
    return make_engine(None, 8 if request.param == "window 8" else None).model


@settings(max_examples=200)
@given(case=scores_and_known(), **budgets)
def test_scores_are_the_same_bits_whatever_is_known(model, case, batch_tokens, group_tokens):
    """And no more is computed than without; nothing, where all is known."""
    requests, known = case
    whole, rest = Counters(), Counters()
    undisturbed = dict(score_tree(model, requests, batch_tokens, whole, group_tokens))
    resumed = list(score_tree(model, requests, batch_tokens, rest, group_tokens, turn=Turn(known)))

    assert sorted(n for n, _ in resumed) == sorted(set(range(len(requests))) - known)
    assert all(reply == undisturbed[n] for n, reply in resumed)
    assert rest.score_computed <= whole.score_computed
    assert whole.score_computed == whole.score_unique
    unknown = [request for n, request in enumerate(requests) if n not in known]
    assert rest.score_unique == len(build_tree(unknown).tokens)
    assert bool(rest.score_computed) == bool(unknown)


@given(case=scores_and_known(), **budgets)
def test_packs_that_run_are_unchanged_and_hold_what_is_wanted_with_all_ancestors(
    case, batch_tokens, group_tokens
):
    """And a pack is left out where it holds neither."""
    requests, known = case
    tree = build_tree(requests)
    wanted = tree.asked_node[[n not in known for n in tree.asked_request.tolist()]]
    every = {pack.first: pack for pack in cut_packs(tree, batch_tokens, group_tokens)}
    some = {pack.first: pack for pack in cut_packs(tree, batch_tokens, group_tokens, wanted)}
    path: list[int] = []
    packs = set()  # those that hold a wanted token or an ancestor of one
    for node, depth in enumerate(tree.depths.tolist()):
        path = [*path[:depth], node]
        if node in wanted:
            packs |= {one // batch_tokens for one in path}

    assert {first // batch_tokens for first in some} == packs
    for first, pack in some.items():
        same = every[first]
        assert (pack.last, pack.base, pack.keep_from) == (same.last, same.base, same.keep_from)
        assert pack.keep_slots.tolist() == same.keep_slots.tolist()
        assert [group.related.tolist() for group in pack.groups] == [
            group.related.tolist() for group in same.groups
        ]


@settings(max_examples=60)
@given(case=generations_and_known(), batch_tokens=st.integers(1, 64))
def test_generations_are_the_same_whatever_is_known(make_engine, case, batch_tokens):
    requests, known = case
    whole, rest = make_engine(batch_tokens), make_engine(batch_tokens)
    undisturbed = dict(whole.generate(requests))
    resumed = list(rest.generate(requests, known))

    assert sorted(n for n, _ in resumed) == sorted(set(range(len(requests))) - known)
    assert all(reply == undisturbed[n] for n, reply in resumed)
    assert rest.stats.prompt_computed <= whole.stats.prompt_computed
    assert rest.stats.generated <= whole.stats.generated


@given(case=generations_and_known())
def test_roots_are_those_of_all_prompts_and_no_prompt_without_requests_stays(case):
    requests, known = case
    every, some = cluster_prompts(requests), cluster_prompts(requests, known)
    assert {cluster.root for cluster in some} <= {cluster.root for cluster in every}
    held = [n for cluster in some for prompt in cluster.prompts for n in prompt.requests]
    assert sorted(held) == sorted(set(range(len(requests))) - known)
    assert all(prompt.requests for cluster in some for prompt in cluster.prompts)
    assert all(cluster.prompts for cluster in some)


def test_a_resumed_run_does_not_compute_again_what_is_known(make_engine):
    """Hardly a pack begins where a question does, as on real test sets."""
    requests = [
        ScoreRequest((1, 3 + n // 20, 3 + n % 20, *range(5, 9 + n % 7)), (9 + choice, 4 + n % 3))
        for n in range(400)
        for choice in range(4)
    ]
    whole, rest = make_engine(32), make_engine(32)
    order = [n for n, _ in whole.score(requests)]

    list(rest.score(requests, set(order[: len(order) * 3 // 4])))

    assert rest.stats.score_computed < 0.3 * whole.stats.score_computed


def test_a_run_cut_off_after_any_reply_goes_on_to_the_same_bits(make_engine):
    """As a replies log has it: the first so many replies are known."""
    requests = [
        ScoreRequest((1, 5, n % 7, n % 3, *range(3, 3 + n % 11)), (9, 10 + n % 4))
        for n in range(60)
    ]
    undisturbed = list(make_engine(24).score(requests))
    total = make_engine(24)
    list(total.score(requests))
    for count in range(0, 61, 5):
        engine = make_engine(24)
        rest = list(engine.score(requests, {n for n, _ in undisturbed[:count]}))
        assert rest == undisturbed[count:]
        assert engine.stats.score_computed <= total.stats.score_computed
    assert engine.stats.score_computed == 0


def test_what_memory_ran_out_on_is_asked_again_beside_what_is_known(make_engine):
    """Halving keeps to the known ones; they come back neither before nor after."""
    requests = [ScoreRequest((1, 5, n, 7), tuple(range(3, 3 + n))) for n in range(1, 20)]
    known = {0, 3, 4, 17}
    engine = make_engine(16)
    engine.model = _FullOnce(engine.model)
    replies = [n for n, _ in engine.score(requests, known)]
    assert sorted(replies) == sorted(set(range(19)) - known)
    assert engine.stats.halvings == 1


class _FullOnce:
    """A model whose device runs out of memory at its third pass; all arithmetic is the model's."""

    def __init__(self, model) -> None:
        self._model = model
        self._passes = 0

    def __getattr__(self, name: str):
        return getattr(self._model, name)

    def hidden(self, tokens, positions, attend, rows=None):
        self._passes += 1
        if self._passes == 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self._model.hidden(tokens, positions, attend, rows)
