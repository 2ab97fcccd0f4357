"""Multiply hidden states by the LM head, in tiles of the vocabulary."""

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from mistral_eval.model.products import (
    HEAD,
    Matrix,
    Way,
    Ways,
    is_in_library,
    shape_class,
)

# Words of a tile on a CPU: with 256 rows the logits of a tile, float32, fit in its L2 cache, so the
# passes over them cost little beside the matrix product.
TILE: Final = 2048


class LMHead:
    """The output projection; on a CPU in tiles, which may be packed."""

    def __init__(self, weight: Tensor, ways: Ways, *, is_tied: bool) -> None:
        """Take the weights, (words, dim).

        Args:
            weight: of a tied model, its embeddings: they are needed as they are, so no tile is
                packed.
            ways: how to multiply, by shape class, and by `HEAD` for tied weights.
            is_tied: whether the weights are the embeddings.
        """
        tiles = max(1, -(-len(weight) // TILE)) if weight.device.type == "cpu" else 1
        usual = _usual(weight)
        first = 0
        self._tiles: list[tuple[int, Matrix]] = []
        for tile in weight.tensor_split(tiles):
            name = shape_class(*tile.shape)
            pair = ways.get(HEAD if is_tied else name, usual)
            self._tiles.append((first, Matrix(tile, {name: pair})))
            first += len(tile)
        self._width = -(-len(weight) // tiles)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits, (R, words), of hidden states, (R, dim)."""
        return self._columns(hidden, self._tiles)

    def tiles(self, hidden: Tensor, words: int) -> Iterator[tuple[int, Tensor]]:
        """Yield the same logits in tiles of about `words` columns, each with its first column."""
        step = max(1, words // self._width)
        for n in range(0, len(self._tiles), step):
            some = self._tiles[n : n + step]
            yield some[0][0], self._columns(hidden, some)

    def _columns(self, hidden: Tensor, tiles: list[tuple[int, Matrix]]) -> Tensor:
        if len(tiles) == 1:
            return tiles[0][1].times(hidden).float()
        begin, (last, matrix) = tiles[0][0], tiles[-1]
        found = hidden.new_empty(len(hidden), last + matrix.rows - begin, dtype=torch.float32)
        for first, matrix in tiles:
            found[:, first - begin : first - begin + matrix.rows] = matrix.times(hidden)
        return found


def _usual(like: Tensor) -> tuple[Way, Way]:
    """Return the ways of an LM head that was not measured.

    With few rows a CPU spends its time reading the weights, and reads a left operand faster.
    """
    is_known = like.dtype in (torch.float32, torch.bfloat16)  # the dtypes that were measured
    few = Way.LEFT if is_known and is_in_library(like.dtype, like.device) else Way.PLAIN
    return few, Way.PLAIN
