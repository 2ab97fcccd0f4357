"""The shape of a model, with the field names of Mistral's params.json.

Sources: Mistral 7B paper (arXiv 2310.06825) table 1; mistral-inference `args.py`; the fields of
Hugging Face's `config.json` for `MistralForCausalLM` and `LlamaForCausalLM`.
"""

from dataclasses import dataclass

import torch

from mistral_eval.errors import CheckpointError
from mistral_eval.model.rope import QueryScale, RopeScaling


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts: every layer has `num_experts` feed-forward networks.

    A token goes through the `num_experts_per_tok` that its router likes best.
    """

    num_experts: int
    num_experts_per_tok: int

    def __post_init__(self) -> None:
        """Check that there are as many experts as a token goes through.

        Raises:
            CheckpointError: there are fewer.
        """
        if self.num_experts_per_tok > self.num_experts:
            raise CheckpointError(
                f"num_experts_per_tok ({self.num_experts_per_tok}) should be at most the number of "
                f"experts ({self.num_experts}): check the model's configuration file."
            )


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything that decides a logit, apart from the weights.

    `sliding_window` has one entry W per layer: query i sees the W keys j with i - W < j <= i, or
    all keys j <= i where W is None. `context_len` is the longest sequence in tokens. `rope_scaling`
    is None for plain RoPE, `query_scale` for queries that are not scaled by position, and `experts`
    for one feed-forward network per layer.
    """

    dim: int
    n_layers: int
    head_dim: int
    hidden_dim: int
    n_heads: int
    n_kv_heads: int
    norm_eps: float
    vocab_size: int
    rope_theta: float
    context_len: int
    sliding_window: tuple[int | None, ...]
    tied_embeddings: bool = False
    rope_scaling: RopeScaling | None = None
    query_scale: QueryScale | None = None
    experts: Experts | None = None

    def __post_init__(self) -> None:
        """Check that the shape is one attention can have.

        Raises:
            CheckpointError: n_heads is no multiple of n_kv_heads, head_dim is odd, or the number
                of windows is not n_layers.
        """
        if self.n_heads % self.n_kv_heads:
            raise CheckpointError(
                f"n_heads ({self.n_heads}) should be a multiple of n_kv_heads ({self.n_kv_heads}): "
                "check the model's configuration file."
            )
        if self.head_dim % 2:
            raise CheckpointError(
                f"head_dim should be even, because RoPE rotates pairs, and is {self.head_dim}: "
                "check the model's configuration file."
            )
        if len(self.sliding_window) != self.n_layers:
            raise CheckpointError(
                f"sliding_window should have {self.n_layers} entries, one per layer, "
                f"and has {len(self.sliding_window)}."
            )


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """The content of a configuration file.

    Attributes:
        config: the model's shape; `vocab_size` is -1 where the file leaves it to the number of
            embedding rows (Meta's Llama).
        notes: sentences for the user about values that were assumed or ignored.
        dtype: the dtype the file names for the weights; None where it names none we can read.
    """

    config: ModelConfig
    notes: tuple[str, ...] = ()
    dtype: torch.dtype | None = None
