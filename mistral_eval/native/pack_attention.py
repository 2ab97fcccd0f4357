"""Attention over one pack of the prefix tree: group by group, or in few large calls."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from mistral_eval.model.attention import Attend, additive_mask, attention
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.memory import sent
from mistral_eval.model.transformer import Transformer
from mistral_eval.native.pack import Bools, Group, Pack
from mistral_eval.native.pack_batches import CPU_COSTS, Batch, Block, Costs, cut_batches

# The fused kernel that also returns the scores' log-sum-exp; torch has no public name for it.
_KERNEL: Final = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001


class Stack:
    """Keys and values of the path from the root to the current pack, by depth, for every layer.

    It also holds one layer's slots, path and pack together, while that layer attends.
    """

    def __init__(
        self, model: Transformer, height: int, size: int, *, one_layer: bool = False
    ) -> None:
        """Allocate for paths of `height` tokens and packs of `size` (see `stack_bytes`).

        With `one_layer` all layers share one path: for a walk that ends a layer before the next.
        """
        config = model.config
        pair = (2, config.n_kv_heads, config.head_dim)
        like: Any = {"dtype": model.dtype, "device": model.device}
        self.device, self.dtype = model.device, model.dtype
        # zeros: tokens that nobody asks for may see slots that were never filled, and a NaN there
        # would spoil their whole pack
        path = torch.zeros(1 if one_layer else config.n_layers, height, *pair, **like)
        self._path = path.expand(config.n_layers, *path.shape[1:])
        self._slots = torch.empty(height + size, *pair, **like)
        self.windows = config.sliding_window
        self.n_kv_heads = config.n_kv_heads
        self.repeats = config.n_heads // config.n_kv_heads
        self.width = config.n_heads * config.head_dim

    def fill(self, layer: int, base: int, k: Tensor, v: Tensor) -> Tensor:
        """Return a layer's slots, (base + n, 2, Hkv, D), each with its key and value.

        The first `base` are the path's, the others the pack's: `k` and `v`, (n, Hkv, D).
        """
        slots = self._slots[: base + len(k)]
        slots[:base] = self._path[layer, :base]
        slots[base:, 0] = k
        slots[base:, 1] = v
        return slots

    def keep(self, layer: int, first: int, slots: Tensor) -> None:
        """Copy the tokens in `slots`, (m,), to the path, from depth `first` on."""
        if len(slots):
            torch.index_select(
                self._slots, 0, slots, out=self._path[layer, first : first + len(slots)]
            )


def stack_bytes(
    config: ModelConfig, dtype: torch.dtype, height: int, size: int, *, one_layer: bool = False
) -> int:
    """Return the bytes of a `Stack` for a tree of this height and packs of this size."""
    paths = 1 if one_layer else config.n_layers
    tokens = paths * height + height + size  # one layer's keys and values each
    return 2 * config.n_kv_heads * config.head_dim * dtype.itemsize * tokens


def make_attend(stack: Stack, pack: Pack) -> Attend:
    """Return the form of attention that is fast on the stack's device."""
    if stack.device.type != "cpu":
        return GroupwiseAttend(stack, pack)
    return BatchedAttend(stack, pack, CPU_COSTS.at_width(stack.width))


class GroupwiseAttend:
    """Attention group by group, each over its ancestors and itself, with a mask."""

    def __init__(self, stack: Stack, pack: Pack) -> None:
        self._stack, self._pack = stack, pack
        self._kept = sent(torch.from_numpy(pack.keep_slots), stack.device)
        kinds = {w: pack.window(w) for w in set(stack.windows)}
        views = {w: [self._view(group, w) for group in pack.groups] for w in set(kinds.values())}
        self._views = {window: views[kind] for window, kind in kinds.items()}

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return attention, (T, n_heads, D); keep on the path what the next pack sees."""
        slots = self._stack.fill(layer, self._pack.base, k, v)
        out = torch.empty_like(q)
        views = self._views[self._stack.windows[layer]]
        for group, (at, mask) in zip(self._pack.groups, views, strict=True):
            keys, values = slots[at].permute(1, 2, 0, 3)  # (Hkv, s, D)
            rows = slice(group.start, group.end)
            out[rows] = attention(q[rows], keys, values, mask)
        self._stack.keep(layer, self._pack.keep_from, self._kept)
        return out

    def _view(self, group: Group, window: int | None) -> tuple[Tensor, Tensor]:
        """Return the slots that a group sees, and its mask."""
        slots, seen = self._pack.seen(group, window)
        return sent(torch.from_numpy(slots), self._stack.device), _added(seen, self._stack)


@dataclass(frozen=True, slots=True)
class _Prefix:
    """A block's rows and the slots they all see, (C,), as a slice if they are contiguous."""

    rows: slice
    slots: slice | Tensor


@dataclass(frozen=True, slots=True)
class _Call:
    """A batch's call: rows (Hkv * G * m,), slots (G * s,), and the mask, (G, 1, m * rep, s).

    Rows index the pack's rows of all heads, head after head.
    """

    rows: Tensor
    slots: Tensor
    mask: Tensor


@dataclass(frozen=True, slots=True)
class _Plan:
    """The calls of a layer, and where to find the outputs of the pack's rows.

    Attributes:
        prefixes: one per block.
        calls: one per batch.
        rows: index of each of the pack's rows among the batches' rows, (n,).
        pieces: its index for each key head among the batches' outputs, which are ordered by batch,
            then by head, (n * Hkv,).
    """

    prefixes: Sequence[_Prefix]
    calls: Sequence[_Call]
    rows: Tensor
    pieces: Tensor


