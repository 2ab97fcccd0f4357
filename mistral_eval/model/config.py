"""The shape of a model, in the words of Mistral's params.json.

Sources: Mistral 7B paper (arXiv 2310.06825) table 1; mistral-inference `args.py`; the fields of
Hugging Face's `config.json` for `MistralForCausalLM` and `LlamaForCausalLM`.
"""

from dataclasses import dataclass


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
