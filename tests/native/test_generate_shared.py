"""Sharing a few-shot block and a question changes no reply, and computes each of them once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mistral_eval.model import attention, shared_attend, shared_cache
from mistral_eval.model.shared_cache import Row, SharedCache, row_slots
from mistral_eval.native import generate_shared
from mistral_eval.native.admission import Budget
from mistral_eval.native.clusters import cluster_prompts, unique_tokens
from mistral_eval.native.generate_shared import SharedGenerator
from mistral_eval.native.plain import PlainGenerator
from mistral_eval.native.requests import Counters, GenerateRequest, Sampling, ScoreRequest
from mistral_eval.native.runner import ModelRunner

KINDS = ["window 8", "no window", "windows 5 and none"]
HOT = Sampling(1.1, top_p=0.9)
words = st.integers(3, 60)
tails = st.lists(st.lists(words, max_size=9).map(tuple), min_size=1, max_size=3)


@pytest.fixture(name="model", params=KINDS, scope="module")
def fixture_model(request, make_engine, make_mixed_engine):
    """A toy transformer with one kind of window."""
    if request.param == "windows 5 and none":
        return make_mixed_engine().model
    return make_engine(None, 8 if request.param == "window 8" else None).model


@st.composite
def benchmarks(draw):
    """One or two few-shot blocks, questions behind them, one to four samples of each."""
    requests = []
    for block in draw(st.lists(st.lists(words, min_size=1, max_size=20), min_size=1, max_size=2)):
        samples = draw(st.integers(1, 4))
        for tail in draw(tails):
            tokens = draw(st.integers(0, 16))
            first = draw(st.sampled_from([(), (7, 11, 30, 59)]))
            requests += [
                GenerateRequest(
                    (1, *block, *tail), tokens, HOT if n else Sampling(), f"{tail}|{n}", first=first
                )
                for n in range(samples)
            ]
    return requests


budgets = st.builds(Budget, st.integers(1, 12), st.integers(1, 50), st.integers(1, 400))


@settings(max_examples=15)
@given(requests=benchmarks(), budget=budgets, reads_late=st.booleans())
def test_replies_are_those_of_the_plain_generator(model, requests, budget, reads_late):
    """Token by token, for every budget, past several windows, read at once or a step late."""
    plain = dict(PlainGenerator(model, (2, 7), rows=3, chunk=7).run(requests))
    generator = SharedGenerator(model, (2, 7), budget, Counters(), reads_late=reads_late)
    shared = list(generator.run(requests))

    assert len(shared) == len(requests)
    assert dict(shared) == plain
    for n, reply in shared:
        if reply.ids and requests[n].first:
            assert reply.ids[0] in requests[n].first


@settings(max_examples=10)
@given(requests=benchmarks(), budget=budgets, queries=st.integers(1, 6))
def test_prompts_longer_than_a_run_of_queries_change_no_reply(model, requests, budget, queries):
    plain = dict(PlainGenerator(model, (2, 7), rows=3, chunk=7).run(requests))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_attend, "_QUERIES", queries)
        generator = SharedGenerator(model, (2, 7), budget, Counters())
        assert dict(generator.run(requests)) == plain


def test_in_the_last_layer_only_the_tails_ends_attend(make_engine, monkeypatch):
    """What 40 prompt tokens cost, counted where attention is computed."""
    model = make_engine(None, None).model
    queries = []
    kernel = attention.attention
    monkeypatch.setattr(
        attention, "attention", lambda q, *more: queries.append(len(q)) or kernel(q, *more)
    )
    block = tuple(range(3, 35))
    requests = [GenerateRequest((*block, n, 8, 9, 10), 1) for n in (40, 41)]
    list(SharedGenerator(model, (), Budget(8, 64, 900), Counters()).run(requests))
    layers = model.config.n_layers
    assert sum(queries) == (layers - 1) * 40 + 2


def test_logits_of_prompts_leave_when_the_last_sample_enters(make_engine, monkeypatch):
    """They are as wide as the vocabulary, and no view keeps those of other prompts."""
    model = make_engine(None, None).model
    requests = [GenerateRequest((1, 3 + n, 8), 4, HOT, f"{n}") for n in range(9) for _ in range(3)]
    seen = []
    step = generate_shared._Generation._step

    def noting(self):
        questions = {s.question for s in self._active.values()} | set(self._admission._questions)
        seen.extend(
            (bool(q.waiting), q.logits is None or q.logits.untyped_storage().nbytes())
            for q in questions
        )
        return step(self)

    monkeypatch.setattr(generate_shared._Generation, "_step", noting)
    list(SharedGenerator(model, (), Budget(16, 64, 900), Counters()).run(requests))
    one = 4 * model.n_words
    assert {size for is_waiting, size in seen if not is_waiting} == {True}
    assert {size for is_waiting, size in seen if is_waiting} <= {True, one}
    assert (True, one) in seen


def test_places_of_tails_suffice_for_prompts_ahead(make_engine, monkeypatch):
    """Growing would copy every place, and so take memory for all of them."""
    grown = []
    grow = shared_cache.Slab._grow
    monkeypatch.setattr(
        shared_cache.Slab, "_grow", lambda slab: grown.append(id(slab)) or grow(slab)
    )
    model = make_engine(None, None).model
    requests = [GenerateRequest((1, *range(3, 23), n, 5), 3 + n % 9) for n in range(60)]
    list(SharedGenerator(model, (), Budget(32, 64, 10**5), Counters()).run(requests))
    assert grown
    assert len(grown) == len(set(grown))


@pytest.mark.parametrize("reads_late", [False, True])
def test_tokens_drawn_are_counted_once_whenever_they_are_read(model, reads_late):
    """What a sample draws after its end, before the host knows, is no token of the run."""
    requests = gsm8k_like()
    stats = Counters()
    generator = SharedGenerator(model, (2, 7), Budget(16, 64, 1000), stats, reads_late=reads_late)
    replies = dict(generator.run(requests))

    assert {reply.finish for reply in replies.values()} >= {"length"}
    ends = sum(len(reply.ids) + (reply.finish == "eos") for reply in replies.values())
    assert stats.generated == ends


def gsm8k_like():
    """A block of 30 tokens, 6 questions of 5, 8 samples each."""
    block = tuple(range(1, 31))
    return [
        GenerateRequest((*block, 40 + n, 41, 42, 43, 44), 12, HOT, f"{n}|{sample}")
        for n in range(6)
        for sample in range(8)
    ]


def test_block_and_questions_are_prefilled_once(make_engine):
    """60 prompt tokens computed where 48 requests of 35 tokens bring 1680."""
    engine = make_engine(64)
    replies = dict(engine.generate(gsm8k_like()))

    assert (
        engine.stats.prompt_computed,
        engine.stats.prompt_unique,
        engine.stats.prompt_naive,
    ) == (60, 60, 1680)
    ends = sum(len(reply.ids) + (reply.finish == "eos") for reply in replies.values())
    assert engine.stats.generated == ends


def test_more_samples_than_rows_are_drawn_in_several_rounds(model):
    """64 samples of one question with 5 rows: each reply as with many rows."""
    requests = [GenerateRequest((1, 9, 8, 7), 6, HOT, str(n)) for n in range(64)]
    few = SharedGenerator(model, (2, 7), Budget(5, 16, 1000), Counters()).run(requests)
    many = SharedGenerator(model, (2, 7), Budget(64, 16, 1000), Counters()).run(requests)

    assert dict(few) == dict(many)


def test_a_finished_sequence_leaves_and_the_next_one_enters(make_engine):
    """Replies come as they end: a short one that waited behind long ones is not last."""
    model = make_engine().model
    lengths = [30, 2, 2, 2, 30]
    requests = [GenerateRequest((5 + n, 6), length) for n, length in enumerate(lengths)]
    order = [
        n for n, _ in SharedGenerator(model, (), Budget(2, 16, 1000), Counters()).run(requests)
    ]

    assert order == [1, 2, 3, 0, 4]


def test_rings_are_bounded_by_the_window(model):
    """A generation of 1000 tokens costs W slots in a layer with a window of W."""
    cache = SharedCache(model)
    row = Row(cache.add_prompt(cache.add_root(4), 5))
    for row.length in range(1000):
        cache.extend([row])
    slabs = [cache.segment(level) for level in range(len(row.segments))]
    held = [sum(slab.keys[layer].shape[2] for slab in slabs) for layer in range(len(cache.windows))]

    assert held == [row_slots(1000) if window is None else window for window in cache.windows]


def rows_of(cache, prompts, samples):
    """Rows in the first two segments, whose keys and values are the numbers of prompt and row."""
    rows = []
    for n in range(prompts):
        prompt = cache.add_prompt(cache.add_root(0), 5)
        for _ in range(samples):
            row = Row(prompt)
            for row.length in (0, 40):
                cache.extend([row])
            rows.append(row)
            for slab, place, number in held_by(cache, row, n, len(rows)):
                for stored in (*slab.keys, *slab.values):
                    stored[place] = number
    return rows


def held_by(cache, row, prompt, number):
    """The slabs and places of a row, with the numbers that `rows_of` wrote there."""
    yield row.prompt.slab, row.prompt.place, prompt
    for level, place in enumerate(row.segments):
        yield cache.segment(level), place, number


@pytest.mark.parametrize("staying", [[15], [3, 12], [0, 1, 14, 15], list(range(5, 16))])
def test_rows_that_stay_move_together_with_their_keys(make_engine, staying):
    """16 rows, 2 of each prompt: the places up to the highest are those that are needed."""
    cache = SharedCache(make_engine(window=None).model, rows=16, slots=10_000)
    rows = rows_of(cache, prompts=8, samples=2)
    prompts = {rows[n].prompt for n in staying}
    for n in set(range(16)) - set(staying):
        cache.drop_row(rows[n])
    for prompt in {row.prompt for row in rows} - prompts:
        cache.drop_prompt(prompt)
    cache.compact([rows[n] for n in staying])

    assert {prompt.place for prompt in prompts} == set(range(len(prompts)))
    for level in range(2):
        assert {rows[n].segments[level] for n in staying} == set(range(len(staying)))
    for n in staying:
        for slab, place, number in held_by(cache, rows[n], n // 2, n + 1):
            slots = {id(rows[n].prompt.slab): 5, id(cache.segment(1)): 8}.get(id(slab), 32)
            for stored in (*slab.keys, *slab.values):
                assert (stored[place, :, :slots] == number).all()


def test_a_few_free_places_are_left(make_engine):
    """New rows take them: 3 of 16 are no reason to copy."""
    cache = SharedCache(make_engine(window=None).model, rows=16, slots=10_000)
    rows = rows_of(cache, prompts=16, samples=1)
    for row in rows[4:7]:
        cache.drop_row(row)
    rows[4:7] = []
    cache.compact(rows)

    assert {row.segments[0] for row in rows} == {*range(4), *range(7, 16)}


def test_replies_cross_segments(model, monkeypatch):
    """With segments of 2, 2, 4, 8, ... tokens, replies of up to 70 tokens pass six borders."""
    requests = [
        GenerateRequest((*block, *range(5, 6 + n)), 1 + 23 * sample, HOT, f"{n}|{sample}")
        for block in (tuple(range(1, 20)), (1, 2))
        for n in range(3)
        for sample in range(4)
    ]
    plain = dict(PlainGenerator(model, (2,), rows=3, chunk=7).run(requests))
    assert max(len(reply.ids) for reply in plain.values()) > 40
    for size in (2, 32):
        monkeypatch.setattr("mistral_eval.model.shared_cache.FIRST_SEGMENT", size)
        generator = SharedGenerator(model, (2,), Budget(7, 16, 900), Counters())
        assert dict(generator.run(requests)) == plain


def long_tailed(questions: int = 12, samples: int = 8):
    """Replies as a trained model gives them: most short, a few near the limit; two benchmarks."""
    ends = [1 + (7 * n * n + 3 * n) % 13 + (40 if n % 17 == 5 else 0) for n in range(5000)]

    def ended(n):
        return lambda ids: len(ids) >= ends[n]

    return [
        GenerateRequest(
            (*block, 5 + n, 6), 60, HOT, f"{n}|{sample}", is_done=ended(samples * n + sample)
        )
        for block in (tuple(range(20, 50)), tuple(range(30, 59)))
        for n in range(questions)
        for sample in range(samples)
    ]


def test_a_row_is_free_when_its_sample_ends(make_engine):
    """Decoding takes at most 1.4 times the steps of rows that are always busy."""
    stats = Counters()
    rows = 8
    requests = long_tailed()
    list(SharedGenerator(make_engine().model, (), Budget(rows, 64, 10**6), stats).run(requests))
    ideal = (stats.generated - len(requests)) / rows  # the prefill draws a reply's first token

    assert stats.decode_rows == rows
    assert ideal <= stats.decode_steps < 1.4 * ideal


def test_a_long_reply_of_one_benchmark_runs_beside_the_next_one(make_engine):
    """Not before it: the second block is computed while the first one's last reply goes on."""
    first, second = tuple(range(20, 50)), tuple(range(30, 59))
    long = GenerateRequest((*first, 7), 60)
    short = [GenerateRequest((*block, n), 3) for block in (first, second) for n in range(8, 30)]
    generator = SharedGenerator(make_engine().model, (), Budget(4, 64, 10**6), Counters())
    order = [n for n, _ in generator.run([long, *short])]

    assert order[-1] != 0 or len(order) < 46
    assert order.index(0) > order.index(23)


