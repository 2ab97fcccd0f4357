"""Items are read in order, one ahead, and a walk that ends early spoils no later one."""

import threading

import pytest
import torch

from mistral_eval.model.read_ahead import ReadAhead

CPU = torch.device("cpu")


def test_every_walk_reads_every_item_in_order():
    seen: list[int] = []

    def read(n: int) -> int:
        seen.append(n)
        return 10 * n

    items = ReadAhead(3, read, CPU)
    assert [list(items) for _ in range(3)] == [[0, 10, 20]] * 3
    assert seen[:9] == [0, 1, 2] * 3  # the tenth may have begun


def test_the_next_item_is_read_while_one_is_in_use():
    begun = [threading.Event() for _ in range(3)]

    def read(n: int) -> int:
        begun[n].set()
        return n

    for n in ReadAhead(3, read, CPU):
        assert begun[(n + 1) % 3].wait(timeout=30)


def test_no_more_than_the_item_in_use_and_the_next_are_read():
    """The reader starts on an item only after the one before it was asked for."""
    asked = 1

    def read(n: int) -> int:
        assert n <= asked
        return n

    for n in ReadAhead(50, read, CPU):
        asked = n + 2


@pytest.mark.parametrize("end", [0, 1, 2])
def test_a_walk_that_ends_early_spoils_no_later_one(end):
    items = ReadAhead(3, lambda n: n, CPU)
    for n in items:
        if n == end:
            break
    assert list(items) == [0, 1, 2]


def test_a_failure_is_raised_where_the_item_is_due_and_not_kept():
    broken = {1}

    def read(n: int) -> int:
        if n in broken:
            raise OSError("the disk is gone")
        return n

    items = ReadAhead(3, read, CPU)
    walk = iter(items)
    assert next(walk) == 0
    with pytest.raises(OSError, match="the disk is gone"):
        next(walk)
    broken.clear()
    assert list(items) == [0, 1, 2]
