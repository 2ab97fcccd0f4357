"""Multiply by a weight matrix in the way that is fastest on this machine.

Torch offers several ways on a CPU, whose speeds differ by a factor of two and more between
processors: its own product (MKL on Intel's instructions, with either operand on the left), and
oneDNN with the weights as they are or packed for it. oneDNN's operators are those of torch's
compiler and not public, so they are used only where they are found; `Way.PLAIN` is always there.
Values agree up to rounding; `native/choose_products.py` measures which way to take.
"""

import os
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad, silu

FEW_ROWS: Final = 48  # with fewer, a CPU spends its time reading the weights
_LIBRARY: Final = torch.ops.mkldnn  # oneDNN operators of torch's compiler; they are not public


class Way(StrEnum):
    """How to multiply x, (T, in), by w, (out, in); `words` says it to a user."""

    PLAIN = "plain"  # torch.mm(x, w.t())
    LEFT = "left"  # torch.mm(w, x.t()).t()
    LIBRARY = "library"  # oneDNN, weights as they are
    PACKED = "packed"  # oneDNN, weights packed once

    @property
    def words(self) -> str:
        """The way in words."""
        return {
            Way.PLAIN: "torch.mm",
            Way.LEFT: "torch.mm with the weights on the left",
            Way.LIBRARY: "oneDNN",
            Way.PACKED: "oneDNN with packed weights",
        }[self]


# Ways for few rows and for many, by a matrix' shape class (see `shape_class`). A packed matrix is
# packed for both.
Ways: TypeAlias = Mapping[str, tuple[Way, Way]]
NO_WAYS: Final[Ways] = MappingProxyType({})  # all plain
HEAD: Final = "head"  # the ways of an LM head that is tied to the embeddings, never packed
KERNELS: Final = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
_KERNELS: Final = 256
_BLOCK: Final = 128  # columns
LARGEST_SIDE: Final = 1024  # larger matrices are alike


def shape_class(out: int, width: int) -> str:
    """Return the class of a matrix (out, in): matrices of one class take one way."""
    return f"{min(width, LARGEST_SIDE)}x{min(out, LARGEST_SIDE)}"


def possible_ways(dtype: torch.dtype, device: torch.device) -> tuple[Way, ...]:
    """Return the ways that this machine has for a dtype, the plain one first."""
    if device.type != "cpu" or dtype not in (torch.float32, torch.bfloat16):
        return (Way.PLAIN,)
    ways = (Way.PLAIN, Way.LEFT)
    if not is_in_library(dtype, device):
        return ways
    if not hasattr(_LIBRARY, "_reorder_linear_weight"):
        return (*ways, Way.LIBRARY)
    return (*ways, Way.LIBRARY, Way.PACKED)


