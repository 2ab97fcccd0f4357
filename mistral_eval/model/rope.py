"""Rotary frequencies, plain and scaled to longer contexts, and the query scale of Ministral 3.

Sources: RoFormer (arXiv 2104.09864); YaRN (arXiv 2309.00071), section 3; Meta's Llama 3.1
`apply_scaling`; transformers' modeling_rope_utils.py, whose arithmetic in float32 these follow.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Position interpolation: every angle is divided by `factor`."""

    factor: float

    @property
    def amplitude(self) -> float:
        """Return the length that rotation gives to a unit vector: 1."""
        return 1.0

    def scale(self, plain: Tensor, theta: float) -> Tensor:
        """Return scaled frequencies, (head_dim / 2,), from plain ones of base `theta`."""
        del theta
        return plain / self.factor


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3.1: divide low frequencies by `factor`, keep high ones, blend those between.

    A frequency is low if its wavelength exceeds `original_context_len / low_freq_factor` tokens,
    and high if it is below `original_context_len / high_freq_factor`.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context_len: int

    @property
    def amplitude(self) -> float:
        """Return the length that rotation gives to a unit vector: 1."""
        return 1.0

    def scale(self, plain: Tensor, theta: float) -> Tensor:
        """Return scaled frequencies, (head_dim / 2,), from plain ones of base `theta`."""
        del theta
        turns = self.original_context_len * plain / (2 * math.pi)  # within the original context
        width = self.high_freq_factor - self.low_freq_factor
        kept = ((turns - self.low_freq_factor) / width).clamp(0, 1)
        return torch.lerp(plain / self.factor, plain, kept)


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN: interpolate pairs that turn less than `beta_slow` times, keep those above `beta_fast`.

    Attributes:
        factor: how many times longer than the original the context is.
        original_context_len: the context length before scaling, in tokens.
        beta_fast, beta_slow: full turns within the original context.
        amplitude: length that rotation gives to a unit vector ("attention factor").
        truncate: round the bounds between kept and interpolated pairs outward to whole pairs.
    """

    factor: float
    original_context_len: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    amplitude: float = 1.0
    truncate: bool = True

    def scale(self, plain: Tensor, theta: float) -> Tensor:
        """Return scaled frequencies, (head_dim / 2,), from plain ones of base `theta`."""
        pairs = len(plain)
        low = self._pair(self.beta_fast, pairs, theta)
        high = self._pair(self.beta_slow, pairs, theta)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, 2 * pairs - 1)
        width = high - low or 0.001  # transformers' guard against a division by zero
        index = torch.arange(pairs, dtype=torch.float32, device=plain.device)
        kept = 1 - ((index - low) / width).clamp(0, 1)
        return torch.lerp(plain / self.factor, plain, kept)

    def _pair(self, turns: float, pairs: int, theta: float) -> float:
        """Return the index, as a real number, of the pair that turns so often."""
        wavelength = self.original_context_len / turns
        return pairs * math.log(wavelength / (2 * math.pi)) / math.log(theta)


@dataclass(frozen=True, slots=True)
class DividedScaling:
    """One divisor for each pair, as GGUF files store Llama 3.1's scaling (rope_freqs.weight)."""

    divisors: tuple[float, ...]

    @property
    def amplitude(self) -> float:
        """Return the length that rotation gives to a unit vector: 1."""
        return 1.0

    def scale(self, plain: Tensor, theta: float) -> Tensor:
        """Return scaled frequencies, (head_dim / 2,), from plain ones of base `theta`."""
        del theta
        return plain / torch.tensor(self.divisors, dtype=plain.dtype, device=plain.device)


RopeScaling = LinearScaling | Llama3Scaling | YarnScaling | DividedScaling


def yarn_amplitude(factor: float, mscale: float = 0.0, mscale_all_dim: float = 0.0) -> float:
    """Return YaRN's amplitude, 0.1 ln(factor) + 1, where a configuration does not state it.

    With both `mscale` and `mscale_all_dim` it is a ratio of two such values, as in DeepSeek's
    models and Ministral 3.
    """

    def one(mscale: float) -> float:
        return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0

    if mscale and mscale_all_dim:
        return one(mscale) / one(mscale_all_dim)
    return one(1.0)


def frequencies(
    head_dim: int, theta: float, scaling: RopeScaling | None, device: torch.device | str = "cpu"
) -> Tensor:
    """Return radians per position of each rotary pair, (head_dim / 2,), float32."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    plain = 1.0 / theta**exponents
    return plain if scaling is None else scaling.scale(plain, theta)


@dataclass(frozen=True, slots=True)
class QueryScale:
    """Scale of rotated queries by position: 1 + beta * ln(1 + floor(position / length)).

    Source: transformers' modeling_ministral3.py (`llama_4_scaling_beta`).
    """

    beta: float
    original_context_len: int

    def at(self, positions: Tensor) -> Tensor:
        """Return the scales of positions, (T,), as float32."""
        blocks = torch.div(positions, self.original_context_len, rounding_mode="floor")
        return 1 + self.beta * torch.log1p(blocks.float())
