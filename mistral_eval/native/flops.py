"""Useful arithmetic: what a model cannot do without, in FLOP (a multiplication and an addition: 2).

Linear layers, attention over the keys that count, the LM head over the rows that are asked for;
norms, rotations and softmax are left out, as is usual, and so is what is computed and masked.
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
        linear: of a token, through the linear layers of all blocks.
        key: of one key that one token attends to, in one layer, all heads.
        row: of one row of logits.
        windows: the windows of attention, each with the layers that have it.
    """

    linear: int
    key: int
    row: int
    windows: tuple[tuple[int | None, int], ...]

    @classmethod
    def of(cls, config: ModelConfig, n_words: int) -> "Flops":
        """The model's; `n_words` are the ids it can predict."""
        queries = config.n_heads * config.head_dim
        keys = config.n_kv_heads * config.head_dim
        weights = config.dim * (2 * queries + 2 * keys + 3 * config.hidden_dim)
        return cls(
            linear=2 * weights * config.n_layers,
            key=4 * queries,  # with the query, and of the value
            row=2 * config.dim * n_words,
            windows=tuple(Counter(config.sliding_window).items()),
        )

    def tokens(self, depths: Ints) -> int:
        """Of tokens at these positions, (T,), each of which sees its sequence and itself."""
        seen = depths + 1
        return self._sum(
            len(depths),
            (
                layers * int((seen if window is None else np.minimum(seen, window)).sum())
                for window, layers in self.windows
            ),
        )

    def span(self, start: int, stop: int) -> int:
        """Of the tokens at positions `start` ... `stop - 1` of one sequence."""
        keys = (
            layers * (_keys(stop, window) - _keys(start, window)) for window, layers in self.windows
        )
        return self._sum(stop - start, keys)

    def _sum(self, tokens: int, keys: Iterable[int]) -> int:
        return self.linear * tokens + self.key * sum(keys)


def _keys(length: int, window: int | None) -> int:
    """Keys that the first `length` tokens of a sequence see, in one layer."""
    inside = length if window is None else min(length, window)
    return inside * (inside + 1) // 2 + (length - inside) * (window or 0)
