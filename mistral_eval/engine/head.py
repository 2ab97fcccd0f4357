"""From hidden states to what a score needs: log-probability and argmax, of asked rows alone."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mistral_eval.engine.checks import not_finite
from mistral_eval.engine.requests import ScoreReply, ScoreRequest
from mistral_eval.model.transformer import Transformer

_ROWS_AT_ONCE = 256  # rows of float32 logits held at once: 33 MB at 32000 words


@dataclass(frozen=True, slots=True)
class Asked:
    """One token of one request's continuation: which row of hidden states predicts it."""

    row: int
    token: int
    request: int


class Tally:
    """Sums the log-probabilities of each request and knows when the last token has come.

    Sums are in float64 and in the order of the continuation, so that they do not depend on how
    the tokens were packed.
    """

    def __init__(self, requests: Sequence[ScoreRequest]) -> None:
        self._missing = [len(request.continuation) for request in requests]
        self._logprobs: list[list[float]] = [[] for _ in requests]
        self._is_greedy = [True] * len(requests)

    def add(self, request: int, logprob: float, *, is_greedy: bool) -> ScoreReply | None:
        """Count the next token of a request; its reply, once that was the last."""
        self._logprobs[request].append(logprob)
        self._is_greedy[request] &= is_greedy
        self._missing[request] -= 1
        if self._missing[request]:
            return None
        total = sum(self._logprobs[request])
        self._logprobs[request] = []
        return ScoreReply(total, self._is_greedy[request])


@torch.inference_mode()
def token_logprobs(
    model: Transformer, hidden: Tensor, asked: Sequence[Asked]
) -> Iterator[tuple[Asked, float, bool]]:
    """Log-probability of each asked token, and whether it is its row's argmax.

    A row that several tokens ask for goes through the LM head once. Log-softmax is in float32.

    Args:
        model: gives the LM head.
        hidden: final hidden states of a pack, (T, dim).
        asked: rows index `hidden` and never fall.

    Raises:
        EngineError: a logit is NaN or infinite; names the first request it touches.
    """
    rows = sorted({item.row for item in asked})
    done = 0
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[start : start + _ROWS_AT_ONCE]
        index = {row: n for n, row in enumerate(some)}
        end = bisect_right(asked, some[-1], lo=done, key=lambda item: item.row)
        block, done = asked[done:end], end
        logits = model.logits(hidden[torch.tensor(some, device=hidden.device)])
        local = torch.tensor([index[item.row] for item in block], device=hidden.device)
        tokens = torch.tensor([item.token for item in block], device=hidden.device)
        found = logits[local, tokens] - logits.logsumexp(dim=1)[local]
        greedy = logits.argmax(dim=1)[local] == tokens
        finite = logits.sum(dim=1).isfinite()[local]
        for item, value, best, fine in zip(
            block, found.tolist(), greedy.tolist(), finite.tolist(), strict=True
        ):
            if not fine:
                raise not_finite(f"score request {item.request}")
            yield item, value, best
