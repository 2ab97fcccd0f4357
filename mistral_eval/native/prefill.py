"""Run new prompts through the model in packs, each behind what it shares."""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, compress

import torch
from torch import Tensor

from mistral_eval.model.memory import sent
from mistral_eval.model.shared_attend import Piece, PrefillAttend
from mistral_eval.model.shared_cache import SharedCache
from mistral_eval.model.transformer import Transformer
from mistral_eval.native.requests import Stop


def prefill(
    model: Transformer,
    cache: SharedCache,
    pieces: Sequence[tuple[Piece, tuple[int, ...]]],
    tokens: int,
    *,
    is_asked: bool,
    count: Callable[[Sequence[Piece], Sequence[bool]], None],
    stopping: Stop,
) -> list[Tensor] | None:
    """Compute pieces; return the last hidden state of each, (dim,), or None if told to stop.

    If none is asked, return an empty list.

    Args:
        model: computes them.
        cache: gets their keys and values.
        pieces: whole roots or tails, with their tokens.
        tokens: most tokens of a forward pass; a longer piece is split.
        is_asked: whether the hidden states are asked, or only keys and values.
        count: called with the pieces of each pass, and for each whether its last hidden state was
            asked.
        stopping: asked before each pass.
    """
    states: list[Tensor] = []
    for pack in _packs([piece for piece, _ in pieces], tokens):
        if stopping():
            return None
        parts = [piece for _, piece in pack]
        ids = [
            token
            for n, piece in pack
            for token in pieces[n][1][piece.start : piece.start + piece.count]
        ]
        asked = [is_asked and p.start + p.count == len(pieces[n][1]) for n, p in pack]
        ends = accumulate(piece.count for piece in parts)
        rows = [end - 1 for end in compress(ends, asked)]
        attend = PrefillAttend(cache, parts, asked)
        fed, ends_asked = (
            sent(torch.tensor(numbers, dtype=torch.int64), model.device) for numbers in (ids, rows)
        )
        hidden = model.hidden(fed, attend.positions, attend, ends_asked)
        count(parts, asked)
        states += hidden
    return states


def _packs(pieces: Sequence[Piece], tokens: int) -> Iterator[list[tuple[int, Piece]]]:
    """Yield packs of at most `tokens` tokens of (index, piece); split pieces that do not fit."""
    pack: list[tuple[int, Piece]] = []
    room = tokens
    for n, piece in enumerate(pieces):
        start, end = piece.start, piece.start + piece.count
        while start < end:
            count = min(room, end - start)
            pack.append((n, Piece(piece.owner, start, count)))
            start, room = start + count, room - count
            if not room:
                yield pack
                pack, room = [], tokens
    if pack:
        yield pack
