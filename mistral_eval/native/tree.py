"""Build the prefix tree of all score requests as one array of tokens in depth-first order.

The distinct sequences are sorted; each contributes the tokens it does not share with the previous
one, a *branch*. The concatenated branches are a depth-first walk in which every token occurs once,
after all its ancestors, so no node objects are needed.

Example: sequences (1 2), (1 2 3) and (1 2 4 5) give the tokens 1 2 | 3 | 4 5 with depths
0 1 | 2 | 2 3. A sequence that is a prefix of another sorts before it, so no branch is empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mistral_eval.native.requests import ScoreRequest

Ints = NDArray[np.int64]
NO_IDS: Ints = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class TokenTree:
    """Tokens in depth-first order, their branches, and what is asked of them.

    Attributes:
        tokens: ids, (U,), U = unique tokens.
        depths: each token's position in its sequence, (U,).
        starts: index of each branch's first token, (B + 1,); the last entry is U.
        asked_node: for each token of each continuation, the tree token that predicts it, (A,),
            sorted.
        asked_token: the id whose probability is asked for, (A,).
        asked_request: index of the request it belongs to, (A,).
        naive_tokens: total length of the distinct sequences, which lm-eval's `hf` model feeds.
    """

    tokens: Ints
    depths: Ints
    starts: Ints
    asked_node: Ints
    asked_token: Ints
    asked_request: Ints
    naive_tokens: int

    @property
    def height(self) -> int:
        """Length of the longest sequence."""
        return int(self.depths.max()) + 1 if len(self.depths) else 0

    def asked_rows(self, first: int, last: int) -> Ints:
        """Return which of tokens `first` ... `last - 1` something is asked of, from `first` on."""
        return np.unique(self.asked_node[self.asked_in(first, last)]) - first

    def asked_in(self, first: int, last: int) -> slice:
        """Return where what is asked of tokens `first` ... `last - 1` stands in `asked_node`."""
        low, high = np.searchsorted(self.asked_node, [first, last])
        return slice(int(low), int(high))


def build_tree(requests: Sequence[ScoreRequest]) -> TokenTree:
    """Build the prefix tree of the tokens that requests feed, `(context + continuation)[:-1]`.

    It depends only on the set of requests, not on their order.
    """
    askers: dict[bytes, list[int]] = {}
    context, head = None, b""  # the choices of a question are neighbours and share one tuple
    for n, request in enumerate(requests):
        if request.context is not context:
            context, head = request.context, sortable(request.context)
        askers.setdefault(head + sortable(request.continuation[:-1]), []).append(n)
    ordered = sorted(askers)
    sequences = [np.frombuffer(key, dtype=">u4").astype(np.int64) for key in ordered]
    shared = [common_length(left, right) for left, right in pairwise([NO_IDS, *sequences])]
    branches = list(zip(sequences, shared, strict=True))
    sizes = [len(ids) - depth for ids, depth in branches]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    asked = _asked(requests, [askers[key] for key in ordered], branches, starts)
    return TokenTree(
        tokens=_joined([ids[depth:] for ids, depth in branches]),
        depths=_joined([np.arange(depth, len(ids)) for ids, depth in branches]),
        starts=starts,
        asked_node=asked[0],
        asked_token=asked[1],
        asked_request=asked[2],
        naive_tokens=sum(len(ids) for ids in sequences),
    )


def sortable(ids: Sequence[int]) -> bytes:
    """Return the ids as big-endian bytes, which sort like the ids."""
    return np.array(ids, dtype=">u4").tobytes()


def common_length(left: Ints, right: Ints) -> int:
    """Return the length of the longest common prefix."""
    size = min(len(left), len(right))
    differs = left[:size] != right[:size]
    return int(differs.argmax()) if differs.any() else size


def _joined(parts: list[Ints]) -> Ints:
    return np.concatenate([NO_IDS, *parts])


def _asked(
    requests: Sequence[ScoreRequest],
    askers: list[list[int]],
    branches: list[tuple[Ints, int]],
    starts: Ints,
) -> tuple[Ints, Ints, Ints]:
    """Return node, token and request of every token of every continuation, sorted by node."""
    path = np.zeros(max((len(ids) for ids, _ in branches), default=0), dtype=np.int64)
    nodes: list[Ints] = []
    tokens: list[Ints] = []
    owners: list[Ints] = []
    for (ids, depth), start, group in zip(branches, starts[:-1], askers, strict=True):
        path[depth : len(ids)] = np.arange(start, start + len(ids) - depth)
        for n in group:
            words = np.array(requests[n].continuation, dtype=np.int64)
            nodes.append(path[len(ids) - len(words) : len(ids)].copy())
            tokens.append(words)
            owners.append(np.full(len(words), n))
    joined = _joined(nodes), _joined(tokens), _joined(owners)
    order = np.argsort(joined[0], kind="stable")
    return joined[0][order], joined[1][order], joined[2][order]
