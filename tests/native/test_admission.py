"""Who gets a row when, and that nothing stays held."""

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mistral_eval.model.shared_cache import SharedCache, row_slots, tail_size
from mistral_eval.native.admission import Admission, Budget, FewShotBlock, Question
from mistral_eval.native.requests import GenerateRequest
from mistral_eval.native.sampling import Running

SAMPLE = row_slots(20)


@pytest.fixture(name="model", scope="module")
def fixture_model(make_engine):
    return make_engine(None, None).model


def questions_of(blocks, samples, tokens=20):
    """For each block its length and number of questions, each of some samples behind its tail."""
    found = deque()
    for length, count in blocks:
        block = FewShotBlock(tuple(range(length)), count)
        for n in range(count):
            prompt = (*block.tokens, n, 9)
            waiting = deque(Running(m, GenerateRequest(prompt, tokens)) for m in range(samples))
            found.append(Question(block, prompt[length:], waiting))
    return found


def admission_of(model, questions, rows, cached=10**6):
    return Admission(questions, SharedCache(model, rows, 10**6), Budget(rows, 64, cached))


def test_samples_of_many_questions_get_the_rows_in_order(model):
    admission = admission_of(model, questions_of([(5, 3)], samples=2), rows=5)
    first = admission.admit()
    assert [sample.seat for sample in first.samples] == [0, 1, 2, 3, 4]
    assert [sample.question.tail[0] for sample in first.samples] == [0, 0, 1, 1, 2]
    assert (len(first.blocks), len(first.questions), admission.left) == (1, 3, 1)
    assert not admission.is_ready()
    admission.leave(first.samples[3])
    assert admission.is_ready()
    [last] = admission.admit().samples
    assert (last.seat, last.question.tail[0], admission.left) == (3, 2, 0)


def test_prompts_of_an_eighth_of_the_rows_are_opened_ahead(model):
    """Those of questions without a row wait; when one gets its row, nothing is opened for it."""
    admission = admission_of(model, questions_of([(5, 30)], samples=1), rows=16)
    first = admission.admit()
    assert (len(first.samples), len(first.questions)) == (16, 16 + 2)
    opened = []
    for sample in first.samples[:4]:
        admission.leave(sample)
        opened.append(len(admission.admit().questions))
    assert opened == [0, 0, 3, 0]  # the third's own prompt and two ahead


def test_a_32nd_of_the_rows_must_be_free_or_all_that_is_left(model):
    admission = admission_of(model, questions_of([(5, 98)], samples=1), rows=96)
    first = admission.admit()
    free = []
    for sample in first.samples[:3]:
        free.append(admission.is_ready())
        admission.leave(sample)
    assert (free, admission.left) == ([False, False, True], 2)
    assert admission.is_ready()


def test_the_cache_bounds_rows_and_prompts_ahead(model):
    """A sample enters if its row and what must be opened fit; alone it always enters."""
    prompt = tail_size(2)
    cached = 7 + 2 * (prompt + SAMPLE)  # the block, and two samples of different questions
    admission = admission_of(model, questions_of([(7, 4)], samples=1), 8, cached)
    first = admission.admit()
    assert (len(first.samples), len(first.questions)) == (2, 2)
    assert not admission.is_ready()
    admission.leave(first.samples[0])
    assert admission.is_ready()
    tight = admission_of(model, questions_of([(7, 2)], samples=1), 8, cached=1)
    assert [len(tight.admit().samples), tight.is_ready()] == [1, False]


def test_a_prompt_ahead_leaves_room_for_the_samples_before_it(model):
    """Samples of 20 tokens, one of 200, then a long prompt: the second must not wait for it."""
    block = FewShotBlock((), 3)
    sizes = [(2, 20, 16), (2, 200, 1), (100, 20, 1)]
    questions = deque(
        Question(
            block,
            tuple(range(tail)),
            deque(Running(m, GenerateRequest((1,), tokens)) for m in range(samples)),
        )
        for tail, tokens, samples in sizes
    )
    cached = 16 * SAMPLE + 2 * tail_size(2) + row_slots(200)
    admission = admission_of(model, questions, 16, cached)
    first = admission.admit()
    assert (len(first.samples), len(first.questions)) == (16, 2)
    admission.leave(first.samples[0])
    assert admission.is_ready()


@settings(max_examples=60)
@given(
    blocks=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), min_size=1, max_size=4),
    samples=st.integers(1, 4),
    rows=st.integers(1, 40),
    cached=st.integers(1, 1500),
    data=st.data(),
)
def test_every_sample_gets_a_row_once_and_nothing_stays_held(
    model, blocks, samples, rows, cached, data
):
    admission = admission_of(model, questions_of(blocks, samples), rows, cached)
    wanted = samples * sum(count for _, count in blocks)
    seen, opened, stored = 0, [], []
    while admission.left or admission.active:
        if admission.is_ready():
            entering = admission.admit()
            assert entering.samples
            seen += len(entering.samples)
            opened += entering.questions
            stored += entering.blocks
            assert all(sample.question in opened for sample in entering.samples)
            assert admission._held <= cached or len(admission.active) == 1
        else:
            seats = sorted(admission.active)
            admission.leave(admission.active[data.draw(st.sampled_from(seats))])
    assert seen == wanted
    assert len(opened) == len(set(map(id, opened))) == wanted // samples
    assert len(stored) == len(blocks)
    assert admission._held == 0
    slabs = [*admission.cache._tails.values(), *admission.cache._segments]
    assert all(len(slab._free) == slab._places for slab in slabs)