def test_what_ended_leaves_its_memory_to_others(make_engine):
    """40 questions of 3 samples in 6 rows take as many places as are in use at once."""
    model = make_engine(window=None).model
    generator = SharedGenerator(model, (), Budget(6, 64, 10**6), Counters())
    requests = [
        GenerateRequest((9, 5 + n, 6, 7), 40, HOT, f"{n}|{sample}")
        for n in range(40)
        for sample in range(3)
    ]
    seen = []

    class Watched(SharedCache):
        def __init__(self, *given):
            super().__init__(*given)
            seen.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mistral_eval.native.generate_shared.SharedCache", Watched)
        list(generator.run(requests))
    [cache] = seen
    places = [len(cache.segment(level).keys[0]) for level in range(2)]
    assert places == [8, 8]  # the smallest slab; six rows were in use
    assert len(cache._tails[32].keys[0]) == 8


@given(requests=benchmarks())
def test_clusters_hold_every_request_once_and_tails_complete_their_roots(requests):
    seen = []
    for cluster in cluster_prompts(requests):
        for prompt in cluster.prompts:
            assert prompt.tail
            for n in prompt.requests:
                assert requests[n].prompt == cluster.root + prompt.tail
                seen.append(n)

    assert sorted(seen) == list(range(len(requests)))


