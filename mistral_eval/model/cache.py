"""The rolling buffer cache: position p of a sequence is stored in slot p mod W.

Sources: Mistral 7B paper, section 2.2; mistral-inference `cache.py` for chunked prefill, where a
chunk attends to the buffer and to itself before it overwrites the buffer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from mistral_eval.model.attention import Tile, additive_mask, first_visible, visible
from mistral_eval.model.config import ModelConfig

_TILE = 256  # queries: smaller tiles reread the window's keys, larger ones compute masked scores


class RollingCache:
    """Keys and values of `rows` sequences; a layer with a window keeps W slots of each.

    Keys are stored rotated, so they never move. `lengths` counts the tokens of each row.
    """

    def __init__(
        self, config: ModelConfig, rows: int, length: int, like: Tensor, *, rolling: bool = True
    ) -> None:
        """Allocate `length` tokens per row, or the window if smaller; dtype and device as `like`.

        Without `rolling` every layer stores all tokens and still sees only its window. That is the
        full cache with which bench compares the rolling buffer.
        """
        self.windows = config.sliding_window
        self.sizes = [length if w is None or not rolling else min(w, length) for w in self.windows]
        shapes = [(rows, config.n_kv_heads, size, config.head_dim) for size in self.sizes]
        self.keys = [like.new_zeros(shape) for shape in shapes]  # (rows, Hkv, size, D)
        self.values = [like.new_zeros(shape) for shape in shapes]
        self.lengths = [0] * rows
        self.device, self.dtype = like.device, like.dtype

    @property
    def n_bytes(self) -> int:
        """Size of all buffers in bytes."""
        return sum(x.nbytes for x in (*self.keys, *self.values))

    def clear(self, row: int) -> None:
        """Empty a row."""
        self.lengths[row] = 0

    def prefill(self, row: int, count: int, tile: int = _TILE) -> "ChunkAttend":
        """Return the attention for a row's next `count` tokens, at most `tile` queries per call."""
        return ChunkAttend(self, row, count, tile)

    def step(self, rows: list[int]) -> "StepAttend":
        """Return the attention for one more token of each of these rows."""
        return StepAttend(self, rows)


class ChunkAttend:
    """A chunk of one sequence: it attends to the buffer and to itself, and is stored.

    If the buffer has room, the chunk is stored first and read in place. Otherwise it would
    overwrite keys that its first queries see, so it is stored last. Beyond the window, queries are
    computed in tiles, which cost W keys and a tile each instead of W and a chunk.

    Example: W = 3, 4 tokens cached, chunk of 2. The slots hold positions [3, 1, 2]; the queries
    are positions 4 and 5. Query 4 sees keys 2, 3, 4 and query 5 sees 3, 4, 5; afterwards the slots
    hold [3, 4, 5].
    """

    def __init__(self, cache: RollingCache, row: int, count: int, tile: int) -> None:
        self._cache, self._row = cache, row
        past = cache.lengths[row]
        self.positions = torch.arange(past, past + count, device=cache.device)
        self._past, self._end = past, past + count
        self._tiles = {window: self._cut(window, tile) for window in set(cache.windows)}

    def finish(self) -> None:
        """Update the row's length after all layers."""
        self._cache.lengths[self._row] = self._end

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Compute attention over the buffer and the chunk; store the chunk's keys and values."""
        size = self._cache.sizes[layer]
        tiles = self._tiles[self._cache.windows[layer]]
        own_k, own_v = k.transpose(0, 1), v.transpose(0, 1)  # (Hkv, t, D)
        stored_k, stored_v = (x[layer][self._row] for x in (self._cache.keys, self._cache.values))
        if self._end <= size:
            stored_k[:, self._past : self._end] = own_k
            stored_v[:, self._past : self._end] = own_v
            return self._attend(q, stored_k, stored_v, tiles)
        out = self._attend(
            q, self._joined(stored_k, own_k), self._joined(stored_v, own_v), tiles, size
        )
        slots = self.positions[-size:] % size
        stored_k[:, slots] = own_k[:, -size:]
        stored_v[:, slots] = own_v[:, -size:]
        return out

    def _attend(
        self,
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        tiles: Sequence[Tile],
        size: int | None = None,
    ) -> Tensor:
        """Attend tile by tile; key 0 is position 0, or the oldest of a buffer of `size` slots."""
        first = 0 if size is None else self._past - min(self._past, size)
        out = torch.empty_like(q)
        for tile in tiles:
            tile.attend(out, q, keys, values, first)
        return out

    def _joined(self, stored: Tensor, own: Tensor) -> Tensor:
        """Return the buffer in the order of positions, then the chunk: (Hkv, filled + t, D)."""
        size = stored.shape[1]
        if self._past < size:
            return torch.cat([stored[:, : self._past], own], dim=1)
        oldest = self._past % size
        return torch.cat([stored[:, oldest:], stored[:, :oldest], own], dim=1)

    def _cut(self, window: int | None, tile: int) -> list[Tile]:
        """Return tiles, a single one if the window hides nothing; equal tiles share a mask."""
        if window is None or self._end <= window:
            tile = self._end - self._past
        masks: dict[tuple[int, int], Tensor] = {}
        tiles = []
        for start in range(self._past, self._end, tile):
            count = min(tile, self._end - start)
            low = first_visible(start, window)
            kind = (start - low, count)
            if kind not in masks:
                masks[kind] = self._mask(*kind, window)
            row = start - self._past
            tiles.append(Tile(slice(row, row + count), low, masks[kind]))
        return tiles

    def _mask(self, before: int, count: int, window: int | None) -> Tensor:
        """Return the mask of `count` queries over `before` older keys and their own."""
        cache = self._cache
        keys = torch.arange(before + count, device=cache.device)
        if window is not None and before + count > window:
            return additive_mask(visible(keys[before:], keys, window), cache.dtype)
        mask = torch.zeros(count, before + count, dtype=cache.dtype, device=cache.device)
        own = visible(keys[before:], keys[before:], None)  # every query sees all older keys
        mask[:, before:] = additive_mask(own, cache.dtype)
        return mask


