"""The Mistral transformer in plain torch: token ids and positions in, hidden states or logits out.

Sources: Mistral 7B paper, section 2, with names of mistral-inference; RoFormer (arXiv 2104.09864)
for rotary embedding. It has grouped-query attention, SwiGLU (or a mixture of such experts) and
RMSNorm; an `Attend` decides what a query sees. Rotary pairs are adjacent, as in mistral-inference:
rotating them as complex numbers is one pass over memory, where half-split pairs take eight.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from mistral_eval.errors import CheckpointError
from mistral_eval.model.attention import Attend
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.lm_head import LMHead
from mistral_eval.model.load.layout import (
    expected_shapes,
    feed_forward_prefixes,
    interleaved_from_half_split,
    router_name,
)
from mistral_eval.model.products import NO_WAYS, Matrix, Ways, is_fused
from mistral_eval.model.read_ahead import ReadAhead
from mistral_eval.model.rope import frequencies


class Workspace:
    """Buffers for intermediate results, reused by every layer and every pack.

    Newly allocated memory is not in the CPU's caches: with bfloat16 products in hardware, writing
    to the same buffers is a third faster.
    """

    def __init__(self, config: ModelConfig, like: Tensor, size: int) -> None:
        """Allocate buffers for `size` tokens, in the dtype and on the device of `like`."""
        heads = config.n_heads + 2 * config.n_kv_heads

        def room(*shape: int, dtype: torch.dtype = like.dtype) -> Tensor:
            return torch.empty(size, *shape, dtype=dtype, device=like.device)

        self.size = size
        self.x = room(config.dim)
        self.normed = room(config.dim)
        self.qkv = room(heads * config.head_dim)
        hidden_dim = 0 if config.experts else config.hidden_dim  # experts see few rows each
        self.gate = room(hidden_dim)
        self.up = room(0 if is_fused(like) else hidden_dim)
        self.is_wide = like.dtype == torch.float32
        wide = max(config.dim, (config.n_heads + config.n_kv_heads) * config.head_dim)
        self.wide = room(0 if self.is_wide else wide, dtype=torch.float32)

    def first(self, count: int) -> "Workspace":
        """Return the workspace of `count` tokens: views of the buffers' first rows."""
        part = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(part, name, value[:count])
        return part

    def norm(self, weight: Tensor, eps: float) -> Tensor:
        """Write RMSNorm of `x` to `normed` and return it.

        Divide by the root mean square in float32, then multiply by `weight`.
        """
        wide = self.x if self.is_wide else self.in_float32(*self.x.shape).copy_(self.x)
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = norm.square_().div_(self.x.shape[-1]).add_(eps).rsqrt_()
        if self.is_wide:
            return torch.mul(wide, scale, out=self.normed).mul_(weight)
        return self.normed.copy_(wide.mul_(scale)).mul_(weight)

    def in_float32(self, *shape: int) -> Tensor:
        """Return float32 scratch memory of this shape, valid until the next call (half dtypes)."""
        return self.wide.view(-1)[: math.prod(shape)].view(shape)


@dataclass(frozen=True, slots=True)
class Rotation:
    """What position does to the queries and keys of some tokens.

    Attributes:
        turn: the rotation, complex64, (T, 1, head_dim / 2).
        query_scale: factor of rotated queries, (T, 1, 1), or None.
    """

    turn: Tensor
    query_scale: Tensor | None

    def __call__(self, x: Tensor, space: Tensor) -> None:
        """Rotate queries or keys in place, computing in float32.

        Args:
            x: (T, heads, head_dim).
            space: x itself if it is float32, else float32 scratch memory of its shape.
        """
        wide = x if space is x else space.copy_(x)
        pairs = torch.view_as_complex(wide.view(*wide.shape[:-1], -1, 2))  # (T, heads, D / 2)
        pairs.mul_(self.turn)
        if wide is not x:
            x.copy_(wide)


class RotaryTable:
    """The rotations of positions 0 ... `context_len` - 1, computed once in float32."""

    def __init__(self, config: ModelConfig, device: torch.device) -> None:
        """Compute angles: position p and pair d have p times the pair's frequency."""
        scaling = config.rope_scaling
        turned = frequencies(config.head_dim, config.rope_theta, scaling, device)
        positions = torch.arange(config.context_len, dtype=torch.float32, device=device)
        angles = torch.outer(positions, turned)  # (context_len, head_dim / 2)
        amplitude = 1.0 if scaling is None else scaling.amplitude
        self._turns = torch.polar(torch.full_like(angles, amplitude), angles)
        self._query_scale = config.query_scale

    def at(self, positions: Tensor) -> Rotation:
        """Return the rotation of tokens at these positions, (T,)."""
        scale = None if self._query_scale is None else self._query_scale.at(positions)
        return Rotation(
            self._turns[positions][:, None], None if scale is None else scale[:, None, None]
        )


