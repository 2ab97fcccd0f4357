"""Requests are cut on the left exactly as lm-eval cuts them."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mistral_eval.errors import EngineError
from mistral_eval.native.requests import (
    GenerateRequest,
    ScoreRequest,
    truncate_left,
    truncate_prompt,
)

ids = st.lists(st.integers(0, 99), min_size=1, max_size=30).map(tuple)


@given(context=ids, continuation=ids, max_length=st.integers(1, 70))
def test_what_is_fed_is_what_lm_eval_feeds(context, continuation, max_length):
    """Its rule: (context + continuation)[-(max_length + 1):][:-1]."""
    assume(len(continuation) <= max_length)
    cut, was_cut = truncate_left(ScoreRequest(context, continuation), max_length)

    whole = context + continuation
    assert (cut.context + cut.continuation)[:-1] == whole[-(max_length + 1) :][:-1]
    assert cut.continuation == continuation
    assert was_cut == (len(whole) > max_length + 1)


def test_a_continuation_longer_than_the_context_is_refused():
    with pytest.raises(EngineError, match="a continuation of 5 tokens does not fit a context of 4"):
        truncate_left(ScoreRequest((1,), (2, 3, 4, 5, 6)), 4)


@given(prompt=ids, max_tokens=st.integers(0, 20), max_length=st.integers(21, 60))
def test_a_prompt_leaves_room_for_the_new_tokens(prompt, max_tokens, max_length):
    cut, was_cut = truncate_prompt(GenerateRequest(prompt, max_tokens, key="k"), max_length)

    assert cut == GenerateRequest(prompt[-(max_length - max_tokens) :], max_tokens, key="k")
    assert was_cut == (len(prompt) > max_length - max_tokens)


def test_new_tokens_that_fill_the_context_are_refused():
    with pytest.raises(EngineError, match="8 new tokens leave no room"):
        truncate_prompt(GenerateRequest((1,), 8), 8)
