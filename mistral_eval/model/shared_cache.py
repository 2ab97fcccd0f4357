"""Keep the keys and values of generation: roots, tails of prompts, and segments of replies.

A *root* is a few-shot block that many prompts begin with, a *tail* the rest of a prompt, which its
samples share, a *row* one sample. Shared tokens are stored once. A row takes memory as it grows:
its tokens lie in segments that double in size. Every layer with a window W keeps a rolling buffer
of the last W tokens of a row.
"""

import math
import mmap
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final

import torch
from torch import Tensor

from mistral_eval.model.config import ModelConfig
from mistral_eval.model.transformer import Transformer

FIRST_SEGMENT: Final = 32  # tokens; about the median reply of a trained model to a short problem
_SMALLEST_TAIL: Final = 32  # tokens; tails are stored in sizes that double
_FEWEST_PLACES: Final = 8
# Private pages, which a read does not take from the system as it does with Python's default, shared
# ones; in small pages, since a huge one would be taken whole for one place (madvise(2)).
_PRIVATE: Final = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}
_SMALL_PAGES: Final[int | None] = getattr(mmap, "MADV_NOHUGEPAGE", None)
_RELEASE: Final[int | None] = getattr(mmap, "MADV_DONTNEED", None)


def segment_start(level: int) -> int:
    """Return the first slot of a row's segment: 0, 32, 64, 128, ..."""
    return FIRST_SEGMENT << (level - 1) if level else 0


