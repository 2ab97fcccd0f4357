"""Count useful arithmetic in FLOP; a multiplication with its addition counts 2.

Counted are linear layers, attention over visible keys, and the LM head over asked rows. Norms,
rotations and softmax are left out, as usual, and so are masked scores.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mistral_eval.model.config import ModelConfig
from mistral_eval.native.tree import Ints


@dataclass(frozen=True, slots=True)
class Flops:
    """FLOP of one model.

    Attributes:
        linear: per token, the linear layers of all blocks.
        key: per key that a token attends to, in one layer with all heads.
        row: per row of logits.
        windows: each attention window with the number of layers that have it.
    """

    linear: int
    key: int
    row: int
    windows: tuple[tuple[int | None, int], ...]

    @classmethod
    def of(cls, config: ModelConfig, n_words: int) -> "Flops":
        """Return the FLOP of a model that can predict `n_words` ids."""
        queries = config.n_heads * config.head_dim
        keys = config.n_kv_heads * config.head_dim
        weights = config.dim * (2 * queries + 2 * keys + 3 * config.hidden_dim)
        return cls(
            linear=2 * weights * config.n_layers,
            key=4 * queries,  # product with the query, and sum of values
            row=2 * config.dim * n_words,
            windows=tuple(Counter(config.sliding_window).items()),
        )

    def tokens(self, depths: Ints) -> int:
        """Return the FLOP of tokens at these positions, (T,), each seeing its prefix and itself."""
        seen = depths + 1
        return self._sum(
            len(depths),
            (
                layers * int((seen if window is None else np.minimum(seen, window)).sum())
                for window, layers in self.windows
            ),
        )

    def span(self, start: int, stop: int) -> int:
        """Return the FLOP of positions `start` ... `stop - 1` of one sequence."""
        keys = (
            layers * (_keys(stop, window) - _keys(start, window)) for window, layers in self.windows
        )
        return self._sum(stop - start, keys)

    def _sum(self, tokens: int, keys: Iterable[int]) -> int:
        return self.linear * tokens + self.key * sum(keys)


def _keys(length: int, window: int | None) -> int:
    """Return how many keys the first `length` tokens of a sequence see in one layer."""
    inside = length if window is None else min(length, window)
    return inside * (inside + 1) // 2 + (length - inside) * (window or 0)
