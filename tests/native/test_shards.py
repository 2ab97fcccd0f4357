"""Shards: every request once, balanced, and little of what is shared computed twice."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistral_eval.native.requests import ScoreRequest
from mistral_eval.native.shards import Fewest, cut_for_workers, cut_shards
from mistral_eval.native.tree import build_tree


def tree_size(paths):
    return len(build_tree([ScoreRequest(tuple(path), (1,)) for path in paths]).tokens)


def subjects(n_subjects=57, questions=40, block=600, size=80, seed=0):
    """Return paths like MMLU's: each subject's questions follow its solved examples."""
    draw = random.Random(seed)
    paths = []
    for subject in range(n_subjects):
        head = [subject, *(draw.randrange(1000) for _ in range(block))]
        paths += [
            (*head, *(draw.randrange(1000) for _ in range(size)))
            for _ in range(draw.randrange(questions // 4, questions * 2))
        ]
    return paths


trees = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=8), max_size=40)


@given(trees, st.integers(1, 12))
def test_every_request_is_in_one_shard_and_costs_are_those_of_its_tree(paths, parts):
    cut = cut_shards(paths, parts)
    assert sorted(n for shard in cut.shards for n in shard.indices) == list(range(len(paths)))
    assert len(cut.shards) <= parts
    for shard in cut.shards:
        assert shard.cost == tree_size([paths[n] for n in shard.indices])
    if paths:
        assert cut.unique == cut.whole == tree_size(paths)


@given(trees, st.integers(1, 12))
def test_equal_paths_stay_together(paths, parts):
    cut = cut_shards(paths * 3, parts)
    home = {n: place for place, shard in enumerate(cut.shards) for n in shard.indices}
    for n in range(len(paths)):
        assert home[n] == home[n + len(paths)] == home[n + 2 * len(paths)]


@pytest.mark.parametrize(("parts", "most"), [(8, 0.01), (64, 0.10)])
def test_cuts_lie_where_little_is_shared(parts, most):
    cut = cut_shards(subjects(), parts)
    costs = [shard.cost for shard in cut.shards]
    assert len(cut.shards) == parts
    assert cut.excess <= most
    assert max(costs) <= 1.7 * sum(costs) / parts
    # cut at equal distances instead, the shards share more
    ordered = sorted(subjects())
    step = -(-len(ordered) // parts)
    naive = sum(tree_size(ordered[k : k + step]) for k in range(0, len(ordered), step))
    assert sum(costs) < naive


def test_the_cost_beside_the_path_is_balanced_too():
    paths = [(n,) for n in range(100)]
    extra = [100.0 if n < 10 else 1.0 for n in range(100)]
    cut = cut_shards(paths, 4, extra)
    assert max(shard.cost for shard in cut.shards) <= 1.5 * cut.whole / 4


def test_many_shards_per_worker_unless_they_cost_much():
    assert len(cut_for_workers([(n, 1, 2) for n in range(1000)], 4).shards) == 64
    one_block = [(*range(500), n) for n in range(64)]
    assert len(cut_for_workers(one_block, 4).shards) == 4


def test_a_shard_has_enough_to_do_where_that_leaves_one_per_worker():
    paths = [(n, 1, 2) for n in range(1000)]
    assert len(cut_for_workers(paths, 4, (), Fewest(requests=100)).shards) == 8
    assert len(cut_for_workers(paths, 4, (), Fewest(cost=200.0)).shards) == 8
    assert len(cut_for_workers(paths, 4, (), Fewest(cost=1e6)).shards) == 4
