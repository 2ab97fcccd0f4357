"""The native engine: our transformer behind the `Engine` protocol.

Replies do not depend on the order of the requests, on what stands beside them, or on
`batch_tokens`, beyond the last bits of a float.
"""

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from mistral_eval.engine.checks import check_generate_requests, check_score_requests
from mistral_eval.engine.generate import PlainGenerator
from mistral_eval.engine.requests import GenerateReply, GenerateRequest, ScoreReply, ScoreRequest
from mistral_eval.engine.score import score_plain
from mistral_eval.errors import EngineError
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.transformer import Transformer

_TOKENS_A_ROW = 8  # a decoding step is cheap in tokens but not in memory: one row per 8 tokens
_DEFAULT_TOKENS = {"cpu": 1024, "cuda": 8192}


class NativeEngine:
    """Scores and generates with our transformer, on the device and in the dtype of its weights."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, Tensor],
        *,
        n_words: int,
        eos_id: int,
        batch_tokens: int | None = None,
    ) -> None:
        """Take the weights as they are.

        Args:
            config: the model's shape.
            weights: by Mistral's names, rotary layers in the half-split layout.
            n_words: ids the tokenizer has; further rows of the LM head are never predicted.
            eos_id: ends a generation.
            batch_tokens: tokens of one forward pass; None chooses by device.

        Raises:
            CheckpointError: a tensor is missing or has the wrong shape.
            EngineError: `batch_tokens` is not positive.
        """
        self.model = Transformer(config, weights, n_words)
        if batch_tokens is None:
            batch_tokens = _DEFAULT_TOKENS.get(self.model.device.type, 1024)
        if batch_tokens < 1:
            raise EngineError(
                f"expected a budget of 1 or more tokens a batch, found {batch_tokens}"
            )
        self.batch_tokens = batch_tokens
        self.eos_id = eos_id

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, ScoreReply]]:
        """Log-likelihoods of continuations.

        Raises:
            EngineError: a request that cannot be scored (all are checked first), or logits that
                are not finite.
        """
        check_score_requests(requests, self.model.config.context_len, self.model.n_words)
        yield from score_plain(self.model, requests, self.batch_tokens)

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, GenerateReply]]:
        """Continuations of prompts.

        Raises:
            EngineError: a request that cannot be served (all are checked first), or logits that
                are not finite.
        """
        check_generate_requests(requests, self.model.config.context_len, self.model.n_words)
        rows = max(1, self.batch_tokens // _TOKENS_A_ROW)
        plain = PlainGenerator(self.model, self.eos_id, rows=rows, chunk=self.batch_tokens)
        yield from plain.run(requests)
