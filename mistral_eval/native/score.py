"""The plain scorer: every sequence computed whole, side by side. Slow, obvious, the tests' twin."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mistral_eval.model.attention import SequencesAttend
from mistral_eval.model.transformer import Transformer
from mistral_eval.native.head import Asked, Tally, token_logprobs
from mistral_eval.native.requests import ScoreReply, ScoreRequest


def score_plain(
    model: Transformer, requests: Sequence[ScoreRequest], batch_tokens: int
) -> Iterator[tuple[int, ScoreReply]]:
    """Score each request on its own tokens, several requests a pass, nothing shared or padded.

    Args:
        model: the transformer.
        requests: checked by `check_score_requests`.
        batch_tokens: tokens of one forward pass; a longer sequence goes alone.
    """
    tally = Tally(requests)
    for batch in _batches(requests, batch_tokens):
        fed = [(requests[n].context + requests[n].continuation)[:-1] for n in batch]
        hidden = _hidden(model, fed)
        asked = _asked(requests, batch)
        for block in token_logprobs(model, hidden, asked):
            for item, logprob, is_greedy in block.read():
                if reply := tally.add(item.request, logprob, is_greedy=is_greedy):
                    yield item.request, reply


def _hidden(model: Transformer, sequences: list[tuple[int, ...]]) -> Tensor:
    lengths = [len(ids) for ids in sequences]
    tokens = torch.tensor([token for ids in sequences for token in ids], device=model.device)
    positions = torch.cat([torch.arange(length, device=model.device) for length in lengths])
    attend = SequencesAttend(lengths, model.config.sliding_window, model.dtype, model.device)
    return model.hidden(tokens, positions, attend)


def _asked(requests: Sequence[ScoreRequest], batch: list[int]) -> list[Asked]:
    asked, start = [], 0
    for n in batch:
        first = start + len(requests[n].context) - 1  # this row predicts the first token
        words = requests[n].continuation
        asked += [Asked(first + m, token, n) for m, token in enumerate(words)]
        start = first + len(words)
    return asked


def _batches(requests: Sequence[ScoreRequest], batch_tokens: int) -> Iterator[list[int]]:
    batch: list[int] = []
    size = 0
    for n, request in enumerate(requests):
        length = len(request.context) + len(request.continuation) - 1
        if batch and size + length > batch_tokens:
            yield batch
            batch, size = [], 0
        batch.append(n)
        size += length
    if batch:
        yield batch
