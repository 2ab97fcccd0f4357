"""Continuous batching over the rolling buffer: a finished sequence leaves, the next one enters.

The plain generator: every request prefills its own prompt. Tests compare the sharing one with it.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mistral_eval.model.cache import RollingCache
from mistral_eval.model.device import HostCopy
from mistral_eval.model.transformer import Transformer
from mistral_eval.native.request_checks import not_finite
from mistral_eval.native.requests import GenerateReply, GenerateRequest
from mistral_eval.native.sampling import Draw, Sampler


@dataclass(slots=True)
class Running:
    """A request under way and what it has generated so far."""

    index: int
    request: GenerateRequest
    ids: list[int] = field(default_factory=list)

    def draw(self, unread: int = 0) -> Draw:
        """What names the noise of its next token, `unread` more being on their way."""
        return Draw(self.request.sampling, self.request.key, len(self.ids) + unread)

    def take(self, token: int, eos_id: int) -> GenerateReply | None:
        """Add a token; the reply, if generation ends with it."""
        if token == eos_id:
            return GenerateReply(tuple(self.ids), "eos")
        self.ids.append(token)
        if self.request.is_done is not None and self.request.is_done(self.ids):
            return GenerateReply(tuple(self.ids), "stop")
        if len(self.ids) == self.request.max_tokens:
            return GenerateReply(tuple(self.ids), "length")
        return None


class Drawn:
    """The next token of some requests, drawn on the device; the host reads it when it needs it.

    On CUDA the copy to the host is queued behind the drawing, so that reading waits for this step
    alone and not for what was queued after it.
    """

    def __init__(self, sampler: Sampler, logits: Tensor, draws: Sequence[Draw]) -> None:
        """Draw one token for each row of logits, float32 (B, n_words)."""
        is_finite = logits.sum(dim=1).isfinite()
        if not logits.is_cuda and not bool(is_finite.all()):  # from such a row nothing is drawn
            logits = torch.where(is_finite[:, None], logits, 0.0)
        self.tokens = sampler.draw(logits, draws)  # (B,), int64
        self._copy = HostCopy(torch.stack([self.tokens, is_finite.to(torch.int64)]))

    def read(self, running: Sequence["Running"], is_live: Sequence[bool]) -> list[int]:
        """The tokens, one for each running request; those of requests that ended mean nothing.

        Raises:
            EngineError: a live request's logit was NaN or infinite; names it.
        """
        tokens, finite = self._copy.read().tolist()
        for item, is_finite, lives in zip(running, finite, is_live, strict=True):
            if lives and not is_finite:
                raise not_finite("generate", item.index)
        return list(tokens)


class PlainGenerator:
    """Generates with `rows` sequences at a time, prompts prefilled in chunks of `chunk` tokens."""

    def __init__(self, model: Transformer, eos_id: int, *, rows: int, chunk: int) -> None:
        self._model = model
        self._eos_id = eos_id
        self._rows = rows
        self._chunk = chunk
        self._sampler = Sampler(model.n_words, model.device)

    def run(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, GenerateReply]]:
        """Replies as they end."""
        longest = max((len(r.prompt) + r.max_tokens for r in requests), default=0)
        like = torch.empty(0, dtype=self._model.dtype, device=self._model.device)
        rows = min(self._rows, len(requests))
        cache = RollingCache(self._model.config, rows, longest, like)
        waiting = deque(Running(n, request) for n, request in enumerate(requests))
        active: dict[int, Running] = {}  # by row of the cache
        while waiting or active:
            for row in set(range(rows)) - active.keys():
                if waiting:
                    yield from self._enter(cache, row, waiting.popleft(), active)
            if active:
                yield from self._step(cache, active)

    def _enter(
        self, cache: RollingCache, row: int, item: Running, active: dict[int, Running]
    ) -> Iterator[tuple[int, GenerateReply]]:
        if item.request.max_tokens == 0:
            yield item.index, GenerateReply((), "length")
            return
        cache.clear(row)
        prompt = torch.tensor(item.request.prompt, device=self._model.device)
        for tokens in torch.split(prompt, self._chunk):
            attend = cache.prefill(row, len(tokens))
            hidden = self._model.hidden(tokens, attend.positions, attend)
            attend.finish()
        active[row] = item
        yield from self._take(hidden[-1:], [row], active)

    def _step(
        self, cache: RollingCache, active: dict[int, Running]
    ) -> Iterator[tuple[int, GenerateReply]]:
        rows = sorted(active)
        last = torch.tensor([active[row].ids[-1] for row in rows], device=self._model.device)
        attend = cache.step(rows)
        hidden = self._model.hidden(last, attend.positions, attend)
        attend.finish()
        yield from self._take(hidden, rows, active)

    def _take(
        self, hidden: Tensor, rows: list[int], active: dict[int, Running]
    ) -> Iterator[tuple[int, GenerateReply]]:
        running = [active[row] for row in rows]
        draws = [item.draw() for item in running]
        tokens = Drawn(self._sampler, self._model.logits(hidden), draws).read(
            running, [True] * len(running)
        )
        for row, item, token in zip(rows, running, tokens, strict=True):
            if reply := item.take(token, self._eos_id):
                del active[row]
                yield item.index, reply
