"""Cache keys and values in three levels: a root for all, a tail per question, a ring per sample.

Shared tokens are stored once and read in place. Each level gives a partial softmax; the parts are
merged by their maxima and sums, as FlashAttention (arXiv 2205.14135) merges blocks. Rings are
rolling buffers, so a layer with a window W needs at most W slots per sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from mistral_eval.model.attention import additive_mask, attention, first_visible, visible
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.memory import sent
from mistral_eval.model.transformer import Transformer


@dataclass(frozen=True, slots=True)
class Room:
    """Size of a cache: questions, samples per question, and tokens of each level."""

    questions: int
    samples: int
    root: int
    tail: int
    new: int


def cache_bytes(config: ModelConfig, room: Room, dtype: torch.dtype) -> int:
    """Return the bytes of a cache of this size: keys and values of all layers."""
    shared = room.root + room.questions * room.tail
    cells = room.questions * room.samples
    rings = (room.new if w is None else min(w, room.new) for w in config.sliding_window)
    tokens = sum(shared + cells * size for size in rings)
    return 2 * config.n_kv_heads * config.head_dim * tokens * dtype.itemsize


class SharedCache:
    """Storage of the three levels, filled by `PrefillAttend` and `CellsAttend`.

    A sample has the *cell* `question * room.samples + sample`. Keys are rotated. Per layer: root
    (Hkv, root, D), tails (questions, Hkv, tail, D), rings (cells, Hkv, min(W, new), D).
    """

    def __init__(self, model: Transformer, room: Room) -> None:
        self.room = room
        self.windows = model.config.sliding_window
        self.dtype, self.device = model.dtype, model.device
        self.n_cells = room.questions * room.samples
        heads, head_dim = model.config.n_kv_heads, model.config.head_dim
        self.ring_sizes = [room.new if w is None else min(w, room.new) for w in self.windows]

        def pair(*shape: int) -> tuple[Tensor, Tensor]:
            keys = torch.zeros(*shape, head_dim, dtype=self.dtype, device=self.device)
            return keys, torch.zeros_like(keys)

        self.root = [pair(heads, room.root) for _ in self.windows]
        self.tails = [pair(room.questions, heads, room.tail) for _ in self.windows]
        self.rings = [pair(self.n_cells, heads, size) for size in self.ring_sizes]
        self.tail_lengths = torch.zeros(room.questions, dtype=torch.int64)
        self.new_lengths = torch.zeros(self.n_cells, dtype=torch.int64)

    def start_question(self, question: int, length: int) -> None:
        """Replace a question by a new one whose tail has `length` tokens."""
        self.tail_lengths[question] = length
        cells = slice(question * self.room.samples, (question + 1) * self.room.samples)
        self.new_lengths[cells] = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of tokens to prefill, of a question's tail, or of the root if `question` is None."""

    question: int | None
    start: int
    count: int


class PrefillAttend:
    """Several pieces in one pack; each attends to the root and its tail, and is stored."""

    def __init__(self, cache: SharedCache, pieces: Sequence[Piece]) -> None:
        self._cache = cache
        self._pieces = pieces
        self._masks = {w: [self._mask(p, w) for p in pieces] for w in set(cache.windows)}
        self.positions = torch.cat([self._positions(piece) for piece in pieces])

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store each piece's keys and values, then compute its attention."""
        window = self._cache.windows[layer]
        out, row = torch.empty_like(q), 0
        for piece, mask in zip(self._pieces, self._masks[window], strict=True):
            rows = slice(row, row + piece.count)
            row += piece.count
            keys, values = (
                self._stored(piece, layer, level, x[rows]) for level, x in enumerate((k, v))
            )
            low = keys.shape[1] - mask.shape[1]
            out[rows] = attention(q[rows], keys[:, low:], values[:, low:], mask)
        return out

    def _stored(self, piece: Piece, layer: int, which: int, new: Tensor) -> Tensor:
        """Store new keys (`which` 0) or values (1); return all the piece may see, (Hkv, s, D)."""
        end = piece.start + piece.count
        root = self._cache.root[layer][which]
        own = root if piece.question is None else self._cache.tails[layer][which][piece.question]
        own[:, piece.start : end] = new.transpose(0, 1)
        seen = own[:, :end]
        if piece.question is None or not root.shape[1]:
            return seen
        return torch.cat([root, seen], dim=1)

    def _first(self, piece: Piece) -> int:
        return piece.start + (0 if piece.question is None else self._cache.room.root)

    def _positions(self, piece: Piece) -> Tensor:
        first = self._first(piece)
        return torch.arange(first, first + piece.count, device=self._cache.device)

    def _mask(self, piece: Piece, window: int | None) -> Tensor:
        queries = self._positions(piece)
        first = self._first(piece)
        low = first_visible(first, window)
        keys = torch.arange(low, first + piece.count, device=queries.device)
        return additive_mask(visible(queries, keys, window), self._cache.dtype)


class Partial(NamedTuple):
    """Softmax attention over some of the keys, before division by the sum of weights."""

    out: Tensor  # (cells, Hkv, rep, D), float32
    top: Tensor  # largest score, (cells, Hkv, rep, 1)
    total: Tensor  # sum of exp(score - top), as top


