"""Cut the prefix tree into packs, one per forward pass, and packs into groups for attention.

A pack is a run of the depth-first order, so the earlier tokens it needs lie on one path. The keys
its queries may see are in *slots*: the path's by depth, then the pack's own tokens. A group is a
run of a pack small enough for its own mask; its queries see ancestors outside the group, by depth,
and tokens of the group. Attention thus costs group x (path + group), however wide the tree is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mistral_eval.native.tree import Ints, TokenTree

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Group:
    """A run of a pack's rows, `start` ... `end - 1`, with one mask.

    Attributes:
        ancestors: slot of each ancestor of the first row, by depth, (a,).
        shared: the number of them that are ancestors of every row.
        depths: each row's position in its sequence, (n,).
        queries: those of the pack's rows that attend, all of them or some, (q,).
        related: (n, a + n): column i < a tells whether the first row's ancestor i is one of this
            row, column a + j whether row j of the group is its ancestor or itself.
    """

    start: int
    end: int
    ancestors: Ints
    shared: int
    depths: Ints
    related: Bools
    queries: Ints


@dataclass(frozen=True, slots=True)
class Pack:
    """The tokens of one forward pass: `first` ... `last - 1` of the tree, cut into groups.

    Attributes:
        base: depth of the first token; slots below hold its ancestors, the others the pack.
        keep_from: slots below already hold ancestors of the next pack's first token.
        keep_slots: slots of its other ancestors, computed in this pack; slot `keep_slots[i]` moves
            to `keep_from + i`.
    """

    first: int
    last: int
    base: int
    groups: tuple[Group, ...]
    keep_from: int
    keep_slots: Ints

    def window(self, window: int | None) -> int | None:
        """Return the window, or None if it hides nothing from the pack's tokens."""
        deepest = max(int(group.depths.max()) for group in self.groups)
        return None if window is None or deepest < window else window

    def only(self, rows: Ints) -> "Pack":
        """Return the pack in which these rows alone, (r,), sorted, attend to the same keys.

        Groups without such a row remain, as they tell what the rows before and behind share.
        """
        groups = (
            replace(group, queries=rows[slice(*np.searchsorted(rows, [group.start, group.end]))])
            for group in self.groups
        )
        return replace(self, groups=tuple(groups))

    def seen(self, group: Group, window: int | None) -> tuple[Ints, Bools]:
        """Return slots that a group's queries see, (s,), and which query sees which, (q, s).

        These are the columns of `related`, without first ones that the window hides from all rows.
        """
        own = group.queries - group.start
        slots = np.concatenate([group.ancestors, self.base + np.arange(group.start, group.end)])
        if window is None:
            return slots, group.related[own]
        low = max(0, int(group.depths.min()) - window + 1)
        key_depths = np.concatenate([np.arange(len(group.ancestors)), group.depths])
        seen = group.related & (key_depths > group.depths[:, None] - window)
        return slots[low:], seen[own][:, low:]


def cut_packs(
    tree: TokenTree, batch_tokens: int, group_tokens: int, wanted: Ints | None = None
) -> Iterator[Pack]:
    """Yield the tree in packs of `batch_tokens` tokens, in depth-first order.

    With `wanted`, indices of tokens, (W,), skip the packs these tokens do not need; the others are
    the same as without it.
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
    """Return where a branch begins or continues in a new pack."""
    packs = np.arange(0, len(tree.tokens), batch_tokens)
    return np.unique(np.concatenate([tree.starts[:-1], packs]))


def _needed(tree: TokenTree, pieces: Ints, batch_tokens: int, wanted: Ints) -> Bools:
    """Return which packs hold a wanted token or an ancestor of one, (packs,).

    A token's ancestor at depth d is the last token before it at that depth. So a backward walk
    needs one number as state: ancestors of wanted tokens are at depths below `limit`.

    The stack stays valid for wanted tokens when packs are skipped. A subtree is a run, so an
    ancestor before the gap of a token after it is also an ancestor of the gap's first token; and
    those are what the last pack before the gap keeps on the path. Other tokens of a pack may see
    old keys and values, and nobody asks for theirs.
    """
    needed = np.zeros(-(-len(tree.tokens) // batch_tokens), dtype=np.bool_)
    bounds = np.searchsorted(np.unique(wanted), [*pieces, len(tree.tokens)])
    depths, packs = tree.depths[pieces].tolist(), (pieces // batch_tokens).tolist()
    limit = 0
    for depth, pack, holds in zip(
        depths[::-1], packs[::-1], np.diff(bounds)[::-1].tolist(), strict=True
    ):
        if holds or depth < limit:
            needed[pack] = True
            limit = depth
    return needed


def _pack(tree: TokenTree, cuts: list[int], group_tokens: int) -> Pack:
    """Build the pack of the pieces that begin at `cuts`; the last entry is its end."""
    first, last = cuts[0], cuts[-1]
    base, ahead = int(tree.depths[first]), int(tree.depths[last]) if last < len(tree.depths) else 0
    path = np.arange(int(tree.depths[first:last].max()) + 1)  # slot of the path's token, by depth
    groups = tuple(
        _group(tree, bounds, path, first, base) for bounds in _bounds(tree, cuts, group_tokens)
    )
    keep_from = int(np.searchsorted(path[:ahead] >= base, True))  # slots of the path come first
    return Pack(first, last, base, groups, keep_from, path[keep_from:ahead])


def _bounds(tree: TokenTree, cuts: list[int], group_tokens: int) -> Iterator[list[int]]:
    """Yield for each group where its pieces of branches begin, then where it ends.

    Long branches are cut; pieces join a group while they fit and begin near the first one's depth.
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
    """Build the group of the pieces that begin at `bounds`; the last entry is its end.

    The pack begins with token `origin`, in slot `base`; `path` is updated.
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
    start, stop = first - origin, end - origin
    depths, queries = tree.depths[first:end], np.arange(start, stop)
    return Group(start, stop, ancestors, shared, depths, related, queries)
