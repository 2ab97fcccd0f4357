"""Forms of attention over a pack of a prefix tree, for `attention.py`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from mistral_eval.model.attention import Attend, additive_mask, attention
from mistral_eval.native.pack import Pack
from mistral_eval.native.pack_attention import GroupwiseAttend, Stack, make_attend
from mistral_eval.native.tree import Ints, TokenTree

OWN_TOKENS = 128  # tokens of one block of subtrees
Answer = Callable[[], Tensor]


class Partial(NamedTuple):
    """Softmax attention over some of the keys, before division by the sum of weights."""

    out: Tensor  # (..., n, D), float32
    top: Tensor  # largest score, (..., n, 1)
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
    """Merge attention over two disjoint sets of keys, as FlashAttention (arXiv 2205.14135) does."""
    top = torch.maximum(left.top, right.top)
    a, b = (left.top - top).exp_(), (right.top - top).exp_()
    return Partial(left.out * a + right.out * b, top, left.total * a + right.total * b)


@dataclass(frozen=True, slots=True)
class Case:
    """One pack: which rows see which slots, and what is attended with.

    A slot is seen by the rows `low` to `reach`: those below a token of the path come first in the
    pack, and a token's own descendants follow it.

    Attributes:
        seen: how many slots of the path each row sees, never rising, (n,).
        roots: rows whose parent lies on the path.
        low: first row that sees each slot of path and pack, (base + n,).
        reach: row behind the last one, (base + n,).
        q: (n, Hq, D).
        k: keys of path and pack, (base + n, Hkv, D).
        v: as k.
    """

    seen: Ints
    roots: Ints
    low: Ints
    reach: Ints
    q: Tensor
    k: Tensor
    v: Tensor

    @property
    def base(self) -> int:
        """Slots of the path."""
        return len(self.k) - len(self.q)

    def related(self) -> NDArray[np.bool_]:
        """Whether a slot of path or pack holds an ancestor or the row itself, (n, base + n)."""
        rows = np.arange(len(self.q))[:, None]
        return (rows >= self.low) & (rows < self.reach)


def make_cases(
    tree: TokenTree, packs: Sequence[Pack], heads: tuple[int, int, int], device: torch.device
) -> list[Case]:
    """Packs with random queries, keys and values; a token's keys are the same in each pack.

    Args:
        tree: the tree the packs are cut from.
        packs: runs of its tokens.
        heads: query heads, key heads, head_dim.
        device: where to.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (len(tree.tokens), *heads[1:])
    keys, values = (torch.randn(shape, generator=generator) for _ in range(2))
    parents = _parents(tree)
    found = []
    for pack in packs:
        path, at = [], int(parents[pack.first])
        while at >= 0:
            path.append(at)
            at = int(parents[at])
        rows = np.arange(pack.first, pack.last)
        slots = torch.from_numpy(np.array([*path[::-1], *rows.tolist()]))
        own = np.where(parents[rows] >= pack.first, parents[rows] - pack.first, -1)
        seen = _seen(own, tree.depths[rows])
        below = (seen[None, :] > np.arange(len(path))[:, None]).sum(axis=1)
        found.append(
            Case(
                seen,
                np.flatnonzero(own < 0),
                np.concatenate([np.zeros(len(path), dtype=np.int64), np.arange(len(rows))]),
                np.concatenate([below, _ends(own)]),
                torch.randn(len(rows), heads[0], heads[2], generator=generator).to(device),
                keys[slots].to(device),
                values[slots].to(device),
            )
        )
    return found


def _parents(tree: TokenTree) -> Ints:
    """Index of each token's parent, -1 for a root, (U,)."""
    parents = np.arange(-1, len(tree.tokens) - 1)
    path = np.full(tree.height + 1, -1)  # path[d + 1]: the last token at depth d; path[0]: none
    for left, right in zip(tree.starts[:-1], tree.starts[1:], strict=True):
        depth = int(tree.depths[left])
        parents[left] = path[depth]
        path[depth + 1 : depth + 1 + right - left] = np.arange(left, right)
    return parents


def _seen(parents: Ints, depths: Ints) -> Ints:
    """Ancestors on the path: all of a row whose parent lies there, else the parent's."""
    seen = depths.copy()
    for row, parent in enumerate(parents):
        if parent >= 0:
            seen[row] = seen[parent]
    return seen


def _ends(parents: Ints) -> Ints:
    """Row behind each row's last descendant: in depth-first order they follow it."""
    ends = np.arange(1, len(parents) + 1)
    for row in range(len(parents) - 1, -1, -1):
        if parents[row] >= 0:
            ends[parents[row]] = max(ends[parents[row]], ends[row])
    return ends