@dataclass(frozen=True, slots=True)
class FeedForward:
    """The weights of a SwiGLU network."""

    w1: Matrix
    w2: Matrix
    w3: Matrix


@dataclass(frozen=True, slots=True)
class Layer:
    """One block's weights.

    `wqkv` joins wq, wk and wv; in wq and wk the two rows of each rotary pair are adjacent. A layer
    has one feed-forward network, or several experts and a `router`, (dim, experts).
    """

    attention_norm: Tensor
    wqkv: Matrix
    wo: Matrix
    ffn_norm: Tensor
    experts: tuple[FeedForward, ...]
    router: Tensor | None


def _check(config: ModelConfig, weights: Mapping[str, Tensor], *, is_whole: bool) -> None:
    """Check names and shapes of the weights; of those of layers only if they are all there."""
    for name, shape in expected_shapes(config).items():
        if not is_whole and name.startswith("layers."):
            continue
        if name not in weights:
            raise CheckpointError(f"expected a tensor {name}, found none: check the checkpoint")
        found = tuple(weights[name].shape)
        if found != shape:
            raise CheckpointError(f"tensor {name}: expected shape {shape}, found {found}")


class Transformer:
    """A decoder with the given weights, on their device and in their dtype.

    Attributes:
        layers: the weights of each layer in order, in memory or read on demand.
        is_streamed: whether they are read on demand, once for every walk over `layers`.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, Tensor],
        n_words: int,
        ways: Ways = NO_WAYS,
        read_layer: Callable[[int], dict[str, Tensor]] | None = None,
        *,
        takes: bool = False,
    ) -> None:
        """Build the model; LM head rows beyond the tokenizer's `n_words` ids are dropped.

        Args:
            config: the model's shape.
            weights: by our names; with `read_layer` those that belong to no layer. Of those that
                are packed, only the packed form is kept.
            n_words: number of the tokenizer's ids.
            ways: how to multiply, by shape class, and by `HEAD`.
            read_layer: returns a layer's weights; called in another thread.
            takes: take the tensors that may be packed out of `weights`, a dict, so that they are
                freed at once.

        Raises:
            CheckpointError: a tensor is missing or has another shape, or `n_words` exceeds the
                vocabulary.
        """
        self.is_streamed = read_layer is not None
        _check(config, weights, is_whole=not self.is_streamed)
        if n_words > config.vocab_size:
            raise CheckpointError(
                f"the tokenizer has {n_words} ids, the embedding only {config.vocab_size} rows"
            )
        self.config = config
        self.n_words = n_words
        self._embeddings = weights["tok_embeddings.weight"]
        self._norm = weights["norm.weight"]
        self.device, self.dtype = self._embeddings.device, self._embeddings.dtype
        self._ways = ways
        take = weights.pop if takes and isinstance(weights, dict) else weights.__getitem__
        tied = config.tied_embeddings
        output = self._embeddings if tied else take("output.weight")
        self._head = LMHead(output[:n_words], ways, is_tied=tied)
        del output  # it may be packed
        self.layers: Iterable[Layer]
        if read_layer is None:
            self.layers = [self._layer(take, n) for n in range(config.n_layers)]
        else:  # a matrix that is packed is freed before the next one is
            self.layers = ReadAhead(
                config.n_layers, lambda n: self._layer(read_layer(n).pop, n), self.device
            )
        self.release()
        self._rope = RotaryTable(config, self.device)

    def _layer(self, take: Callable[[str], Tensor], n: int) -> Layer:
        wq, wk, wv, wo = (take(f"layers.{n}.attention.w{x}.weight") for x in "qkvo")
        turned = (interleaved_from_half_split(w, self.config.head_dim) for w in (wq, wk))
        return Layer(
            take(f"layers.{n}.attention_norm.weight"),
            Matrix(torch.cat([*turned, wv]), self._ways),
            Matrix(wo, self._ways),
            take(f"layers.{n}.ffn_norm.weight"),
            tuple(
                FeedForward(*(Matrix(take(f"{prefix}.w{x}.weight"), self._ways) for x in "123"))
                for prefix in feed_forward_prefixes(self.config, n)
            ),
            None if self.config.experts is None else take(router_name(n)).t(),
        )

    @torch.inference_mode()
    def hidden(
        self, tokens: Tensor, positions: Tensor, attend: Attend, rows: Tensor | None = None
    ) -> Tensor:
        """Run a pack of tokens through all layers and the final norm.

        Args:
            tokens: ids, (T,); only `attend` knows how they form sequences.
            positions: each token's position in its sequence, (T,), below `context_len`.
            attend: attention with its cache.
            rows: indices of the tokens whose hidden states are wanted, (R,); None: all, R = T. Of
                the others the last layer computes keys and values, but nothing behind attention.

        Returns:
            Hidden states, (R, dim), ready for `logits`.
        """
        rotation = self._rope.at(positions)
        space = self._room_for(len(tokens))
        self.embed(tokens, space.x)
        for n, layer in enumerate(self.layers):
            space = self._run_block(n, layer, space, rotation, attend, rows)
        return space.norm(self._norm, self.config.norm_eps).clone()

    @torch.inference_mode()
    def embed(self, tokens: Tensor, out: Tensor) -> None:
        """Write the embeddings of `tokens`, (T,), to `out`, (T, dim)."""
        torch.index_select(self._embeddings, 0, tokens, out=out)

    @torch.inference_mode()
    def run_block(
        self,
        n: int,
        layer: Layer,
        x: Tensor,
        positions: Tensor,
        attend: Attend,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Run a pack through layer `n`; return its output, `x` itself except in the last layer.

        Args:
            n: the layer's number.
            layer: its weights.
            x: its input, (T, dim), which is overwritten.
            positions: see `hidden`.
            attend: see `hidden`.
            rows: see `hidden`; the last layer returns these alone, (R, dim).
        """
        space = self._space_of(x)
        return self._run_block(n, layer, space, self._rope.at(positions), attend, rows).x

    @torch.inference_mode()
    def finish(self, x: Tensor) -> Tensor:
        """Apply the final norm to the last layer's output, (T, dim); return what `hidden` does."""
        return self._space_of(x).norm(self._norm, self.config.norm_eps).clone()

    def _run_block(
        self,
        n: int,
        layer: Layer,
        space: Workspace,
        rotation: Rotation,
        attend: Attend,
        rows: Tensor | None,
    ) -> Workspace:
        """Run layer `n`; return the workspace whose `x` is its output."""
        mixed = self._attention(n, layer, space, rotation, attend)
        if rows is not None and n == self.config.n_layers - 1:
            mixed = mixed[rows]
            space, x = space.first(len(rows)), space.x[rows]
            space.x = x
        if len(mixed):
            layer.wo.add_to(space.x, mixed)
            self._add_feed_forward(layer, space)
        return space

    def release(self) -> None:
        """Free the workspace, which has the size of the largest pass so far."""
        self._space = Workspace(self.config, self._embeddings, 0)

    def _room_for(self, count: int) -> Workspace:
        if self._space.size < count:
            self._space = Workspace(self.config, self._embeddings, count)
        return self._space.first(count)

    def _space_of(self, x: Tensor) -> Workspace:
        """Return a workspace in which `x` is the input."""
        space = self._room_for(len(x))
        space.x = x
        return space

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Apply the LM head: (R, dim) -> float32 (R, n_words)."""
        return self._head.logits(hidden)

    def logit_tiles(self, hidden: Tensor, words: int) -> Iterator[tuple[int, Tensor]]:
        """Yield the same logits in tiles of about `words` columns, each with its first id."""
        yield from self._head.tiles(hidden, words)

    def _attention(
        self, n: int, layer: Layer, space: Workspace, rotation: Rotation, attend: Attend
    ) -> Tensor:
        """Return the input of the output projection wo, (T, n_heads * head_dim)."""
        config = self.config
        h = space.norm(layer.attention_norm, config.norm_eps)
        qkv = layer.wqkv.times(h, space.qkv).view(len(h), -1, config.head_dim)
        turned = config.n_heads + config.n_kv_heads  # of all heads, (T, heads, D)
        rotated = qkv[:, :turned]
        rotation(rotated, rotated if space.is_wide else space.in_float32(*rotated.shape))
        q, k, v = qkv.tensor_split((config.n_heads, turned), dim=1)
        if rotation.query_scale is not None:
            q.mul_(rotation.query_scale)
        return attend(n, q, k, v).flatten(1)

    def _add_feed_forward(self, layer: Layer, space: Workspace) -> None:
        """Add the output of the feed-forward network, or of each token's experts, to `space.x`."""
        h = space.norm(layer.ffn_norm, self.config.norm_eps)
        if layer.router is not None:
            self._add_experts(layer, layer.router, h, space.x)
            return
        [dense] = layer.experts
        gate = dense.w1.gate(h, space.gate)
        dense.w2.add_to(space.x, dense.w3.gating(gate, h, space.up))

    def _add_experts(self, layer: Layer, router: Tensor, h: Tensor, x: Tensor) -> None:
        """Add to `x`, (T, dim), the weighted outputs of the experts chosen for each row of `h`.

        The router's softmax is computed in float32 and renormalised over the chosen experts, as in
        Mixtral (arXiv 2401.04088, section 2.1).
        """
        assert self.config.experts is not None
        likes = torch.mm(h, router).float().softmax(dim=-1)  # (T, experts)
        shares, chosen = likes.topk(self.config.experts.num_experts_per_tok, dim=-1)
        shares /= shares.sum(dim=-1, keepdim=True)
        for n, expert in enumerate(layer.experts):
            rows, choices = torch.where(chosen == n)
            if len(rows):
                own = h[rows]
                gate = expert.w1.gate(own).mul_(expert.w3.times(own))
                out = expert.w2.times(gate) * shares[rows, choices, None]
                x.index_add_(0, rows, out.to(x.dtype))