def test_clusters_are_the_benchmarks():
    """Two few-shot blocks and two prompts of their own: three clusters."""
    first, second = tuple(range(1, 20)), (1, *range(40, 60))
    prompts = [(*first, 30), (*first, 31, 32), (*second, 33), (*second, 34), (1, 35), (36, 37)]
    clusters = cluster_prompts([GenerateRequest(prompt, 5) for prompt in prompts])

    assert {cluster.root for cluster in clusters} == {(), first, second}
    assert sum(len(cluster.prompts) for cluster in clusters) == 6


@given(requests=benchmarks())
def test_unique_tokens_are_the_distinct_prefixes(requests):
    prefixes = {r.prompt[: n + 1] for r in requests for n in range(len(r.prompt))}

    assert unique_tokens(requests) == len(prefixes)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_generates_what_it_scores_as_greedy(make_weights, make_engine, dtype):
    """Rounding decides near ties, so 2 of 3 generations of ten tokens have to agree, not all."""
    config = make_engine().model.config
    weights = {name: tensor.to(dtype) for name, tensor in make_weights(config).items()}
    engine = ModelRunner(config, weights, n_words=61, eos_ids=())
    prompts = [(1, 5 + n, 7, 9 + n) for n in range(30)]
    replies = dict(engine.generate([GenerateRequest(prompt, 10) for prompt in prompts]))
    scored = dict(engine.score([ScoreRequest(p, replies[n].ids) for n, p in enumerate(prompts)]))

    assert sum(reply.is_greedy for reply in scored.values()) >= 20
