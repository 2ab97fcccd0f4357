"""Pairs judged in both orders: only consistent wins count."""

import pytest

from mistral_eval.answers.mt_bench.pair_verdicts import (
    Orders,
    Winner,
    compare_orders,
    count_orders,
    count_winners,
    pair_winner,
    read_winner,
)


def test_the_stored_pairs_read_as_stored_and_count_as_published(shared):
    import pandas as pd

    rows = pd.read_parquet(shared / "transcripts" / "chat" / "mt_bench_pairs.parquet")
    first = [read_winner(text) for text in rows.g1_judgment]
    second = [read_winner(text, exchanged=True) for text in rows.g2_judgment]
    assert first == rows.g1_winner.tolist()
    assert second == rows.g2_winner.tolist()
    games = list(zip(first, second, strict=True))
    assert list(count_orders(games).values()) == [46, 18, 9, 2]
    assert list(count_winners(games).values()) == [18, 20, 35, 2]


@pytest.mark.parametrize(
    ("text", "exchanged", "winner"),
    [
        ("Final Verdict: [[A]]", False, Winner.FIRST),
        ("Final Verdict: [[A]]", True, Winner.SECOND),
        ("Final Verdict: [[B]]", True, Winner.FIRST),
        ("[[C]]", False, Winner.TIE),
        ("[[C]]", True, Winner.TIE),
        ("Neither is good.", True, Winner.ERROR),
        ("$ERROR$", False, Winner.ERROR),
        ("[[B]], or else [[A]]", False, Winner.FIRST),
    ],
)
def test_a_winner_is_read(text, exchanged, winner):
    assert read_winner(text, exchanged=exchanged) is winner


@pytest.mark.parametrize(
    ("first", "second", "orders", "winner"),
    [
        ("model_1", "model_1", Orders.CONSISTENT, "model_1"),
        ("tie", "tie", Orders.CONSISTENT, "tie"),
        ("model_1", "model_2", Orders.CONTRADICTORY, "tie"),
        ("model_2", "tie", Orders.HALF_TIE, "tie"),
        ("error", "model_2", Orders.UNREAD, "error"),
        ("error", "error", Orders.UNREAD, "error"),
    ],
)
def test_two_orders_are_compared(first, second, orders, winner):
    for games in ((Winner(first), Winner(second)), (Winner(second), Winner(first))):
        assert compare_orders(*games) is orders
        assert pair_winner(*games) == winner
