"""How fast this machine multiplies matrices: what a model's speed is a share of."""

from collections.abc import Callable
from time import perf_counter
from typing import Final

import torch

_SMALLEST: Final = 256
_LARGEST: Final = {"cpu": 2048, "cuda": 8192}


def matrix_rate(
    dtype: torch.dtype,
    device: torch.device,
    *,
    seconds: float = 0.5,
    clock: Callable[[], float] = perf_counter,
) -> float:
    """FLOP a second of square products, the best of those that fit in the time.

    They begin small and double, so that a machine that is slow in this dtype does not take longer
    than `seconds`, a single smallest product apart.

    Args:
        dtype: of the matrices.
        device: where they are multiplied.
        seconds: how long to go on, about.
        clock: seconds.

    Returns:
        The rate; 0.0 where the device cannot hold the smallest of the matrices.
    """
    size, best, begin = _SMALLEST, 0.0, clock()
    largest = _LARGEST.get(device.type, _SMALLEST)
    while True:
        try:
            left = torch.randn(size, size, device=device).to(dtype)
        except torch.OutOfMemoryError:  # the model fills the device: smaller products have to do
            return best
        spent = float("inf")
        while True:
            start = clock()
            torch.mm(left, left)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            spent = min(spent, clock() - start)
            rest = seconds - (clock() - begin)
            grows = size < largest and 16 * spent < rest  # eight times the work, and its matrix
            if grows or spent > rest:
                break
        best = max(best, 2 * size**3 / max(spent, 1e-9))
        if not grows:
            return best
        size *= 2