def segment_of(slot: int) -> int:
    """Return the segment that holds a row's slot."""
    return (slot // FIRST_SEGMENT).bit_length()


def tail_size(length: int) -> int:
    """Return the slots that a tail of `length` tokens takes."""
    size = _SMALLEST_TAIL
    while size < length:
        size *= 2
    return size


def row_slots(tokens: int) -> int:
    """Return the slots of the segments that a row of `tokens` tokens takes, without windows."""
    return segment_start(segment_of(tokens - 1) + 1) if tokens else 0


class Storage:
    """Keys or values of equal places, whose memory is taken and given back by the place on a CPU.

    Attributes:
        tensor: zeros at first, (places, *shape). The system takes memory page by page, when a page
            is first written to. A freed place's pages go back to it; they read as zeros afterwards.

    Raises:
        torch.OutOfMemoryError: the system promises no more memory.
    """

    def __init__(self, places: int, shape: tuple[int, ...], like: Tensor) -> None:
        """Take the dtype and the device of `like`."""
        self._place_bytes = math.prod(shape) * like.dtype.itemsize
        self._pages: mmap.mmap | None = None
        size = places * self._place_bytes
        if like.device.type != "cpu" or not size:
            self.tensor = torch.zeros(places, *shape, dtype=like.dtype, device=like.device)
            return
        try:
            self._pages = mmap.mmap(-1, size, **_PRIVATE)
        except OSError as error:
            raise torch.OutOfMemoryError(f"{size} bytes for keys or values: {error}") from error
        if _SMALL_PAGES is not None:
            with suppress(OSError):  # EINVAL where the kernel has no huge pages
                self._pages.madvise(_SMALL_PAGES)
        self.tensor = torch.frombuffer(self._pages, dtype=like.dtype).view(places, *shape)

    def release(self, place: int) -> None:
        """Give back the pages that hold nothing but this place, where the system can (Linux)."""
        if self._pages is None or _RELEASE is None:
            return
        page = mmap.PAGESIZE
        start = -(-place * self._place_bytes // page) * page
        size = (place + 1) * self._place_bytes // page * page - start
        if size > 0:
            self._pages.madvise(_RELEASE, start, size)


class Slab:
    """Equal places for keys and values that come and go; the lowest free place is taken first.

    A CPU has all places from the start, since it takes memory when a place is written to and gives
    it back when the place is freed. Elsewhere a slab grows.

    Attributes:
        keys, values: by layer, (places, n_kv_heads, size, head_dim). They are replaced when the
            slab grows.
    """

    def __init__(self, model: Transformer, sizes: Sequence[int], most: int) -> None:
        """Take the slots of a place by layer, and how many places will be needed at most."""
        config = model.config

        def empty(size: int) -> Tensor:
            shape = (0, config.n_kv_heads, size, config.head_dim)
            return torch.empty(shape, dtype=model.dtype, device=model.device)

        self.keys = [empty(size) for size in sizes]
        self.values = [empty(size) for size in sizes]
        self._stored: dict[tuple[bool, int], Storage] = {}  # by whether keys, and layer
        self._most = most if model.device.type == "cpu" else 0
        self._places = 0
        self._free: list[int] = []

    def _grow(self) -> None:
        """Add places, copying one layer at a time."""
        more = max(_FEWEST_PLACES, self._places // 4, self._most - self._places)
        for stored in (self.keys, self.values):
            for layer, old in enumerate(stored):
                storage = Storage(len(old) + more, tuple(old.shape[1:]), old)
                storage.tensor[: len(old)] = old
                self._stored[stored is self.keys, layer] = storage
                stored[layer] = storage.tensor
        self._free += range(self._places, self._places + more)
        self._places += more

    def take(self) -> int:
        """Return a free place; old keys and values may still be there."""
        if not self._free:
            self._grow()
        return heappop(self._free)

    def is_sparse(self, places: Iterable[int]) -> bool:
        """Return whether a quarter of the places up to the highest of `places` is free."""
        end = max(places) + 1
        return 4 * sum(free < end for free in self._free) >= end

    def lower(self, place: int, slots: int) -> int:
        """Move the first `slots` slots of a place to the lowest free place if that is lower.

        Returns:
            The place where they are now.
        """
        if not self._free or self._free[0] > place:
            return place
        lowest = heappop(self._free)
        for tensor in (*self.keys, *self.values):
            tensor[lowest, :, :slots] = tensor[place, :, :slots]
        self.give(place)
        return lowest

    def give(self, place: int) -> None:
        """Free a place."""
        for storage in self._stored.values():
            storage.release(place)
        heappush(self._free, place)


@dataclass(eq=False, slots=True)
class Root:
    """A block of tokens that prompts begin with; by layer, (n_kv_heads, length, head_dim)."""

    length: int
    keys: list[Tensor]
    values: list[Tensor]


@dataclass(eq=False, slots=True)
class Prompt:
    """A root and the tail of `length` tokens that lies in a place of a slab."""

    root: Root
    length: int
    slab: Slab
    place: int

    @property
    def tokens(self) -> int:
        """The prompt's length in tokens."""
        return self.root.length + self.length


@dataclass(eq=False, slots=True)
class Row:
    """A sample with `length` tokens after its prompt; `segments` are places by level."""

    prompt: Prompt
    length: int = 0
    segments: list[int] = field(default_factory=list)


class SharedCache:
    """Storage of roots, tails and rows, filled by `PrefillAttend` and `RowsAttend`.

    Keys are rotated.
    """

    def __init__(
        self,
        model: Transformer,
        rows: int = _FEWEST_PLACES,
        slots: int = 0,
        prompts: int = _FEWEST_PLACES,
    ) -> None:
        """Take how many rows and prompts there are at once, and how many slots they take."""
        self._model, self._rows, self._slots, self._prompts = model, rows, slots, prompts
        self.windows = model.config.sliding_window
        self.dtype, self.device = model.dtype, model.device
        self._tails: dict[int, Slab] = {}  # by size
        self._segments: list[Slab] = []  # by level
        self._has_dropped = False  # anything since the last `compact`

    def add_root(self, length: int) -> Root:
        """Return a root without keys and values yet."""
        config = self._model.config
        shape = (config.n_kv_heads, length, config.head_dim)

        like = torch.empty(0, dtype=self.dtype, device=self.device)
        keys, values = ([Storage(1, shape, like).tensor[0] for _ in self.windows] for _ in range(2))
        return Root(length, keys, values)

    def add_prompt(self, root: Root, length: int) -> Prompt:
        """Return a prompt behind `root` with a tail of `length` tokens, not computed yet."""
        size = tail_size(length)
        if size not in self._tails:
            self._tails[size] = self._slab([size] * len(self.windows), self._prompts)
        slab = self._tails[size]
        return Prompt(root, length, slab, slab.take())

    def drop_prompt(self, prompt: Prompt) -> None:
        """Free the tail of a prompt that no row needs any more."""
        self._has_dropped = True
        prompt.slab.give(prompt.place)

    def compact(self, rows: Sequence[Row]) -> None:
        """Move tails and segments of `rows` to lower places, in slabs that have become sparse.

        A step reads every place up to the highest that it needs. To copy the needed ones together
        at each step would take longer than the attention itself.
        """
        if not self._has_dropped:
            return
        self._has_dropped = False
        tails: dict[Slab, set[Prompt]] = {}
        for row in rows:
            tails.setdefault(row.prompt.slab, set()).add(row.prompt)
        for slab, prompts in tails.items():
            if slab.is_sparse(prompt.place for prompt in prompts):
                for prompt in sorted(prompts, key=lambda one: one.place, reverse=True):
                    prompt.place = slab.lower(prompt.place, prompt.length)
        for level, slab in enumerate(self._segments):
            holders = [row for row in rows if len(row.segments) > level]
            if holders and slab.is_sparse(row.segments[level] for row in holders):
                start = segment_start(level)
                for row in sorted(holders, key=lambda one: one.segments[level], reverse=True):
                    row.segments[level] = slab.lower(row.segments[level], row.length - start)

    def extend(self, rows: Sequence[Row]) -> None:
        """Give each row a segment for its next token, where it has none."""
        longest = self.longest_ring
        for row in rows:
            level = segment_of(row.length)
            if len(row.segments) <= level and (longest is None or row.length < longest):
                row.segments.append(self.segment(level).take())

    def room_ahead(self, row: Row) -> int:
        """Return how many tokens behind the next one can be stored and taken back.

        A token that wraps around a rolling buffer overwrites one that must be seen again.
        """
        rings = [window for window in self.windows if window is not None]
        return max(0, min(rings) - row.length - 1) if rings else self._model.config.context_len

    def erase(self, row: Row, tokens: int) -> None:
        """Write zeros over what was stored behind a row's tokens, in `tokens` slots."""
        for slot in range(row.length, row.length + tokens):
            level = segment_of(slot)
            slab = self.segment(level)
            for tensor in (*slab.keys, *slab.values):
                tensor[row.segments[level], :, slot - segment_start(level)] = 0

    def drop_row(self, row: Row) -> None:
        """Free the segments of a row that has ended."""
        self._has_dropped = True
        for level, place in enumerate(row.segments):
            self.segment(level).give(place)

    def segment(self, level: int) -> Slab:
        """Return the slab of the rows' segments of this level."""
        while len(self._segments) <= level:
            start, end = (segment_start(len(self._segments) + n) for n in range(2))
            ends = (end if w is None else min(w, end) for w in self.windows)
            sizes = [max(0, last - start) for last in ends]
            self._segments.append(self._slab(sizes, self._rows))
        return self._segments[level]

    def _slab(self, sizes: Sequence[int], places: int) -> Slab:
        """Return a slab for so many places, or as many as the slots allow."""
        return Slab(self._model, sizes, min(places, self._slots // max(1, *sizes)))

    @property
    def longest_ring(self) -> int | None:
        """The most slots that a layer keeps of a row; None if a layer keeps all."""
        rings = [window for window in self.windows if window is not None]
        return max(rings) if len(rings) == len(self.windows) else None


def cache_bytes(config: ModelConfig, tokens: int, rows: Sequence[int], dtype: torch.dtype) -> int:
    """Return the bytes of keys and values of `tokens` shared slots and of rows of given lengths."""
    slots = 0
    for window in config.sliding_window:
        slots += tokens
        for length in rows:
            held = row_slots(length)
            slots += held if window is None else min(window, held)
    return 2 * config.n_kv_heads * config.head_dim * slots * dtype.itemsize
