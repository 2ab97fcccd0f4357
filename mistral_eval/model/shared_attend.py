"""Attend to shared roots and tails and to each row's own tokens, without copying what is shared.

The scores of all three lie side by side in one matrix, so that one softmax joins them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, TypeAlias

import torch
from torch import Tensor

from mistral_eval.model.attention import Tile, additive_mask, first_visible, visible
from mistral_eval.model.memory import sent
from mistral_eval.model.shared_cache import (
    Prompt,
    Root,
    Row,
    SharedCache,
    Slab,
    segment_of,
    segment_start,
)

# Numbers of keys and of places are rounded up, so that products have few different shapes: oneDNN
# compiles and keeps a kernel for each. What is added is masked, or not looked at. Few places are
# rounded up to a power of two: a reply that is alone does not read eight.
_KEYS: Final = 16
_PLACES: Final = 8
# Queries of a prompt that attend together: keys behind the last of them are not multiplied.
_QUERIES: Final = 128


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of tokens to prefill, of a prompt's tail or of a root."""

    owner: Prompt | Root
    start: int
    count: int

    @property
    def first(self) -> int:
        """The position of the first token."""
        return self.start + (self.owner.root.length if isinstance(self.owner, Prompt) else 0)


class PrefillAttend:
    """Several pieces in one pack; each attends to its root and its tail, and is stored."""

    def __init__(self, cache: SharedCache, pieces: Sequence[Piece], asked: Sequence[bool]) -> None:
        """Take pieces.

        Args:
            cache: holds their owners.
            pieces: runs of tokens, in the order of the pack.
            asked: for each piece, whether its last token's hidden state is asked. The last layer
                attends for these tokens alone; its results for the others are not defined.
        """
        self._cache = cache
        self._pieces = pieces
        ends = list(accumulate(piece.count for piece in pieces))
        self._rows = [slice(end - p.count, end) for p, end in zip(pieces, ends, strict=True)]
        placed = list(zip(pieces, self._rows, strict=True))
        last = cache.windows[-1]
        self._tiles = {w: [self._cut(*one, w) for one in placed] for w in set(cache.windows[:-1])}
        self._last = [
            [self._tile(*one, one[0].count - 1, one[0].count, last)] if is_asked else []
            for one, is_asked in zip(placed, asked, strict=True)
        ]
        positions = [self._positions(piece, 0, piece.count) for piece in pieces]
        self.positions = torch.cat(positions)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store each piece's keys and values, then compute its attention."""
        windows = self._cache.windows
        is_last = layer == len(windows) - 1
        plan = self._last if is_last else self._tiles[windows[layer]]
        out = torch.empty_like(q)
        for piece, rows, tiles in zip(self._pieces, self._rows, plan, strict=True):
            keys, values = self._stored(piece, layer, k[rows], v[rows])
            for tile in tiles:
                tile.attend(out, q, keys, values)
        return out

    def _cut(self, piece: Piece, rows: slice, window: int | None) -> list[Tile]:
        """Cut a piece's queries into tiles."""
        starts = range(0, piece.count, _QUERIES)
        ends = (min(start + _QUERIES, piece.count) for start in starts)
        return [self._tile(piece, rows, *part, window) for part in zip(starts, ends, strict=True)]

    def _tile(self, piece: Piece, rows: slice, start: int, end: int, window: int | None) -> Tile:
        """Return the tile of a piece's tokens `start` ... `end - 1`."""
        queries = self._positions(piece, start, end)
        low = first_visible(piece.first + start, window)
        keys = torch.arange(low, piece.first + end, device=queries.device)
        mask = additive_mask(visible(queries, keys, window), self._cache.dtype)
        return Tile(slice(rows.start + start, rows.start + end), low, mask)

    def _stored(self, piece: Piece, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values; return all that the piece may see, (Hkv, s, D)."""
        owner, end = piece.owner, piece.start + piece.count
        if isinstance(owner, Root):
            own = owner.keys[layer], owner.values[layer]
        else:
            own = owner.slab.keys[layer][owner.place], owner.slab.values[layer][owner.place]
        for stored, new in zip(own, (k, v), strict=True):
            stored[:, piece.start : end] = new.transpose(0, 1)
        keys, values = (stored[:, :end] for stored in own)
        if isinstance(owner, Root) or not owner.root.length:
            return keys, values
        root = owner.root
        return torch.cat([root.keys[layer], keys], 1), torch.cat([root.values[layer], values], 1)

    def _positions(self, piece: Piece, start: int, end: int) -> Tensor:
        return torch.arange(piece.first + start, piece.first + end, device=self._cache.device)


def _index(members: list[int], size: int, device: torch.device) -> Tensor | None:
    """Return indices as a tensor; None if they are 0 ... `size` - 1 in order."""
    return None if members == list(range(size)) else sent(torch.tensor(members), device)


def _rounded(number: int, most: int) -> int:
    return min(most, -(-number // _KEYS) * _KEYS)


def _rounded_places(number: int, most: int) -> int:
    if number < _PLACES:
        return min(most, 1 << (number - 1).bit_length())
    return min(most, -(-number // _PLACES) * _PLACES)


class _RootPart:
    """The keys of one root, for the rows of a batch whose prompts begin with it."""

    def __init__(self, root: Root, rows: Tensor | None) -> None:
        """Take the batch's rows, None for all."""
        self.first, self.width, self.rows = 0, root.length, rows
        self._root = root

    def scores(self, layer: int, q: Tensor) -> Tensor:
        """Return the scores of the rows' queries, (n, Hkv, rep, width), in one product."""
        return self._product(q, self._root.keys[layer].transpose(1, 2))

    def mixed(self, layer: int, weights: Tensor) -> Tensor:
        """Return the values mixed by weights, (n, Hkv, rep, width): (n, Hkv, rep, D)."""
        return self._product(weights, self._root.values[layer])

    def _product(self, left: Tensor, right: Tensor) -> Tensor:
        rows, heads, repeats, inner = left.shape
        flat = left.transpose(0, 1).reshape(heads, rows * repeats, inner)
        return torch.bmm(flat, right).view(heads, rows, repeats, -1).transpose(0, 1)


class _SlabPart:
    """The keys in some places of a slab, each seen by one or several rows of a batch.

    The rows lie on a grid of places and rows per place, of which some cells may be empty. All
    places up to the highest are read where they are: `SharedCache.compact` keeps most of them seen.
    """

    def __init__(
        self, slab: Slab, seen_by: Sequence[tuple[int, int]], batch: int, first: int, width: int
    ) -> None:
        """Take (place, row) pairs, each row of the batch at most once, and the scores' columns."""
        self.first, self.width = first, width
        self._slab = slab
        device = slab.keys[0].device
        by_place: dict[int, list[int]] = {}
        for place, row in seen_by:
            by_place.setdefault(place, []).append(row)
        self._count = _rounded_places(max(by_place) + 1, len(slab.keys[0]))
        self._each = 1 << (max(map(len, by_place.values())) - 1).bit_length()
        cells = {
            row: place * self._each + n
            for place, rows in by_place.items()
            for n, row in enumerate(rows)
        }
        self.rows = _index(list(cells), batch, device)
        self._cells = _index(list(cells.values()), self._count * self._each, device)

    def scores(self, layer: int, q: Tensor) -> Tensor:
        """Return the scores of the rows' queries, (n, Hkv, rep, width)."""
        return self._product(q, self._held(self._slab.keys[layer]).transpose(2, 3))

    def mixed(self, layer: int, weights: Tensor) -> Tensor:
        """Return the values mixed by weights, (n, Hkv, rep, width): (n, Hkv, rep, D)."""
        return self._product(weights, self._held(self._slab.values[layer]))

    def _held(self, stored: Tensor) -> Tensor:
        return stored[: self._count, :, : self.width]

    def _product(self, part: Tensor, right: Tensor) -> Tensor:
        _, heads, repeats, inner = part.shape
        grid = part
        if self._cells is not None:
            grid = part.new_zeros(self._count * self._each, heads, repeats, inner)
            grid.index_copy_(0, self._cells, part)
        grid = grid.reshape(self._count, self._each, heads, repeats, inner).transpose(1, 2)
        joined = grid.reshape(self._count, heads, self._each * repeats, inner)
        found = torch.matmul(joined, right)
        parted = found.view(self._count, heads, self._each, repeats, -1).transpose(1, 2)
        flat = parted.reshape(self._count * self._each, heads, repeats, -1)
        return flat if self._cells is None else flat[self._cells]


_Part: TypeAlias = _RootPart | _SlabPart


def _part_of(part: _Part, numbers: Tensor) -> Tensor:
    """Return the part's rows and columns of numbers, (B, ..., columns)."""
    own = numbers[..., part.first : part.first + part.width]
    return own if part.rows is None else own[part.rows]


@dataclass(frozen=True, slots=True)
class _Writes:
    """Where some rows of a batch store their new keys and values."""

    slab: Slab
    rows: Tensor | None  # None: all
    places: Tensor
    slots: Tensor

    def store(self, layer: int, k: Tensor, v: Tensor) -> None:
        for stored, new in ((self.slab.keys, k), (self.slab.values, v)):
            stored[layer][self.places, :, self.slots] = new if self.rows is None else new[self.rows]


class _View:
    """What the rows of a batch see through one window, and where they store their new tokens."""

    def __init__(self, cache: SharedCache, rows: Sequence[Row], window: int | None) -> None:
        self._cache, self._rows, self._window = cache, rows, window
        self._layer = cache.windows.index(window)  # one of those with this window
        self._positions = torch.tensor([row.prompt.tokens + row.length for row in rows])
        self._roots = torch.tensor([row.prompt.root.length for row in rows])
        self.parts: list[_Part] = []
        self.columns = 0
        seen = [*self._see_roots(), *self._see_tails(), *self._see_segments()]
        hidden = ~torch.cat(seen, dim=1)[:, None, None]  # (B, 1, 1, columns)
        mask = sent(torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf), cache.device)
        self.masks = [_part_of(part, mask) for part in self.parts]
        self.is_whole = all(part.rows is None for part in self.parts)
        self.writes = list(self._writes())

    def _first_seen(self) -> Tensor:
        """Return the first position that each row sees, (B, 1)."""
        if self._window is None:
            return torch.zeros(len(self._rows), 1, dtype=torch.int64)
        return (self._positions - self._window + 1)[:, None]

    def _see_roots(self) -> list[Tensor]:
        first = self._first_seen()
        width = int(self._roots.max())
        columns = torch.arange(width)
        seen = (columns >= first) & (columns < self._roots[:, None])
        if not bool(seen.any()):
            return []
        by_root: dict[Root, list[int]] = {}
        for n, row in enumerate(self._rows):
            if row.prompt.root.length:
                by_root.setdefault(row.prompt.root, []).append(n)
        for root, members in by_root.items():
            self.parts.append(_RootPart(root, _index(members, len(self._rows), self._cache.device)))
        self.columns += width
        return [seen]

    def _see_tails(self) -> list[Tensor]:
        """Return what is seen of the tails; those of all sizes share the columns."""
        lengths = torch.tensor([row.prompt.length for row in self._rows])
        by_slab: dict[Slab, list[tuple[int, int]]] = {}
        for n, row in enumerate(self._rows):
            by_slab.setdefault(row.prompt.slab, []).append((row.prompt.place, n))
        widths = {
            slab: _rounded(max(int(lengths[n]) for _, n in pairs), slab.keys[0].shape[2])
            for slab, pairs in by_slab.items()
        }
        columns = torch.arange(max(widths.values()))
        seen = (columns < lengths[:, None]) & (columns + self._roots[:, None] >= self._first_seen())
        if not bool(seen.any()):
            return []
        for slab, pairs in by_slab.items():
            self.parts.append(_SlabPart(slab, pairs, len(self._rows), self.columns, widths[slab]))
        self.columns += len(columns)
        return [seen]

    def _see_segments(self) -> list[Tensor]:
        filled = self._filled()
        result = []
        for level in range(segment_of(int(filled.max()) - 1) + 1):
            start = segment_start(level)
            slab = self._cache.segment(level)
            members = (filled > start).nonzero().flatten().tolist()
            size = slab.keys[self._layer].shape[2]
            width = _rounded(min(int(filled.max()) - start, size), size)
            pairs = [(self._rows[n].segments[level], n) for n in members]
            self.parts.append(_SlabPart(slab, pairs, len(self._rows), self.columns, width))
            result.append(torch.arange(start, start + width) < filled[:, None])
            self.columns += width
        return result

    def _filled(self) -> Tensor:
        """Return the slots of each row that hold a token, the new one included, (B,)."""
        filled = torch.tensor([row.length + 1 for row in self._rows])
        return filled if self._window is None else filled.clamp_max(self._window)

    def _writes(self) -> Iterator[_Writes]:
        by_level: dict[int, list[tuple[int, int, int]]] = {}
        for n, row in enumerate(self._rows):
            slot = row.length if self._window is None else row.length % self._window
            level = segment_of(slot)
            where = (n, row.segments[level], slot - segment_start(level))
            by_level.setdefault(level, []).append(where)
        device = self._cache.device
        for level, found in by_level.items():
            members, places, slots = (list(column) for column in zip(*found, strict=True))
            yield _Writes(
                self._cache.segment(level),
                _index(members, len(self._rows), device),
                sent(torch.tensor(places), device),
                sent(torch.tensor(slots), device),
            )


