"""The plain path: every request computed alone, with no prefix tree, packs or shared cache.

It is slow and obvious. Tests compare the fast paths with it, and `--verify` repeats a sample of a
run's requests on it.
"""

import math
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mistral_eval.model.attention import SequencesAttend
from mistral_eval.model.cache import RollingCache
from mistral_eval.model.transformer import Transformer
from mistral_eval.native.head import Asked, Tally, token_logprobs
from mistral_eval.native.requests import GenerateReply, GenerateRequest, ScoreReply, ScoreRequest
from mistral_eval.native.sampling import Drawn, Running, Sampler, restricted

# Allowed difference of a log-probability or a logit, in nats. Matrix products of other shapes round
# differently: about 1e-6 nats per token in float32. In half precision the last bit of a logit of 16
# is 2**-4 (bfloat16) or 2**-7 (float16), after rounding in every layer.
FLOAT32_NATS = 1e-4
# Other engines, transformers and vLLM among them, take log-softmax in float32: its sum over 50,000
# words is off by up to 2e-5 nats a token, measured on a trained model.
OTHERS_NATS, OTHERS_TOKEN_NATS = 3e-4, 3e-5
HALF_NATS = {torch.bfloat16: 2.0**-2, torch.float16: 2.0**-5}  # per token
_CHUNK = 512


def score_plain(
    model: Transformer, requests: Sequence[ScoreRequest], batch_tokens: int
) -> Iterator[tuple[int, ScoreReply]]:
    """Score each request on its own tokens, without sharing or padding; yield replies in order.

    A pass has several sequences of `batch_tokens` tokens together; a longer one runs alone.
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
        first = start + len(requests[n].context) - 1  # the row that predicts the first token
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


class PlainGenerator:
    """Generates `rows` sequences at a time over the rolling buffer: continuous batching.

    Every request prefills its own prompt, in chunks of `chunk` tokens; when one ends, the next
    takes its row.
    """

    def __init__(
        self, model: Transformer, eos_ids: Collection[int], *, rows: int, chunk: int
    ) -> None:
        self._model = model
        self._eos_ids = eos_ids
        self._rows = rows
        self._chunk = chunk
        self._sampler = Sampler(model.n_words, model.device)

    def run(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, GenerateReply]]:
        """Yield (index, reply) in the order in which generations end."""
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
            if reply := item.take(token, self._eos_ids):
                del active[row]
                yield item.index, reply


def tolerance(dtype: torch.dtype, tokens: int, *, is_other: bool = False) -> float:
    """Return by how many nats two sums of `tokens` log-probabilities may differ.

    In float32 1e-4 in all, for another engine's sum (`is_other`) 3e-4 and 3e-5 a token. In bfloat16
    2**-2 and in float16 2**-5, times the square root of the number of tokens, because rounding
    errors of either sign add up like a random walk.
    """
    if dtype in HALF_NATS:
        return HALF_NATS[dtype] * math.sqrt(max(1, tokens))
    return OTHERS_NATS + OTHERS_TOKEN_NATS * tokens if is_other else FLOAT32_NATS


@dataclass(frozen=True, slots=True)
class Parting:
    """The first step at which two generations of one request differ; None is a reply's end.

    Attributes:
        rest: what the plain reply has beyond ours, which is its beginning.
    """

    step: int
    ours: int | None
    plain: int | None
    is_tie: bool
    rest: tuple[int, ...] = ()


class PlainTwin:
    """Answers single requests on the plain path of a model, to check its other replies."""

    def __init__(self, model: Transformer, eos_ids: Sequence[int]) -> None:
        """Answer with `model`, which ends a generation at each of `eos_ids`."""
        self._model = model
        self._eos_ids = tuple(token for token in eos_ids if token < model.n_words)
        self._sampler = Sampler(model.n_words, model.device)

    @property
    def is_exact(self) -> bool:
        """Whether generated ids must be equal: float32 on the CPU."""
        return self._model.dtype == torch.float32 and self._model.device.type == "cpu"

    def score(self, request: ScoreRequest) -> ScoreReply:
        """Score one request."""
        ((_, reply),) = score_plain(self._model, [request], batch_tokens=1)
        return reply

    def tolerance(self, tokens: int, *, is_other: bool = False) -> float:
        """Return by how many nats the score of a continuation of `tokens` tokens may differ."""
        return tolerance(self._model.dtype, tokens, is_other=is_other)

    def parting(
        self, request: GenerateRequest, ours: GenerateReply, *, is_other: bool = False
    ) -> Parting | None:
        """Return where a reply departs from the plain one; None if they are equal.

        It is a tie if logits within the dtype's tolerance could give either token; in float32 on
        the CPU it never is, unless another engine drew the reply (`is_other`).
        """
        plain = self._generate(request)
        left, right = self._drawn(ours), self._drawn(plain)
        if left == right:
            return None
        shared = min(len(left), len(right))
        step = next((n for n in range(shared) if left[n] != right[n]), shared)
        if step == shared:  # one reply is a prefix of the other: ids alone decide the end
            ends = (*left, None)[step], (*right, None)[step]
            return Parting(step, *ends, is_tie=False, rest=right[step:])
        is_tie = (is_other or not self.is_exact) and self._is_tie(
            request, left[:step], left[step], right[step]
        )
        return Parting(step, left[step], right[step], is_tie)

    def _generate(self, request: GenerateRequest) -> GenerateReply:
        generator = PlainGenerator(self._model, self._eos_ids, rows=1, chunk=_CHUNK)
        ((_, reply),) = generator.run([request])
        return reply

    def _drawn(self, reply: GenerateReply) -> tuple[int, ...]:
        """Return a reply's ids; the first of the end tokens stands for the one that ended it."""
        return (*reply.ids, self._eos_ids[0]) if reply.finish == "eos" else reply.ids

    def _strongest(self, token: int, race: Tensor) -> int:
        """Return the token, or for an end token the one that wins the race, (n_words,)."""
        if token not in self._eos_ids:
            return token
        return max(self._eos_ids, key=lambda end: float(race[end]))

    def _is_tie(
        self, request: GenerateRequest, drawn: Sequence[int], ours: int, plain: int
    ) -> bool:
        """Return whether rounding decides between the tokens, or whether top-p keeps one."""
        model, sampling = self._model, request.sampling
        logits = model.logits(_hidden(model, [(*request.prompt, *drawn)])[-1:])
        logits = restricted(logits, [Running(0, request, list(drawn)).draw()])[0]
        slack = 2 * tolerance(model.dtype, 1)  # both logits have an error
        if sampling.temperature == 0:
            ours, plain = (self._strongest(token, logits) for token in (ours, plain))
            return bool((logits[ours] - logits[plain]).abs() <= slack)
        slack, heated = slack / sampling.temperature, logits / sampling.temperature
        noise = self._sampler.exponentials([(request.key, len(drawn))])[0]
        race = heated - noise.log()
        ours, plain = (self._strongest(token, race) for token in (ours, plain))
        if (race[ours] - race[plain]).abs() <= slack:
            return True
        # shifting logits by s changes a probability mass m by m (1 - m) s
        width = slack * sampling.top_p * (1 - sampling.top_p)
        chances = heated.softmax(dim=0)
        edges = [float(chances[chances > chances[t]].sum()) for t in (ours, plain)]
        return any(abs(edge - sampling.top_p) < width for edge in edges)