class BatchedAttend:
    """Attention in few calls: shared prefixes unmasked, the rest in batches, merged by log-sum-exp.

    Query heads that share a key head are passed as additional queries, because the CPU's kernel
    packs keys and values once per head.
    """

    def __init__(self, stack: Stack, pack: Pack, costs: Costs) -> None:
        self._stack, self._pack = stack, pack
        self._kept = torch.from_numpy(pack.keep_slots)
        kinds = {w: pack.window(w) for w in set(stack.windows)}
        plans = {window: self._plan(window, costs) for window in set(kinds.values())}
        self._plans = {window: plans[kind] for window, kind in kinds.items()}

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return attention, (T, n_heads, D); keep on the path what the next pack sees."""
        stack = self._stack
        plan = self._plans[stack.windows[layer]]
        slots = stack.fill(layer, self._pack.base, k, v)
        grouped = q.view(len(q), -1, stack.repeats, q.shape[-1])
        folded = grouped.transpose(0, 1).contiguous()  # (Hkv, n, rep, D)
        out, total = self._rest(plan, folded, slots)
        for prefix in plan.prefixes:
            rows = prefix.rows
            above, weight = _kernel(folded[:, rows].flatten(1, 2)[None], slots[prefix.slots][None])
            above = above.reshape(folded[:, rows].shape).transpose(0, 1)  # (n, Hkv, rep, D)
            # weight of the rest, (n, rep, Hkv); most often the smaller one, so it rounds less
            share = torch.sigmoid(total[rows] - weight.reshape(total[rows].shape))
            share = share.transpose(1, 2)[..., None].to(out.dtype)
            torch.lerp(above, out[rows], share, out=out[rows])
        stack.keep(layer, self._pack.keep_from, self._kept)
        return out.view(q.shape)

    def _rest(self, plan: _Plan, folded: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Return the batches' output, (n, Hkv, rep, D), and log-sum-exp, (n, rep, Hkv)."""
        heads, _, repeats, head_dim = folded.shape
        outs, totals = [], []
        for call in plan.calls:
            count, _, queries, keys = call.mask.shape
            q = folded.view(-1, repeats * head_dim).index_select(0, call.rows)
            q = q.view(heads, count, queries, head_dim)
            seen = slots.index_select(0, call.slots).view(count, keys, *slots.shape[1:])
            out, total = _kernel(q.transpose(0, 1), seen, call.mask)
            outs.append(out.transpose(0, 1).reshape(-1, repeats * head_dim))
            totals.append(total.reshape(-1, repeats * heads))
        joined, sums = (x[0] if len(x) == 1 else torch.cat(x) for x in (outs, totals))
        return (
            joined.index_select(0, plan.pieces).view(-1, heads, repeats, head_dim),
            sums.index_select(0, plan.rows).view(-1, repeats, heads),
        )

    def _plan(self, window: int | None, costs: Costs) -> _Plan:
        blocks, batches = cut_batches(self._pack, window, costs)
        size = self._pack.last - self._pack.first
        rows = np.empty(size, dtype=np.int64)
        pieces = np.empty((size, self._stack.n_kv_heads), dtype=np.int64)
        heads, done = np.arange(self._stack.n_kv_heads), 0
        for batch in batches:
            count, most = batch.rows.shape
            own, place = batch.rows[batch.is_row], np.flatnonzero(batch.is_row)
            rows[own] = done + place
            pieces[own] = done * len(heads) + place[:, None] + heads * count * most
            done += count * most
        return _Plan(
            [_prefix(block) for block in blocks],
            [self._call(batch) for batch in batches],
            torch.from_numpy(rows),
            torch.from_numpy(pieces.ravel()),
        )

    def _call(self, batch: Batch) -> _Call:
        mask = _added(batch.seen, self._stack).repeat_interleave(self._stack.repeats, dim=1)
        size = self._pack.last - self._pack.first
        rows = np.arange(self._stack.n_kv_heads)[:, None] * size + batch.rows.ravel()
        return _Call(
            torch.from_numpy(rows.ravel()), torch.from_numpy(batch.slots.ravel()), mask[:, None]
        )


def _prefix(block: Block) -> _Prefix:
    rows, slots = slice(block.start, block.end), block.slots
    first = int(slots[0])
    if np.array_equal(slots, np.arange(first, first + len(slots))):
        return _Prefix(rows, slice(first, first + len(slots)))
    return _Prefix(rows, torch.from_numpy(slots))


def _kernel(q: Tensor, slots: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Attention of q (G, Hkv, n, D) over slots (G, s, 2, Hkv, D).

    Returns:
        Output, (G, Hkv, n, D), and log-sum-exp of the scores, (G, n, Hkv).
    """
    keys, values = slots.permute(2, 0, 3, 1, 4)  # (G, Hkv, s, D)
    out, total = _KERNEL(q, keys, values, attn_mask=mask)
    return out, total.transpose(1, 2)


def _added(seen: Bools, stack: Stack) -> Tensor:
    visible = torch.from_numpy(np.ascontiguousarray(seen))
    return additive_mask(sent(visible, stack.device), stack.dtype)
