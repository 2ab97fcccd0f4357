"""The shape of a model, in the words of Mistral's params.json.

Sources: Mistral 7B paper (arXiv 2310.06825) table 1; mistral-inference `args.py`; the fields of
Hugging Face's `config.json` for `MistralForCausalLM` and `LlamaForCausalLM`.
"""

from dataclasses import dataclass

from mistral_eval.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything that decides a logit, apart from the weights.

    `sliding_window` holds one entry per layer: the number of keys a query sees, itself included
    (query i sees keys j with i - W < j <= i), or None for all. `context_len` is the longest
    sequence the model is run on, in tokens.
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

    def __post_init__(self) -> None:
        """Refuse shapes no attention can have.

        Raises:
            CheckpointError: heads that do not divide, an odd head_dim, or windows for other layers.
        """
        if self.n_heads % self.n_kv_heads:
            raise CheckpointError(
                f"n_heads ({self.n_heads}) should be a multiple of n_kv_heads ({self.n_kv_heads}): "
                "check the model's configuration file."
            )
        if self.head_dim % 2:
            raise CheckpointError(
                f"head_dim should be even, as RoPE turns pairs, and is {self.head_dim}: "
                "check the model's configuration file."
            )
        if len(self.sliding_window) != self.n_layers:
            raise CheckpointError(
                f"sliding_window should have {self.n_layers} entries, one per layer, "
                f"and has {len(self.sliding_window)}."
            )


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """What a configuration file says, and what its reader should know about how it was read.

    `config.vocab_size` is -1 where the file leaves it to the embedding's rows (Meta's Llama).
    """

    config: ModelConfig
    notes: tuple[str, ...] = ()