class RowsAttend:
    """More tokens of some rows: they are stored, and attend to root, tail and their own row."""

    def __init__(self, cache: SharedCache, rows: Sequence[Row], ahead: Sequence[int] = ()) -> None:
        """Take rows, best in the order of their first segments.

        Args:
            cache: holds the rows.
            rows: each gets one more token.
            ahead: for each row, how many draft tokens behind that one are computed too; none
                without it. They must not wrap around a rolling buffer (`SharedCache.room_ahead`).
        """
        cache.compact(rows)
        fed = rows
        if any(ahead):
            fed = [
                Row(row.prompt, row.length + n, row.segments)
                for row, more in zip(rows, ahead, strict=True)
                for n in range(more + 1)
            ]
        cache.extend(fed)
        self._rows = rows
        self._windows = cache.windows
        self._views = {window: _View(cache, fed, window) for window in set(cache.windows)}
        positions = torch.tensor([row.prompt.tokens + row.length for row in fed])
        self.positions = sent(positions, cache.device)

    def finish(self) -> None:
        """Count each row's next token after all layers; draft tokens count once accepted."""
        for row in self._rows:
            row.length += 1

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Compute attention of the rows' queries, (B, n_heads, D)."""
        view = self._views[self._windows[layer]]
        for writes in view.writes:
            writes.store(layer, k, v)
        grouped = (q * q.shape[-1] ** -0.5).view(len(q), k.shape[1], -1, q.shape[-1])
        scores = q.new_empty(*grouped.shape[:3], view.columns, dtype=torch.float32)
        if not view.is_whole:
            scores.fill_(-torch.inf)  # where a row has no part
        for part, mask in zip(view.parts, view.masks, strict=True):
            into = scores[..., part.first : part.first + part.width]
            if part.rows is None:
                torch.add(part.scores(layer, grouped), mask, out=into)
            else:
                into[part.rows] = part.scores(layer, grouped[part.rows]) + mask
        weights = scores.softmax(dim=-1).to(q.dtype)
        out = torch.zeros_like(grouped, dtype=torch.float32)
        for part in view.parts:
            mixed = part.mixed(layer, _part_of(part, weights))
            if part.rows is None:
                out += mixed
            else:
                out.index_add_(0, part.rows, mixed.float())
        return out.view(q.shape).to(q.dtype)