def is_in_library(dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether oneDNN multiplies matrices of this dtype on this processor."""
    return (
        device.type == "cpu"
        and torch._C._get_mkldnn_enabled()  # noqa: SLF001 - mypy cannot read the public flag
        and hasattr(_LIBRARY, "_linear_pointwise")
        and not _LIBRARY._is_mkldnn_acl_supported()  # noqa: SLF001 - Arm's library takes over
        and (dtype == torch.float32 or bool(_LIBRARY._is_mkldnn_bf16_supported()))  # noqa: SLF001
    )


class Matrix:
    """A weight matrix, in the form that its way takes.

    Attributes:
        rows: number of outputs.
        weight: (out, in), or packed.
    """

    def __init__(self, w: Tensor, ways: Ways = NO_WAYS) -> None:
        """Take w, (out, in); it is copied only if it is packed."""
        self.rows = len(w)
        self._few, self._many = ways.get(shape_class(*w.shape), (Way.PLAIN, Way.PLAIN))
        self.is_packed = Way.PACKED in (self._few, self._many)
        if self.is_packed:
            self._few = self._many = Way.PACKED
        self.weight = packed(w) if self.is_packed else w

    def times(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Return x @ w.t(), (T, out), of x, (T, in); some ways write it to `out`."""
        return multiplied(x, self.weight, self._way(x), out)

    def add_to(self, y: Tensor, x: Tensor) -> None:
        """Add x @ w.t() to y, (T, out), in place."""
        if self._way(x) is Way.PLAIN:
            y.addmm_(x, self.weight.t())
        else:
            y.add_(self.times(x))

    def gate(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Return silu(x @ w.t()), (T, out); some ways write it to `out`."""
        if is_fused(x) and len(x) >= FEW_ROWS:
            return library_product(x, self.weight, "swish")
        return silu(self.times(x, out), inplace=True)

    def gating(self, gate: Tensor, x: Tensor, out: Tensor) -> Tensor:
        """Return gate * (x @ w.t()), (T, out); `gate` and `out` may be overwritten."""
        if is_fused(x):
            rows = len(x)
            if more := rounded_rows(rows) - rows:
                x, gate = (pad(part, (0, 0, 0, more)) for part in (x, gate))
            fused: Tensor = _LIBRARY._linear_pointwise.binary(x, gate, self.weight, None, "mul")  # noqa: SLF001
            return fused[:rows]
        return gate.mul_(self.times(x, out))

    def _way(self, x: Tensor) -> Way:
        return self._few if len(x) < FEW_ROWS else self._many


def is_fused(like: Tensor) -> bool:
    """Return whether a product and what follows are one operator, which allocates its result.

    Fused, they are faster in bfloat16 if oneDNN supports it, and slower in float32. SiLU is fused
    from `FEW_ROWS` rows on: with fewer it was up to 9 % slower.
    """
    return like.dtype == torch.bfloat16 and is_in_library(like.dtype, like.device)


def multiplied(x: Tensor, w: Tensor, way: Way, out: Tensor | None = None) -> Tensor:
    """Return x @ w.t(), (T, out), of x, (T, in), and w, (out, in) or packed.

    Only the plain way uses `out`, memory for the result. oneDNN gets rows of zeros behind x, so
    that it sees few different numbers of rows.
    """
    if way is Way.PLAIN:
        return torch.mm(x, w.t(), out=out)
    if way is Way.LEFT:
        return torch.mm(w, x.t()).t().contiguous()
    return library_product(x, w)


def library_product(x: Tensor, w: Tensor, activation: str = "none") -> Tensor:
    """Return oneDNN's x @ w.t(), (T, out), of which the activation is computed in float32."""
    rows = len(x)
    if more := rounded_rows(rows) - rows:
        x = pad(x, (0, 0, 0, more))
    product: Tensor = _LIBRARY._linear_pointwise(x, w, None, activation, [], "")  # noqa: SLF001
    return product[:rows]


def rounded_rows(rows: int) -> int:
    """Return the number of rows with which oneDNN is called: from 48 on at most a seventh more.

    It compiles a kernel of about half a megabyte for each number, and keeps it.
    """
    if rows <= 8:
        return 1 << (rows - 1).bit_length() if rows else 0
    step = max(8, 1 << max(0, (rows - 1).bit_length() - 4))
    return -(-rows // step) * step


def limit_kernels() -> None:
    """Let oneDNN keep few of the kernels that it compiles, unless the user's setting says how many.

    Its limit of 1024 lets a run's memory grow by gigabytes. Call this before the first product.
    """
    os.environ.setdefault(KERNELS, str(_KERNELS))


def packed(w: Tensor) -> Tensor:
    """Return weights in oneDNN's own layout."""
    found: Tensor = _LIBRARY._reorder_linear_weight(w)  # noqa: SLF001
    return found


def largest(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest number of each row of x, (R, n), and its column: two tensors, (R,).

    Of equal numbers the first counts. On a CPU torch finds where a row's maximum is ten times more
    slowly than what it is, so it is sought in the block that has it.
    """
    rows, blocks = len(x), x.shape[1] // _BLOCK
    if x.device.type != "cpu" or not blocks:
        found = x.max(dim=1)
        return found.values, found.indices
    tops = x[:, : blocks * _BLOCK].view(rows, blocks, _BLOCK).amax(dim=2)
    if rest := x.shape[1] - blocks * _BLOCK:
        tops = torch.cat([tops, x[:, -rest:].amax(dim=1, keepdim=True)], dim=1)
    block = tops.argmax(dim=1, keepdim=True)
    columns = (block * _BLOCK + torch.arange(_BLOCK)).clamp_max(x.shape[1] - 1)
    where = columns.gather(1, x.gather(1, columns).argmax(dim=1, keepdim=True))
    return x.gather(1, where)[:, 0], where[:, 0]
