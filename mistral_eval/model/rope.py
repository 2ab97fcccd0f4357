"""Rotary position embedding in the half-split layout of Hugging Face's checkpoints.

Source: RoFormer (arXiv 2104.09864); `apply_rotary_pos_emb` of transformers fixes the layout:
element d is paired with element d + head_dim / 2.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rotation:
    """Cosines and sines of some tokens' angles, float32, (T, 1, head_dim / 2) each."""

    cos: Tensor
    sin: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Turn queries or keys, (T, heads, head_dim), computing in float32."""
        left, right = x.float().chunk(2, dim=-1)  # (T, heads, head_dim / 2)
        turned = (left * self.cos - right * self.sin, right * self.cos + left * self.sin)
        return torch.cat(turned, dim=-1).to(x.dtype)


class RotaryTable:
    """The angles of every position up to `length`, computed once in float32."""

    def __init__(self, head_dim: int, theta: float, length: int, device: torch.device) -> None:
        """Angle of position p and pair d: p * theta ** (-2 d / head_dim)."""
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
        positions = torch.arange(length, dtype=torch.float32, device=device)
        angles = torch.outer(positions, 1.0 / theta**exponents)  # (length, head_dim / 2)
        self._cos, self._sin = angles.cos(), angles.sin()

    def at(self, positions: Tensor) -> Rotation:
        """The rotation of tokens at these positions, (T,)."""
        return Rotation(self._cos[positions][:, None], self._sin[positions][:, None])
