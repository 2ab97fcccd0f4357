"""The rolling buffer cache: position p of a sequence lives in slot p mod W.

Source: Mistral 7B paper, section 2.2; mistral-inference `cache.py` for chunked prefill, where a
chunk attends to the buffer and to itself before it overwrites the buffer.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from mistral_eval.model.attention import attention
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.window import additive_mask, slot_positions, visible


class RollingCache:
    """Keys and values of `rows` sequences; a layer with a window keeps W slots of each.

    Keys are stored rotated, so they never move. `lengths` says how many tokens went through each
    row; `clear` makes a row empty again.
    """

    def __init__(self, config: ModelConfig, rows: int, length: int, like: Tensor) -> None:
        """Room for `length` tokens a row, fewer where the window allows; device as `like`."""
        self.windows = config.sliding_window
        self.sizes = [length if w is None else min(w, length) for w in self.windows]
        shapes = [(rows, config.n_kv_heads, size, config.head_dim) for size in self.sizes]
        self.keys = [like.new_zeros(shape) for shape in shapes]  # (rows, Hkv, size, D)
        self.values = [like.new_zeros(shape) for shape in shapes]
        self.lengths = [0] * rows
        self.device, self.dtype = like.device, like.dtype

    @property
    def n_bytes(self) -> int:
        """Memory of all buffers, in bytes."""
        return sum(x.nbytes for x in (*self.keys, *self.values))

    def clear(self, row: int) -> None:
        """Forget a row's sequence."""
        self.lengths[row] = 0

    def prefill(self, row: int, count: int) -> "ChunkAttend":
        """The next `count` tokens of one row."""
        return ChunkAttend(self, row, count)

    def step(self, rows: list[int]) -> "StepAttend":
        """One more token of each of these rows."""
        return StepAttend(self, rows)


class ChunkAttend:
    """A chunk of one sequence: sees the buffer and itself, then goes into the buffer.

    Example: W = 3, 4 tokens cached, chunk of 2. The slots hold positions [3, 1, 2]; the queries
    are positions 4 and 5. Query 4 sees keys 2, 3, 4 and query 5 sees 3, 4, 5; afterwards the slots
    hold [3, 4, 5].
    """

    def __init__(self, cache: RollingCache, row: int, count: int) -> None:
        self._cache, self._row = cache, row
        past = cache.lengths[row]
        self.positions = torch.arange(past, past + count, device=cache.device)
        self._past = past
        self._masks = {size: self._mask(size, w) for size, w in self._kinds()}

    def finish(self) -> None:
        """Count the tokens, once all layers have seen them."""
        self._cache.lengths[self._row] += len(self.positions)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention over the buffer and the chunk's own keys, which are then stored."""
        size = self._cache.sizes[layer]
        filled = min(self._past, size)
        own_k, own_v = k.transpose(0, 1), v.transpose(0, 1)  # (Hkv, t, D)
        keys, values = self._cache.keys[layer][self._row], self._cache.values[layer][self._row]
        out = attention(
            q,
            torch.cat([keys[:, :filled], own_k], dim=1),
            torch.cat([values[:, :filled], own_v], dim=1),
            self._masks[size],
        )
        slots = self.positions[-size:] % size
        keys[:, slots] = own_k[:, -size:]
        values[:, slots] = own_v[:, -size:]
        return out

    def _kinds(self) -> set[tuple[int, int | None]]:
        return set(zip(self._cache.sizes, self._cache.windows, strict=True))

    def _mask(self, size: int, window: int | None) -> Tensor:
        held = slot_positions(self._past, size)[: min(self._past, size)].to(self._cache.device)
        key_positions = torch.cat([held, self.positions])
        return additive_mask(visible(self.positions, key_positions, window), self._cache.dtype)


class StepAttend:
    """One token of each of several sequences: written first, then seen with the filled slots."""

    def __init__(self, cache: RollingCache, rows: list[int]) -> None:
        self._cache = cache
        self._rows = torch.tensor(rows, device=cache.device)
        self._lengths = [cache.lengths[row] for row in rows]
        self._counted = list(rows)
        self.positions = torch.tensor(self._lengths, device=cache.device)
        self._masks = {size: self._mask(size) for size in set(cache.sizes)}

    def finish(self) -> None:
        """Count the tokens, once all layers have seen them."""
        for row in self._counted:
            self._cache.lengths[row] += 1

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of each row's one query, (B, n_heads, head_dim), over its own slots."""
        size = self._cache.sizes[layer]
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        slots = self.positions % size
        keys[self._rows, :, slots] = k
        values[self._rows, :, slots] = v
        mask = self._masks[size]  # (B, 1, 1, filled)
        filled = mask.shape[-1]
        batch, n_heads, head_dim = q.shape
        out = scaled_dot_product_attention(
            q.view(batch, k.shape[1], -1, head_dim),  # (B, Hkv, rep, D): rep queries a key head
            keys[self._rows, :, :filled],
            values[self._rows, :, :filled],
            attn_mask=mask,
        )
        return out.reshape(batch, n_heads, head_dim)

    def _mask(self, size: int) -> Tensor:
        # All slots hold the last `size` <= W positions, so a filled slot is a visible one.
        filled = torch.tensor([min(length + 1, size) for length in self._lengths])
        seen = torch.arange(int(filled.max()))[None, :] < filled[:, None]
        return additive_mask(seen.to(self._cache.device), self._cache.dtype)[:, None, None]
