"""Rotary position embedding: each pair of elements is a complex number, turned by an angle.

Source: RoFormer (arXiv 2104.09864); pairs lie side by side, as in mistral-inference. Turning them
as complex numbers is one pass over memory where half-split pairs take eight.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rotation:
    """The turn of some tokens, complex64, (T, 1, head_dim / 2)."""

    turn: Tensor

    def __call__(self, x: Tensor, space: Tensor) -> None:
        """Turn queries or keys in place, computing in float32.

        Args:
            x: (T, heads, head_dim).
            space: x itself where it is float32, else room for as much in float32.
        """
        wide = x if space is x else space.copy_(x)
        pairs = torch.view_as_complex(wide.view(*wide.shape[:-1], -1, 2))  # (T, heads, D / 2)
        pairs.mul_(self.turn)
        if wide is not x:
            x.copy_(wide)


class RotaryTable:
    """The turns of every position up to `length`, computed once in float32."""

    def __init__(self, head_dim: int, theta: float, length: int, device: torch.device) -> None:
        """Angle of position p and pair d: p * theta ** (-2 d / head_dim)."""
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
        positions = torch.arange(length, dtype=torch.float32, device=device)
        angles = torch.outer(positions, 1.0 / theta**exponents)  # (length, head_dim / 2)
        self._turns = torch.polar(torch.ones_like(angles), angles)

    def at(self, positions: Tensor) -> Rotation:
        """The rotation of tokens at these positions, (T,)."""
        return Rotation(self._turns[positions][:, None])