@dataclass(frozen=True, slots=True)
class _View:
    """The slots that a step sees in layers with one window: from `low` on, with a mask."""

    low: int
    mask: Tensor  # (B, 1, 1, slots seen)


class StepAttend:
    """One token of each of several sequences: it is stored, then attends to the filled slots."""

    def __init__(self, cache: RollingCache, rows: list[int]) -> None:
        self._cache = cache
        self._rows = torch.tensor(rows, device=cache.device)
        # Adjacent rows are read in place; others are gathered, which copies all their keys.
        adjacent = rows == list(range(rows[0], rows[0] + len(rows)))
        self._read = slice(rows[0], rows[0] + len(rows)) if adjacent else self._rows
        self._lengths = [cache.lengths[row] for row in rows]
        self._counted = list(rows)
        self.positions = torch.tensor(self._lengths, device=cache.device)
        kinds = set(zip(cache.windows, cache.sizes, strict=True))
        self._views = {window: self._view(window, size) for window, size in kinds}

    def finish(self) -> None:
        """Update the rows' lengths after all layers."""
        for row in self._counted:
            self._cache.lengths[row] += 1

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Compute attention of one query per row, (B, n_heads, head_dim), over the row's slots."""
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        slots = self.positions % self._cache.sizes[layer]
        keys[self._rows, :, slots] = k
        values[self._rows, :, slots] = v
        view = self._views[self._cache.windows[layer]]
        seen = slice(view.low, view.low + view.mask.shape[-1])
        batch, n_heads, head_dim = q.shape
        out = scaled_dot_product_attention(
            q.view(batch, k.shape[1], -1, head_dim),  # (B, Hkv, rep, D): rep queries per key head
            keys[self._read][:, :, seen],
            values[self._read][:, :, seen],
            attn_mask=view.mask,
        )
        return out.reshape(batch, n_heads, head_dim)

    def _view(self, window: int | None, size: int) -> _View:
        # In a buffer of the window's size every filled slot is visible. A full cache stores
        # position p in slot p, and its first slots may be outside the window.
        filled = torch.tensor([min(length + 1, size) for length in self._lengths])
        oldest = [0 if size == window else first_visible(n, window) for n in self._lengths]
        low = min(oldest)
        slots = torch.arange(low, int(filled.max()))
        seen = (slots < filled[:, None]) & (slots >= torch.tensor(oldest)[:, None])
        mask = additive_mask(seen.to(self._cache.device), self._cache.dtype)
        return _View(low, mask[:, None, None])
