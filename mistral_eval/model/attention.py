"""Grouped-query attention, the masks of a sliding window, and the interface to its callers.

Sources: GQA (arXiv 2305.13245): query head h reads key head h // (n_heads / n_kv_heads). Mistral 7B
paper, section 2.1: with a window W, query i sees the W keys j with i - W < j <= i.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


class Attend(Protocol):
    """Attention of one forward pass: stores new keys and values and answers the queries.

    The transformer runs its linear layers over all tokens of a pack and does not know how they form
    sequences; its caller passes an `Attend` that does. One that is told whose hidden states are
    asked leaves the last layer's results of the others undefined: `Transformer.hidden` needs the
    same rows.
    """

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend with rotated q (T, n_heads, D), k and v (T, n_kv_heads, D); return q's shape."""


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute softmax attention of n queries over s keys.

    Key heads are the batch and the query heads that share one its heads, so that keys and values
    are read in place and not repeated.

    Args:
        q: (n, n_heads, head_dim).
        k: (n_kv_heads, s, head_dim), any strides.
        v: as k.
        mask: added to the scores, (n, s); None is causal and needs s == n.

    Returns:
        (n, n_heads, head_dim)
    """
    n, n_heads, head_dim = q.shape
    n_kv_heads, s, _ = k.shape
    assert mask is not None or s == n, f"causal attention needs as many keys as queries: {s}, {n}"
    repeats = n_heads // n_kv_heads
    grouped = q.view(n, n_kv_heads, repeats, head_dim).permute(1, 2, 0, 3)  # (Hkv, rep, n, D)
    shape = (n_kv_heads, repeats, s, head_dim)
    out = scaled_dot_product_attention(
        grouped,
        k[:, None].expand(shape),
        v[:, None].expand(shape),
        attn_mask=mask,
        is_causal=mask is None,
    )
    return out.permute(2, 0, 1, 3).reshape(n, n_heads, head_dim)


@dataclass(frozen=True, slots=True)
class Tile:
    """Consecutive queries that attend together.

    Attributes:
        rows: the queries' rows.
        low: the first position that one of them sees.
        mask: added to the scores, (queries, keys from `low` on).
    """

    rows: slice
    low: int
    mask: Tensor

    def attend(self, out: Tensor, q: Tensor, k: Tensor, v: Tensor, first: int = 0) -> None:
        """Write the queries' attention to their rows of `out`.

        Args:
            out: as q.
            q: (T, n_heads, head_dim).
            k: (n_kv_heads, s, head_dim), any strides.
            v: as k.
            first: the position of key 0.
        """
        low = self.low - first
        seen = slice(low, low + self.mask.shape[1])
        out[self.rows] = attention(q[self.rows], k[:, seen], v[:, seen], self.mask)


class SequencesAttend:
    """Several whole sequences in one pack, each seeing only itself: the plain path."""

    def __init__(
        self,
        lengths: list[int],
        windows: tuple[int | None, ...],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Take the windows by layer, and dtype and device of queries and keys."""
        self._lengths = lengths
        self._windows = windows
        self._masks: dict[tuple[int, int], Tensor] = {}
        self._device, self._dtype = device, dtype

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Compute attention within each sequence."""
        window = self._windows[layer]
        parts = zip(*(torch.split(x, self._lengths) for x in (q, k, v)), strict=True)
        return torch.cat(
            [
                attention(
                    q_part,
                    k_part.transpose(0, 1),
                    v_part.transpose(0, 1),
                    self._mask(len(q_part), window),
                )
                for q_part, k_part, v_part in parts
            ]
        )

    def _mask(self, length: int, window: int | None) -> Tensor | None:
        if window is None or window >= length:
            return None
        if (length, window) not in self._masks:
            positions = torch.arange(length, device=self._device)
            seen = visible(positions, positions, window)
            self._masks[length, window] = additive_mask(seen, self._dtype)
        return self._masks[length, window]


def visible(query_positions: Tensor, key_positions: Tensor, window: int | None) -> Tensor:
    """Compute which keys each query sees, for queries and keys of one sequence.

    Args:
        query_positions: absolute positions, (n,).
        key_positions: absolute positions, (s,); -1 marks an empty slot, which no query sees.
        window: number of keys seen, the query's own included; None for all.

    Returns:
        Booleans, (n, s).
    """
    queries, keys = query_positions[:, None], key_positions[None, :]
    seen = (keys <= queries) & (keys >= 0)
    return seen if window is None else seen & (keys > queries - window)


def first_visible(position: int, window: int | None) -> int:
    """Return the smallest position that a query at `position` sees."""
    return 0 if window is None else max(0, position - window + 1)


def additive_mask(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert booleans to a mask added to attention scores: 0 where seen, else -inf."""
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill_(~seen, float("-inf"))
