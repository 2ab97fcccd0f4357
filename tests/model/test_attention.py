"""The window's arithmetic: W keys, the query's own included."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from mistral_eval.model.attention import additive_mask, first_visible, visible


def test_a_window_of_three_sees_three_keys():
    """Figure 1 of the paper: itself and the two before."""
    positions = torch.arange(5)

    assert visible(positions, positions, 3).int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 1, 1, 1, 0],
        [0, 0, 1, 1, 1],
    ]


def test_empty_slots_are_seen_by_nobody():
    assert visible(torch.tensor([4]), torch.tensor([-1, 2]), None).tolist() == [[False, True]]


@given(position=st.integers(0, 60), window=st.none() | st.integers(1, 20))
def test_first_visible_is_the_first_key_that_the_mask_lets_through(position, window):
    seen = visible(torch.tensor([position]), torch.arange(position + 1), window)[0]

    assert int(seen.int().argmax()) == first_visible(position, window)


def test_a_mask_adds_nothing_where_seen_and_minus_infinity_elsewhere():
    mask = additive_mask(torch.tensor([[True, False]]), torch.bfloat16)

    assert [[0.0, float("-inf")]] == mask.tolist()
