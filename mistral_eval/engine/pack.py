"""Cutting the tree into packs for one forward pass each, and a pack into groups of attention.

A pack is a run of the depth-first order, so the tokens it needs from before lie on one path: the
stack. A group is a run of a pack that is small enough for a square mask; its queries see the
stack's slots, which hold ancestors by depth, and the group's own tokens, which are written behind
them. So attention costs group x (path + group), however wide the tree is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mistral_eval.engine.tree import Ints, TokenTree

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Group:
    """A run of a pack whose attention is computed in one call.

    Attributes:
        start: first row within the pack.
        end: row after the last.
        base: depth of the first token; the group's tokens go to the stack's slots from here on.
        key_depths: position of the key in each slot, (base + n,).
        related: whether a slot holds an ancestor of a row's token or the token itself,
            (n, base + n).
        keep_from: the slots below hold the next group's ancestors already.
        keep_slots: where its further ancestors lie: slot `keep_slots[i]` moves to
            `keep_from + i`.
    """

    start: int
    end: int
    base: int
    key_depths: Ints
    related: Bools
    keep_from: int
    keep_slots: Ints


@dataclass(frozen=True, slots=True)
class Pack:
    """The tokens of one forward pass: `first` ... `last` of the tree, cut into groups."""

    first: int
    last: int
    groups: tuple[Group, ...]


def cut_packs(
    tree: TokenTree, batch_tokens: int, group_tokens: int, wanted: Ints | None = None
) -> Iterator[Pack]:
    """The tree in packs of `batch_tokens`, in depth-first order; each token in one pack.

    With `wanted`, (W,), tokens of the tree, the packs they do not need are left out; those that
    remain are what they are without it.
    """
    total = len(tree.tokens)
    pieces = _pieces(tree, batch_tokens)
    needed = None if wanted is None else _needed(tree, pieces, batch_tokens, wanted)
    for first in range(0, total, batch_tokens):
        if needed is not None and not needed[first // batch_tokens]:
            continue
        last = min(first + batch_tokens, total)
        low, high = np.searchsorted(pieces, [first, last])
        cuts = [*pieces[low:high].tolist(), last]
        yield Pack(first, last, tuple(_groups(tree, cuts, group_tokens)))


def _pieces(tree: TokenTree, batch_tokens: int) -> Ints:
    """Where a branch begins, or goes on in a new pack."""
    packs = np.arange(0, len(tree.tokens), batch_tokens)
    return np.unique(np.concatenate([tree.starts[:-1], packs]))


def _needed(tree: TokenTree, pieces: Ints, batch_tokens: int, wanted: Ints) -> Bools:
    """Which packs hold a wanted token, or an ancestor of a token of a needed pack, (packs,).

    The ancestor of a token at depth d is the last token before it at that depth. So, walking
    backwards, what is still looked for is one number: tokens of a depth below `limit`. All
    ancestors of a pack's tokens outside it are those of its first.

    Leaving packs out does not disturb the stack. An ancestor of a later token that was computed
    before the gap is an ancestor of the token right behind the gap's beginning as well, for a
    subtree is a run; and those are what the last group before the gap leaves in its slots.
    """
    needed = np.zeros(-(-len(tree.tokens) // batch_tokens), dtype=np.bool_)
    needed[wanted // batch_tokens] = True
    limit = 0
    depths, packs = tree.depths[pieces].tolist(), (pieces // batch_tokens).tolist()
    for first, depth, pack in zip(pieces[::-1].tolist(), depths[::-1], packs[::-1], strict=True):
        if depth < limit:
            needed[pack] = True
            limit = depth
        if needed[pack] and first == pack * batch_tokens:
            limit = depth
    return needed


def _groups(tree: TokenTree, cuts: list[int], group_tokens: int) -> Iterator[Group]:
    """Pieces of branches, long ones cut, gathered while they fit and lie near the group's base."""
    bounds = [cuts[0]]
    for left, right in pairwise(cuts):
        bounds += [*range(left + group_tokens, right, group_tokens), right]
    members = [bounds[0]]  # where the group's pieces begin
    for piece, end in pairwise(bounds[1:]):
        is_far = tree.depths[members[0]] - tree.depths[piece] > group_tokens // 2
        if is_far or end - members[0] > group_tokens:
            yield _group(tree, members, piece, cuts[0])
            members = []
        members.append(piece)
    yield _group(tree, members, cuts[-1], cuts[0])


def _group(tree: TokenTree, members: list[int], end: int, origin: int) -> Group:
    """The group of the tokens `members[0]` ... `end`, each member beginning a piece."""
    first = members[0]
    base, size = int(tree.depths[first]), end - first
    related = np.zeros((size, base + size), dtype=np.bool_)
    slots = np.arange(base + size + int(tree.depths[first:end].max()) + 1)  # by depth on the path
    least = base
    for left, right in pairwise([*members, end]):
        depth, rows = int(tree.depths[left]), slice(left - first, right - first)
        least = min(least, depth)
        related[rows, slots[:depth]] = True
        own = np.arange(base + rows.start, base + rows.stop)
        related[rows, own] = np.tri(right - left, dtype=np.bool_)
        slots[depth : depth + right - left] = own
    ahead = int(tree.depths[end]) if end < len(tree.depths) else 0
    kept = slots[least:ahead]
    if np.array_equal(kept, np.arange(least, least + len(kept))):
        kept = kept[:0]
    key_depths = np.concatenate([np.arange(base), tree.depths[first:end]])
    return Group(first - origin, end - origin, base, key_depths, related, least, kept)
