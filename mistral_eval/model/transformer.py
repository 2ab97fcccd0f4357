"""The Mistral transformer in plain torch: token ids and positions in, hidden states or logits out.

Source: Mistral 7B paper, section 2; names from mistral-inference. Grouped-query attention,
SwiGLU, RMSNorm, rotary embedding; what a query may see is the business of an `Attend`.
"""

import math
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from mistral_eval.errors import CheckpointError
from mistral_eval.model.attention import Attend
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.load.layout import expected_shapes, interleaved_from_half_split

_FEW_ROWS = 48
_LIBRARY: Final = torch.ops.mkldnn  # what torch's compiler calls; there are no public names


class Workspace:
    """Memory for what a pass computes on its way, the same for every layer and every pack.

    Memory fresh from the allocator is in no cache: on a CPU with bfloat16 products in hardware,
    products that write to the same buffers are a third faster.
    """

    def __init__(self, config: ModelConfig, like: Tensor, size: int) -> None:
        """Room for `size` tokens, in the dtype and on the device of `like`."""
        heads = config.n_heads + 2 * config.n_kv_heads

        def room(*shape: int, dtype: torch.dtype = like.dtype) -> Tensor:
            return torch.empty(size, *shape, dtype=dtype, device=like.device)

        self.size = size
        self.x = room(config.dim)
        self.normed = room(config.dim)
        self.qkv = room(heads * config.head_dim)
        self.gate = room(config.hidden_dim)
        self.up = room(0 if is_fused(like) else config.hidden_dim)
        self.is_wide = like.dtype == torch.float32
        wide = max(config.dim, (config.n_heads + config.n_kv_heads) * config.head_dim)
        self.wide = room(0 if self.is_wide else wide, dtype=torch.float32)

    def first(self, count: int) -> "Workspace":
        """The part of it that `count` tokens take."""
        part = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(part, name, value[:count])
        return part

    def norm(self, weight: Tensor, eps: float) -> Tensor:
        """RMSNorm of `x`, into `normed`.

        It divides by the root of the mean square, in float32, then multiplies by `weight`.
        """
        wide = self.x if self.is_wide else self.in_float32(*self.x.shape).copy_(self.x)
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = norm.square_().div_(self.x.shape[-1]).add_(eps).rsqrt_()
        if self.is_wide:
            return torch.mul(wide, scale, out=self.normed).mul_(weight)
        return self.normed.copy_(wide.mul_(scale)).mul_(weight)

    def in_float32(self, *shape: int) -> Tensor:
        """Room for so much in float32, for as long as one step takes; not where all is float32."""
        return self.wide.view(-1)[: math.prod(shape)].view(shape)


@dataclass(frozen=True, slots=True)
class Rotation:
    """The turn of some tokens, complex64, (T, 1, head_dim / 2)."""

    turn: Tensor

    def __call__(self, x: Tensor, space: Tensor) -> None:
        """Turn queries or keys in place, computing in float32.

        Args:
            x: (T, heads, head_dim).
            space: x itself where it is float32, else room for as much in float32.
        """
        wide = x if space is x else space.copy_(x)
        pairs = torch.view_as_complex(wide.view(*wide.shape[:-1], -1, 2))  # (T, heads, D / 2)
        pairs.mul_(self.turn)
        if wide is not x:
            x.copy_(wide)


class RotaryTable:
    """The turns of every position up to `length`, computed once in float32."""

    def __init__(self, head_dim: int, theta: float, length: int, device: torch.device) -> None:
        """Angle of position p and pair d: p * theta ** (-2 d / head_dim)."""
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
        positions = torch.arange(length, dtype=torch.float32, device=device)
        angles = torch.outer(positions, 1.0 / theta**exponents)  # (length, head_dim / 2)
        self._turns = torch.polar(torch.ones_like(angles), angles)

    def at(self, positions: Tensor) -> Rotation:
        """The rotation of tokens at these positions, (T,)."""
        return Rotation(self._turns[positions][:, None])


@dataclass(frozen=True, slots=True)
class Layer:
    """One block's weights, linear ones as transposed views, (in, out).

    `wqkv` joins wq, wk and wv, those of queries and keys with each rotated pair side by side.
    """

    attention_norm: Tensor
    wqkv: Tensor
    wo: Tensor
    ffn_norm: Tensor
    w1: Tensor
    w2: Tensor
    w3: Tensor


def _check(config: ModelConfig, weights: Mapping[str, Tensor]) -> None:
    for name, shape in expected_shapes(config).items():
        if name not in weights:
            raise CheckpointError(f"the model needs a tensor {name}, the checkpoint has none")
        found = tuple(weights[name].shape)
        if found != shape:
            raise CheckpointError(f"tensor {name}: expected shape {shape}, found {found}")


