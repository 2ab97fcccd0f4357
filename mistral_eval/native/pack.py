"""Cutting the tree into packs for one forward pass each, and a pack into groups of attention.

A pack is a run of the depth-first order, so the tokens it needs from before lie on one path. What
its queries may see lies in *slots*: those of the path first, by depth, then the pack's own tokens.
A group is a run of a pack that is small enough for a mask of its own; its queries see ancestors
outside the group, by depth, and the group's tokens. So attention costs group x (path + group),
however wide the tree is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mistral_eval.native.tree import Ints, TokenTree

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Group:
    """A run of a pack's rows that share a mask.

    Attributes:
        start: first row within the pack.
        end: row after the last.
        ancestors: slot of each ancestor of the first row, by depth, (a,).
        shared: so many of them are ancestors of every row.
        depths: each row's position in its sequence, (n,).
        related: row by row, (n, a + n): column i < a says whether the first row's ancestor i is
            one of this row, column a + j whether row j of the group is its ancestor or itself.
    """

    start: int
    end: int
    ancestors: Ints
    shared: int
    depths: Ints
    related: Bools


@dataclass(frozen=True, slots=True)
class Pack:
    """The tokens of one forward pass: `first` ... `last` of the tree, cut into groups.

    Attributes:
        first: the first token.
        last: the token after the last.
        base: depth of the first token: the slots below hold its ancestors, the pack's tokens
            follow from here on.
        groups: of attention.
        keep_from: the slots below hold ancestors of the next pack's first token already.
        keep_slots: its further ancestors, which the pack computes: slot `keep_slots[i]` moves to
            `keep_from + i`.
    """

    first: int
    last: int
    base: int
    groups: tuple[Group, ...]
    keep_from: int
    keep_slots: Ints

    def window(self, window: int | None) -> int | None:
        """The same window, or None where it hides nothing from the pack's tokens."""
        deepest = max(int(group.depths.max()) for group in self.groups)
        return None if window is None or deepest < window else window

    def seen(self, group: Group, window: int | None) -> tuple[Ints, Bools]:
        """Slots that a group's rows see in layers of `window`, (s,), and which row sees which.

        They are the columns of the group's `related`, (n, s), without the first ones where the
        window hides these from all rows.
        """
        slots = np.concatenate([group.ancestors, self.base + np.arange(group.start, group.end)])
        if window is None:
            return slots, group.related
        low = max(0, int(group.depths.min()) - window + 1)
        key_depths = np.concatenate([np.arange(len(group.ancestors)), group.depths])
        seen = group.related & (key_depths > group.depths[:, None] - window)
        return slots[low:], seen[:, low:]


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
        yield _pack(tree, cuts, group_tokens)


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
    subtree is a run; and those are what the last pack before the gap leaves in its slots.
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


def _pack(tree: TokenTree, cuts: list[int], group_tokens: int) -> Pack:
    """The pack of the pieces that begin at `cuts`, whose last entry is its end."""
    first, last = cuts[0], cuts[-1]
    base, ahead = int(tree.depths[first]), int(tree.depths[last]) if last < len(tree.depths) else 0
    path = np.arange(int(tree.depths[first:last].max()) + 1)  # slot of the path's token, by depth
    groups = tuple(
        _group(tree, bounds, path, first, base) for bounds in _bounds(tree, cuts, group_tokens)
    )
    keep_from = int(np.searchsorted(path[:ahead] >= base, True))  # the path's own come first
    return Pack(first, last, base, groups, keep_from, path[keep_from:ahead])


def _bounds(tree: TokenTree, cuts: list[int], group_tokens: int) -> Iterator[list[int]]:
    """For each group where its pieces of branches begin, then where it ends.

    Long branches are cut; pieces are gathered while they fit and begin near the first one's depth.
    """
    bounds = [cuts[0]]
    for left, right in pairwise(cuts):
        bounds += [*range(left + group_tokens, right, group_tokens), right]
    members = [bounds[0]]
    for piece, end in pairwise(bounds[1:]):
        is_far = tree.depths[members[0]] - tree.depths[piece] > group_tokens // 2
        if is_far or end - members[0] > group_tokens:
            yield [*members, piece]
            members = []
        members.append(piece)
    yield [*members, cuts[-1]]


def _group(tree: TokenTree, bounds: Sequence[int], path: Ints, origin: int, base: int) -> Group:
    """The group of the pieces that begin at `bounds`, whose last entry is its end.

    The pack begins with token `origin`, in slot `base`; `path` is carried forward.
    """
    first, end = bounds[0], bounds[-1]
    ancestors = path[: int(tree.depths[first])].copy()
    above, size, shared = len(ancestors), end - first, len(ancestors)
    related = np.zeros((size, above + size), dtype=np.bool_)
    columns = np.arange(int(tree.depths[first:end].max()) + 1)  # by depth
    for left, right in pairwise(bounds):
        depth, rows = int(tree.depths[left]), slice(left - first, right - first)
        shared = min(shared, depth)
        related[rows, :shared] = True
        related[rows, columns[shared:depth]] = True
        own = np.arange(above + rows.start, above + rows.stop)
        related[rows, own] = np.tri(right - left, dtype=np.bool_)
        columns[depth : depth + right - left] = own
        path[depth : depth + right - left] = base - origin + np.arange(left, right)
    return Group(first - origin, end - origin, ancestors, shared, tree.depths[first:end], related)
