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
from mistral_eval.native.tree import NO_IDS, Ints

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


def make_attend(stack: Stack, pack: Pack, asked: Ints | None = None) -> Attend:
    """Return the form of attention that is fast on the stack's device.

    Args:
        stack: what the pack's tokens see.
        pack: the tokens.
        asked: rows whose final hidden states are asked, sorted, (r,); None for all. In the last
            layer these alone attend, and the results of the others are not defined.
    """
    if stack.device.type != "cpu":
        return GroupwiseAttend(stack, pack, asked)
    return BatchedAttend(stack, pack, CPU_COSTS.at_width(stack.width), asked)


class GroupwiseAttend:
    """Attention group by group, each over its ancestors and itself, with a mask."""

    def __init__(self, stack: Stack, pack: Pack, asked: Ints | None = None) -> None:
        """See `make_attend`."""
        self._stack, self._pack = stack, pack
        self._kept = sent(torch.from_numpy(pack.keep_slots), stack.device)
        kinds = [pack.window(window) for window in stack.windows]
        last = kinds.pop() if asked is not None else None
        views = {w: [self._view(group, w) for group in pack.groups] for w in set(kinds)}
        self._views = [views[kind] for kind in kinds]
        if asked is not None:
            groups = [group for group in pack.only(asked).groups if len(group.queries)]
            self._views.append([self._view(group, last) for group in groups])

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return attention, (T, n_heads, D); keep on the path what the next pack sees."""
        slots = self._stack.fill(layer, self._pack.base, k, v)
        out = torch.empty_like(q)
        for rows, at, mask in self._views[layer]:
            keys, values = slots[at].permute(1, 2, 0, 3)  # (Hkv, s, D)
            out[rows] = attention(q[rows], keys, values, mask)
        self._stack.keep(layer, self._pack.keep_from, self._kept)
        return out

    def _view(self, group: Group, window: int | None) -> tuple[slice | Tensor, Tensor, Tensor]:
        """Return the rows of a group that attend, the slots that they see, and their mask."""
        slots, seen = self._pack.seen(group, window)
        at, device = torch.from_numpy(slots), self._stack.device
        return _run_of(group.queries, device), sent(at, device), _added(seen, self._stack)


@dataclass(frozen=True, slots=True)
class _Prefix:
    """A block's rows, and the slots they all see, (C,); slices if they are contiguous.

    `places` are the rows' places among those that attend.
    """

    rows: slice | Tensor
    places: slice
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
    """The calls of a layer, and where to find the outputs of the rows that attend.

    Attributes:
        attending: these rows, (n,), or None if they are all of the pack's.
        prefixes: one per block.
        calls: one per batch.
        rows: index of each of them among the batches' rows, (n,).
        pieces: its index for each key head among the batches' outputs, which are ordered by batch,
            then by head, (n * Hkv,).
    """

    attending: Tensor | None
    prefixes: Sequence[_Prefix]
    calls: Sequence[_Call]
    rows: Tensor
    pieces: Tensor


class BatchedAttend:
    """Attention in few calls: shared prefixes unmasked, the rest in batches, merged by log-sum-exp.

    Query heads that share a key head are passed as additional queries, because the CPU's kernel
    packs keys and values once per head.
    """

    def __init__(self, stack: Stack, pack: Pack, costs: Costs, asked: Ints | None = None) -> None:
        """See `make_attend`; `costs` decide how groups are combined."""
        self._stack, self._pack = stack, pack
        self._costs, self._asked = costs, asked
        self._kept = torch.from_numpy(pack.keep_slots)
        self._kinds = [pack.window(window) for window in stack.windows]
        whole = self._kinds if asked is None else self._kinds[:-1]
        self._plans = {window: self._plan(pack, window) for window in set(whole)}

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return attention, (T, n_heads, D); keep on the path what the next pack sees."""
        stack = self._stack
        window = self._kinds[layer]
        if layer == len(stack.windows) - 1 and self._asked is not None:
            plan = self._plan(self._pack.only(self._asked), window)
        else:
            plan = self._plans[window]
        slots = stack.fill(layer, self._pack.base, k, v)
        grouped = q.view(len(q), -1, stack.repeats, q.shape[-1])
        folded = grouped.transpose(0, 1).contiguous()  # (Hkv, n, rep, D)
        stack.keep(layer, self._pack.keep_from, self._kept)
        if not plan.calls:
            return torch.empty_like(q)
        out, total = self._rest(plan, folded, slots)
        for prefix in plan.prefixes:
            own, at = folded[:, prefix.rows], prefix.places
            above, weight = _kernel(own.flatten(1, 2)[None], slots[prefix.slots][None])
            above = above.reshape(own.shape).transpose(0, 1)  # (n, Hkv, rep, D)
            # weight of the rest, (n, rep, Hkv); most often the smaller one, so it rounds less
            share = torch.sigmoid(total[at] - weight.reshape(total[at].shape))
            share = share.transpose(1, 2)[..., None].to(out.dtype)
            torch.lerp(above, out[at], share, out=out[at])
        if plan.attending is None:
            return out.view(q.shape)
        return torch.empty_like(q).index_copy_(0, plan.attending, out.view(-1, *q.shape[1:]))

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

    def _plan(self, pack: Pack, window: int | None) -> _Plan:
        """Return the plan of a pack, the whole or the rows asked."""
        blocks, batches = cut_batches(pack, window, self._costs)
        attending = np.concatenate([NO_IDS, *(group.queries for group in pack.groups)])
        rows = np.empty(len(attending), dtype=np.int64)
        pieces = np.empty((len(attending), self._stack.n_kv_heads), dtype=np.int64)
        heads, done = np.arange(self._stack.n_kv_heads), 0
        for batch in batches:
            count, most = batch.rows.shape
            place = np.flatnonzero(batch.is_row)
            own = np.searchsorted(attending, batch.rows[batch.is_row])
            rows[own] = done + place
            pieces[own] = done * len(heads) + place[:, None] + heads * count * most
            done += count * most
        is_all = len(attending) == pack.last - pack.first
        return _Plan(
            None if is_all else torch.from_numpy(attending),
            [_prefix(block, attending) for block in blocks],
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


def _prefix(block: Block, attending: Ints) -> _Prefix:
    first = int(np.searchsorted(attending, block.rows[0]))
    places = slice(first, first + len(block.rows))
    cpu = torch.device("cpu")
    return _Prefix(_run_of(block.rows, cpu), places, _run_of(block.slots, cpu))


def _run_of(numbers: Ints, device: torch.device) -> slice | Tensor:
    """Return indices as a slice if they are contiguous, else as a tensor."""
    first = int(numbers[0])
    if np.array_equal(numbers, np.arange(first, first + len(numbers))):
        return slice(first, first + len(numbers))
    return sent(torch.from_numpy(numbers), device)


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