def plain(case: Case) -> Tensor:
    """Softmax over all scores, one after the other: what the forms are compared with."""
    mask = additive_mask(torch.from_numpy(case.related()).to(case.q.device), case.q.dtype)
    keys, values = (
        x.repeat_interleave(case.q.shape[1] // x.shape[1], dim=1) for x in (case.k, case.v)
    )
    scores = torch.einsum("nhd,shd->hns", case.q * case.q.shape[-1] ** -0.5, keys) + mask
    return torch.einsum("hns,shd->nhd", scores.softmax(dim=-1), values)


def prepare_engine(case: Case, pack: Pack, form: Callable[[Stack, Pack], Attend]) -> Answer:
    """As `score_tree` does it, in one layer; `form` is one of the engine's."""
    n, heads, head_dim = case.q.shape
    config = SimpleNamespace(
        n_layers=1,
        n_heads=heads,
        n_kv_heads=case.k.shape[1],
        head_dim=head_dim,
        sliding_window=(4096,),
    )
    model: Any = SimpleNamespace(config=config, dtype=case.q.dtype, device=case.q.device)
    stack = Stack(model, case.base + n, n)
    attend = form(stack, pack)
    k, v = case.k[case.base :], case.v[case.base :]
    path = case.k[: case.base], case.v[: case.base]
    slots = torch.arange(case.base, device=case.q.device)

    def answer() -> Tensor:
        stack.fill(0, 0, *path)  # a pack finds its path on the stack; this is in the time
        stack.keep(0, 0, slots)
        return attend(0, case.q, k, v)

    return answer


def prepare_whole(case: Case) -> Answer:
    """One masked call."""
    mask = additive_mask(torch.from_numpy(case.related()).to(case.q.device), case.q.dtype)
    keys, values = case.k.transpose(0, 1), case.v.transpose(0, 1)
    return lambda: attention(case.q, keys, values, mask)


def _runs(case: Case) -> list[tuple[slice, int, list[tuple[slice, Tensor]]]]:
    """Rows that see as much of the path, how much, and blocks of whole subtrees with masks."""
    roots = case.roots.tolist()
    starts = [r for r in roots if not r or case.seen[r] != case.seen[r - 1]]
    related, device = case.related()[:, case.base :], case.q.device
    runs = []
    for left, right in zip(starts, [*starts[1:], len(case.seen)], strict=True):
        cuts = [left]
        inside = [r for r in roots if left < r < right]
        for root, end in pairwise([*inside, right]):
            if end - cuts[-1] > OWN_TOKENS:
                cuts.append(root)
        blocks = [slice(a, b) for a, b in zip(cuts, [*cuts[1:], right], strict=True)]
        masks = [torch.from_numpy(related[block, block]).to(device) for block in blocks]
        added = [additive_mask(mask, torch.float32) for mask in masks]
        runs.append(
            (slice(left, right), int(case.seen[left]), list(zip(blocks, added, strict=True)))
        )
    return runs


def prepare_split(case: Case) -> Answer:
    """Prefix and own part by matrix products."""
    runs, base = _runs(case), case.base
    n, heads, head_dim = case.q.shape
    key_heads = case.k.shape[1]
    keys, values = case.k.transpose(0, 1), case.v.transpose(0, 1)  # (Hkv, base + n, D)

    def answer() -> Tensor:
        scaled = (case.q * head_dim**-0.5).view(n, key_heads, heads // key_heads, head_dim)
        grouped = scaled.permute(1, 2, 0, 3)  # (Hkv, rep, n, D)
        out = torch.empty_like(case.q)
        for rows, seen, blocks in runs:
            # the query heads of a key head are rows of one product
            q = grouped[:, :, rows].reshape(key_heads, -1, head_dim)
            above = partial(q, keys[:, :seen], values[:, :seen], None) if seen else None
            for block, mask in blocks:
                own = slice(base + block.start, base + block.stop)
                whole = partial(
                    grouped[:, :, block], keys[:, None, own], values[:, None, own], mask
                )
                if above:
                    here = slice(block.start - rows.start, block.stop - rows.start)
                    shape = (key_heads, heads // key_heads, rows.stop - rows.start, -1)
                    whole = merged(Partial(*(x.view(shape)[:, :, here] for x in above)), whole)
                out[block] = (whole.out / whole.total).permute(2, 0, 1, 3).flatten(1, 2)
        return out

    return answer


FLEX: Any = torch.compile(flex_attention, dynamic=False)


def prepare_flex(case: Case, slots: int) -> Answer:
    """flex_attention with a block mask; keys are padded to `slots`, one compilation for all packs.

    With dynamic shapes torch 2.13 writes C++ that does not compile once a mask reads a tensor.
    """
    device, size, used = case.q.device, len(case.q), len(case.k)
    low, reach = torch.zeros(2, slots, dtype=torch.int64)
    low[:used], reach[:used] = torch.from_numpy(case.low), torch.from_numpy(case.reach)
    low, reach = low.to(device), reach.to(device)

    def visible(_batch: Tensor, _head: Tensor, row: Tensor, slot: Tensor) -> Tensor:
        return (row >= low[slot]) & (row < reach[slot])

    mask = create_block_mask(visible, None, None, size, slots, device=str(device))
    k, v = (x.new_zeros(1, x.shape[1], slots, x.shape[2]) for x in (case.k, case.v))
    k[0, :, :used], v[0, :, :used] = case.k.transpose(0, 1), case.v.transpose(0, 1)
    q = case.q.transpose(0, 1)[None].contiguous()

    def answer() -> Tensor:
        out: Tensor = FLEX(q, k, v, block_mask=mask, enable_gqa=True)
        return out[0].transpose(0, 1)

    return answer


def forms(case: Case, packs: dict[int, Pack], slots: int) -> dict[str, Callable[[], Answer]]:
    """Every form by name: what prepares it; flex_attention's keys are padded to `slots`."""

    def engines(pack: Pack, form: Callable[[Stack, Pack], Attend]) -> Callable[[], Answer]:
        return lambda: prepare_engine(case, pack, form)

    found = {f"groups of {size}": engines(pack, GroupwiseAttend) for size, pack in packs.items()}
    if case.q.device.type == "cpu":
        for size, pack in packs.items():
            found[f"batches of {size}"] = engines(pack, make_attend)
    found["whole pack"] = lambda: prepare_whole(case)
    found["prefix + own, products"] = lambda: prepare_split(case)
    found["flex"] = lambda: prepare_flex(case, slots)
    return found