def partial(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Partial:
    """Attend with scaled queries (..., n, D) to keys (..., s, D); an empty row has weight 0."""
    scores = torch.matmul(q, k.transpose(-1, -2)).float()
    if mask is not None:
        scores += mask
    top = scores.amax(dim=-1, keepdim=True).clamp_min_(torch.finfo(torch.float32).min)
    weights = scores.sub_(top).exp_()
    total = weights.sum(dim=-1, keepdim=True)
    return Partial(torch.matmul(weights.to(v.dtype), v).float(), top, total)


def merged(left: Partial, right: Partial) -> Partial:
    """Merge attention over two disjoint sets of keys."""
    top = torch.maximum(left.top, right.top)
    a, b = (left.top - top).exp_(), (right.top - top).exp_()
    return Partial(left.out * a + right.out * b, top, left.total * a + right.total * b)


@dataclass(frozen=True, slots=True)
class _Masks:
    """Masks added to the scores of each level; None if every key is seen."""

    root: Tensor | None  # (cells * rep, root)
    tail: Tensor  # (questions, 1, samples * rep, longest tail in use)
    ring: Tensor  # (cells, 1, 1, slots in use)


class CellsAttend:
    """One more token of some cells: it is stored in its ring and attends to all three levels."""

    def __init__(self, cache: SharedCache, cells: Sequence[int], repeats: int) -> None:
        """Take ascending `cells`; `repeats` is n_heads / n_kv_heads."""
        self._cache = cache
        self._cells = torch.tensor(cells)
        self._repeats = repeats
        tails = cache.tail_lengths.repeat_interleave(cache.room.samples)
        self._at = cache.room.root + tails + cache.new_lengths  # every cell's position
        self.positions = sent(self._at[self._cells], cache.device)
        kinds = set(zip(cache.windows, cache.ring_sizes, strict=True))
        self._masks = {kind: self._mask(*kind) for kind in kinds}
        self._rows = sent(self._cells, cache.device)
        written = cache.new_lengths[self._cells]
        self._slots = {size: sent(written % size, cache.device) for size in set(cache.ring_sizes)}
        self._is_full = len(cells) == cache.n_cells  # then `cells` is 0, 1, 2, ...

    def finish(self) -> None:
        """Update the cells' lengths after all layers."""
        self._cache.new_lengths[self._cells] += 1

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Compute attention of the cells' queries, (B, n_heads, D), on a grid of all cells."""
        cache, shape = self._cache, q.shape
        size = cache.ring_sizes[layer]
        masks = self._masks[cache.windows[layer], size]
        keys, values = cache.rings[layer]
        slots = self._slots[size]
        keys[self._rows, :, slots] = k
        values[self._rows, :, slots] = v
        grid = q * shape[-1] ** -0.5
        if not self._is_full:
            grid = q.new_zeros(cache.n_cells, *shape[1:]).index_copy_(0, self._rows, grid)
        grouped = grid.view(cache.n_cells, k.shape[1], self._repeats, shape[-1])
        levels = [self._tails(layer, grouped, masks.tail)]
        filled = masks.ring.shape[-1]
        levels.append(partial(grouped, keys[:, :, :filled], values[:, :, :filled], masks.ring))
        if cache.room.root:
            levels.append(self._root(layer, grouped, masks.root))
        whole = reduce(merged, levels)
        out = whole.out / whole.total
        return (out if self._is_full else out[self._rows]).reshape(shape).to(q.dtype)

    def _root(self, layer: int, grouped: Tensor, mask: Tensor | None) -> Partial:
        """Attend to the root with all cells' queries in one product."""
        cells, heads, repeats, head_dim = grouped.shape
        q = grouped.transpose(0, 1).reshape(heads, cells * repeats, head_dim)
        parts = partial(q, *self._cache.root[layer], mask)
        return Partial(*(x.view(heads, cells, repeats, -1).transpose(0, 1) for x in parts))

    def _tails(self, layer: int, grouped: Tensor, mask: Tensor) -> Partial:
        """Attend to each question's tail with all its samples in one product."""
        cells, heads, repeats, head_dim = grouped.shape
        room = self._cache.room
        split = (room.questions, room.samples, heads, repeats, -1)
        q = grouped.view(split).transpose(1, 2)  # (Q, Hkv, samples, rep, D)
        keys, values = (x[:, :, : mask.shape[-1]] for x in self._cache.tails[layer])
        parts = partial(q.reshape(room.questions, heads, -1, head_dim), keys, values, mask)
        joined = (room.questions, heads, room.samples, repeats, -1)
        return Partial(
            *(x.view(joined).transpose(1, 2).reshape(cells, heads, repeats, -1) for x in parts)
        )

    def _mask(self, window: int | None, size: int) -> _Masks:
        cache, room = self._cache, self._cache.room
        longest = int(cache.tail_lengths.max())
        tail = torch.arange(longest)
        in_tail = (tail < cache.tail_lengths[:, None])[:, None, :]  # (Q, 1, tail)
        in_tail = in_tail.expand(-1, room.samples, -1)
        root = None
        if window is not None:
            low = (self._at - window).view(room.questions, room.samples, 1)  # later keys are seen
            in_tail = in_tail & (tail + room.root > low)
            if int(low.max()) >= 0:
                root = torch.arange(room.root) > low.view(-1, 1)
        filled = (cache.new_lengths + 1).clamp_max(size)
        in_ring = torch.arange(int(filled[self._cells].max())) < filled[:, None]
        return _Masks(
            None if root is None else self._added(root.repeat_interleave(self._repeats, dim=0)),
            self._added(in_tail.repeat_interleave(self._repeats, dim=1)[:, None]),
            self._added(in_ring[:, None, None]),
        )

    def _added(self, seen: Tensor) -> Tensor:
        return additive_mask(sent(seen, self._cache.device), torch.float32)
