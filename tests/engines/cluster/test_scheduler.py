"""The scheduler: what is dealt out, and what becomes of the requests of dead workers."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistral_eval.engines.cluster.scheduler import DEATHS, Scheduler
from mistral_eval.native.shards import Shard


def halves(indices, parts):
    """Cut into at most so many neighbours of equal number."""
    step = -(-len(indices) // parts)
    return [Shard(tuple(indices[k : k + step]), step) for k in range(0, len(indices), step)]


def shards_of(count, parts):
    return halves(range(count), parts)


def run(scheduler, killers=frozenset(), rng=None, external=0, alone=None):
    """Answer all pieces in order; return the answered indices and the deaths by killers.

    `alone` counts the other deaths of workers that had one request, by request.
    """
    answered, deaths = [], 0
    while (piece := scheduler.take()) is not None:
        for n in piece.indices:
            if n in piece.known:
                continue
            if n in killers:
                deaths += 1
                scheduler.lost(piece, "by signal 9 (SIGKILL)")
                break
            if rng and external and rng.random() < 0.02:
                external -= 1
                if alone is not None and set(piece.indices) - piece.known - {*answered} == {n}:
                    alone[n] += 1
                scheduler.lost(piece, "with its node")
                break
            if scheduler.is_news(n):
                answered.append(n)
    return answered, deaths


def test_the_most_expensive_piece_goes_first():
    scheduler = Scheduler([Shard((0,), 1.0), Shard((1, 2), 5.0), Shard((3,), 3.0)], (), halves)
    taken = [scheduler.take().indices for _ in range(3)]
    assert taken == [(1, 2), (3,), (0,)]
    assert scheduler.take() is None


def test_known_requests_are_dealt_out_with_their_shard_and_alone_not_at_all():
    scheduler = Scheduler([Shard((0, 1), 2.0), Shard((2, 3), 2.0)], {0, 2, 3}, halves)
    piece = scheduler.take()
    assert (piece.indices, piece.known) == ((0, 1), {0})
    assert scheduler.take() is None


@pytest.mark.parametrize("count", [1, 2, 9, 100, 1000])
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_a_request_that_kills_is_left_out_and_all_others_are_answered(count, place):
    killer = round(place * (count - 1))
    scheduler = Scheduler(shards_of(count, 4), (), halves)
    answered, deaths = run(scheduler, {killer})
    assert sorted(answered) == [n for n in range(count) if n != killer]
    assert deaths <= DEATHS + 2
    ((index, why),) = scheduler.left_out
    assert index == killer
    assert why == "3 workers died while they had nothing else, the last one by signal 9 (SIGKILL)"


@given(st.integers(1, 200), st.integers(1, 8), st.integers(0, 20), st.integers(0, 1000))
def test_deaths_for_other_reasons_lose_and_repeat_nothing(count, parts, deaths, seed):
    rng = random.Random(seed)
    known = {n for n in range(count) if rng.random() < 0.2}
    scheduler = Scheduler(shards_of(count, parts), known, halves)
    alone = Counter()
    answered = run(scheduler, rng=rng, external=deaths, alone=alone)[0]
    left_out = [n for n, _ in scheduler.left_out]
    assert sorted([*answered, *left_out]) == [n for n in range(count) if n not in known]
    assert left_out == [n for n in alone if alone[n] == DEATHS]


def test_a_reply_counts_once():
    scheduler = Scheduler(shards_of(2, 1), (), halves)
    assert scheduler.is_news(1)
    assert not scheduler.is_news(1)


def test_a_killer_among_samples_of_one_question_is_found():
    together = lambda indices, parts: [Shard(tuple(indices), len(indices))]  # noqa: E731
    scheduler = Scheduler([Shard(tuple(range(8)), 8.0)], (), together)
    answered, deaths = run(scheduler, {5}, random.Random(0))
    assert sorted(answered) == [0, 1, 2, 3, 4, 6, 7]
    assert [index for index, _ in scheduler.left_out] == [5]
    assert deaths <= DEATHS + 2