class Transformer:
    """A decoder whose weights, dtype and device are those of the tensors it is given."""

    def __init__(self, config: ModelConfig, weights: Mapping[str, Tensor], n_words: int) -> None:
        """`n_words` is the number of ids the tokenizer has: rows of the LM head beyond are cut.

        Raises:
            CheckpointError: a tensor is missing or has another shape, or `n_words` exceeds the
                vocabulary.
        """
        _check(config, weights)
        if n_words > config.vocab_size:
            raise CheckpointError(
                f"the tokenizer has {n_words} ids, the embedding only {config.vocab_size} rows"
            )
        self.config = config
        self.n_words = n_words
        self._embeddings = weights["tok_embeddings.weight"]
        self._norm = weights["norm.weight"]
        tied = config.tied_embeddings
        self._output = (self._embeddings if tied else weights["output.weight"])[:n_words]
        self._layers = [self._layer(weights, n) for n in range(config.n_layers)]
        self.device, self.dtype = self._embeddings.device, self._embeddings.dtype
        self._is_fused = is_fused(self._embeddings)
        self.release()
        self._rope = RotaryTable(
            config.head_dim, config.rope_theta, config.context_len, self.device
        )

    def _layer(self, weights: Mapping[str, Tensor], n: int) -> Layer:
        wq, wk, wv, wo = (weights[f"layers.{n}.attention.w{x}.weight"] for x in "qkvo")
        w1, w2, w3 = (weights[f"layers.{n}.feed_forward.w{x}.weight"] for x in "123")
        turned = (interleaved_from_half_split(w, self.config.head_dim) for w in (wq, wk))
        return Layer(
            weights[f"layers.{n}.attention_norm.weight"],
            torch.cat([*turned, wv]).t(),
            wo.t(),
            weights[f"layers.{n}.ffn_norm.weight"],
            w1.t(),
            w2.t(),
            w3.t(),
        )

    @torch.inference_mode()
    def hidden(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Run a pack of tokens through all layers and the last norm.

        Args:
            tokens: ids, (T,); how they form sequences is known to `attend` alone.
            positions: each token's position in its sequence, (T,), below `context_len`.
            attend: attention and cache.

        Returns:
            Hidden states, (T, dim), ready for `logits`.
        """
        rotation = self._rope.at(positions)
        space = self._room_for(len(tokens))
        torch.index_select(self._embeddings, 0, tokens, out=space.x)  # (T, dim)
        for n, layer in enumerate(self._layers):
            space.x.addmm_(self._attention(n, layer, space, rotation, attend), layer.wo)
            space.x.addmm_(self._feed_forward(layer, space), layer.w2)
        return space.norm(self._norm, self.config.norm_eps).clone()

    def release(self) -> None:
        """Let go of the workspace, which is as large as the largest pass so far."""
        self._space = Workspace(self.config, self._embeddings, 0)

    def _room_for(self, count: int) -> Workspace:
        if self._space.size < count:
            self._space = Workspace(self.config, self._embeddings, count)
        return self._space.first(count)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """LM head over the rows that are asked for: (R, dim) -> float32 (R, n_words)."""
        return _head(hidden, self._output)

    def logit_tiles(self, hidden: Tensor, words: int) -> Iterator[tuple[int, Tensor]]:
        """The same logits, `words` columns at a time, each with its first word's id."""
        for first in range(0, self.n_words, words):
            yield first, _head(hidden, self._output[first : first + words])

    def _attention(
        self, n: int, layer: Layer, space: Workspace, rotation: Rotation, attend: Attend
    ) -> Tensor:
        """What the output projection wo mixes, (T, n_heads * head_dim)."""
        config = self.config
        h = space.norm(layer.attention_norm, config.norm_eps)
        qkv = torch.mm(h, layer.wqkv, out=space.qkv).view(len(h), -1, config.head_dim)
        turned = config.n_heads + config.n_kv_heads  # of all heads, (T, heads, D)
        rotated = qkv[:, :turned]
        rotation(rotated, rotated if space.is_wide else space.in_float32(*rotated.shape))
        q, k, v = qkv.tensor_split((config.n_heads, turned), dim=1)
        return attend(n, q, k, v).flatten(1)

    def _feed_forward(self, layer: Layer, space: Workspace) -> Tensor:
        """What the down projection w2 mixes, (T, hidden_dim)."""
        h = space.norm(layer.ffn_norm, self.config.norm_eps)
        gate = torch.mm(h, layer.w1, out=space.gate)
        silu(gate, inplace=True)
        if self._is_fused:
            return _multiplied(gate, h, layer.w3)
        return gate.mul_(torch.mm(h, layer.w3, out=space.up))


def _head(hidden: Tensor, output: Tensor) -> Tensor:
    """Products of hidden states, (R, dim), with the words of `output`, (words, dim), in float32.

    With few rows a CPU spends its time on the words' weights, and reads them faster on the left.
    """
    is_known = hidden.dtype in (torch.float32, torch.bfloat16)  # where that was measured
    if len(hidden) < _FEW_ROWS and is_known and _is_in_library(hidden):
        return torch.mm(output, hidden.t()).t().float().contiguous()
    return linear(hidden, output).float()


def _multiplied(gate: Tensor, h: Tensor, w: Tensor) -> Tensor:
    """Gate times the product of h, (T, in), and w, (in, out), which is rounded only then."""
    fused: Tensor = _LIBRARY._linear_pointwise.binary(h, gate, w.t(), None, "mul")  # noqa: SLF001
    return fused


def is_fused(like: Tensor) -> bool:
    """Whether a product and a multiplication beside it are one, which writes to fresh memory.

    As one they are faster in bfloat16 where oneDNN takes it, and slower in float32.
    """
    return like.dtype == torch.bfloat16 and _is_in_library(like)


def _is_in_library(like: Tensor) -> bool:
    """Whether oneDNN itself multiplies matrices of this dtype on this processor."""
    return (
        like.device.type == "cpu"
        and torch._C._get_mkldnn_enabled()  # noqa: SLF001 - mypy cannot read the public flag
        and hasattr(_LIBRARY, "_linear_pointwise")
        and not _LIBRARY._is_mkldnn_acl_supported()  # noqa: SLF001 - Arm's library takes over
        and (like.dtype == torch.float32 or bool(_LIBRARY._is_mkldnn_bf16_supported()))  # noqa: SLF001
    )
