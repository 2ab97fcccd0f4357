"""The Mistral transformer in plain torch: token ids and positions in, hidden states or logits out.

Source: Mistral 7B paper, section 2; names from mistral-inference. Grouped-query attention,
SwiGLU, RMSNorm, rotary embedding; what a query may see is the business of an `Attend`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from mistral_eval.errors import CheckpointError
from mistral_eval.model.attention import Attend
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.rope import RotaryTable, Rotation


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide by the root of the mean square, in float32, then multiply by `weight`."""
    wide = x.float()
    normed = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    return normed.to(x.dtype) * weight


@dataclass(frozen=True, slots=True)
class Layer:
    """One block's weights, linear ones as (out, in)."""

    attention_norm: Tensor
    wq: Tensor
    wk: Tensor
    wv: Tensor
    wo: Tensor
    ffn_norm: Tensor
    w1: Tensor
    w2: Tensor
    w3: Tensor


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every weight's name and shape; the vocabulary's rows may be more than `vocab_size`."""
    queries, keys = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "tok_embeddings.weight": (config.vocab_size, config.dim),
        "norm.weight": (config.dim,),
    }
    if not config.tied_embeddings:
        shapes["output.weight"] = (config.vocab_size, config.dim)
    for n in range(config.n_layers):
        shapes |= {
            f"layers.{n}.attention_norm.weight": (config.dim,),
            f"layers.{n}.attention.wq.weight": (queries, config.dim),
            f"layers.{n}.attention.wk.weight": (keys, config.dim),
            f"layers.{n}.attention.wv.weight": (keys, config.dim),
            f"layers.{n}.attention.wo.weight": (config.dim, queries),
            f"layers.{n}.ffn_norm.weight": (config.dim,),
            f"layers.{n}.feed_forward.w1.weight": (config.hidden_dim, config.dim),
            f"layers.{n}.feed_forward.w2.weight": (config.dim, config.hidden_dim),
            f"layers.{n}.feed_forward.w3.weight": (config.hidden_dim, config.dim),
        }
    return shapes


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
        self._rope = RotaryTable(
            config.head_dim, config.rope_theta, config.context_len, self.device
        )

    @staticmethod
    def _layer(weights: Mapping[str, Tensor], n: int) -> Layer:
        attention = {f"w{x}": weights[f"layers.{n}.attention.w{x}.weight"] for x in "qkvo"}
        feed_forward = {f"w{x}": weights[f"layers.{n}.feed_forward.w{x}.weight"] for x in "123"}
        norms = {x: weights[f"layers.{n}.{x}.weight"] for x in ("attention_norm", "ffn_norm")}
        return Layer(**attention, **feed_forward, **norms)

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
        x = self._embeddings[tokens]  # (T, dim)
        for n, layer in enumerate(self._layers):
            x += self._attention(n, layer, x, rotation, attend)
            x += self._feed_forward(layer, x)
        return rms_norm(x, self._norm, self.config.norm_eps)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """LM head over the rows that are asked for: (R, dim) -> float32 (R, n_words)."""
        return linear(hidden, self._output).float()

    def logit_tiles(self, hidden: Tensor, words: int) -> Iterator[tuple[int, Tensor]]:
        """The same logits, `words` columns at a time, each with its first word's id."""
        for first in range(0, self.n_words, words):
            yield first, linear(hidden, self._output[first : first + words]).float()

    def _attention(
        self, n: int, layer: Layer, x: Tensor, rotation: Rotation, attend: Attend
    ) -> Tensor:
        h = rms_norm(x, layer.attention_norm, self.config.norm_eps)
        q, k, v = (
            linear(h, w).view(len(x), -1, self.config.head_dim)  # (T, heads, D)
            for w in (layer.wq, layer.wk, layer.wv)
        )
        return linear(attend(n, rotation(q), rotation(k), v).flatten(1), layer.wo)

    def _feed_forward(self, layer: Layer, x: Tensor) -> Tensor:
        h = rms_norm(x, layer.ffn_norm, self.config.norm_eps)
        return linear(silu(linear(h, layer.w1), inplace=True).mul_(linear(h, layer.w3)), layer.w2)
