"""A request again on the plain path, alone, and how far the engine's reply may lie from it.

The plain path shares nothing: no prefix tree, no packing, no shared cache, one request at a time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mistral_eval.model.attention import SequencesAttend
from mistral_eval.model.transformer import Transformer
from mistral_eval.native.generate import PlainGenerator
from mistral_eval.native.requests import GenerateReply, GenerateRequest, ScoreReply, ScoreRequest
from mistral_eval.native.sampling import Sampler
from mistral_eval.native.score import score_plain

# What a log-probability or a logit may differ by. Products of other shapes round differently: in
# float32 by some 1e-6 nats a token; in the half formats the last bit of a logit of 16 is 2**-4
# (bfloat16) or 2**-7 (float16), and layers of rounding come before it.
FLOAT32_NATS = 1e-4
HALF_NATS = {torch.bfloat16: 2.0**-2, torch.float16: 2.0**-5}  # of each token
_CHUNK = 512


def tolerance(dtype: torch.dtype, tokens: int) -> float:
    """Nats by which two sums over `tokens` log-probabilities may differ: float32 has a flat 1e-4.

    The half formats have 2**-2 (bfloat16) and 2**-5 (float16), times the root of the number of
    tokens, since roundings of either sign add up like a random walk.
    """
    if dtype in HALF_NATS:
        return HALF_NATS[dtype] * math.sqrt(max(1, tokens))
    return FLOAT32_NATS


@dataclass(frozen=True, slots=True)
class Parting:
    """Where two generations of one request part; a token of None is a reply's end."""

    step: int
    ours: int | None
    plain: int | None
    is_tie: bool


class PlainTwin:
    """Answers one request at a time on the plain path of the same model."""

    def __init__(self, model: Transformer, eos_id: int) -> None:
        self._model = model
        self._eos_id = eos_id
        self._sampler = Sampler(model.n_words, model.device)

    @property
    def is_exact(self) -> bool:
        """Whether generated ids must be the same: float32 on the CPU."""
        return self._model.dtype == torch.float32 and self._model.device.type == "cpu"

    def score(self, request: ScoreRequest) -> ScoreReply:
        """One request's score."""
        ((_, reply),) = score_plain(self._model, [request], batch_tokens=1)
        return reply

    def tolerance(self, tokens: int) -> float:
        """Nats by which the score of a continuation of `tokens` tokens may differ."""
        return tolerance(self._model.dtype, tokens)

    def parting(self, request: GenerateRequest, ours: GenerateReply) -> Parting | None:
        """Where the engine's reply leaves the plain one; None where they are the same.

        In float32 on the CPU no parting is a tie; elsewhere one is where either token could have
        been drawn from logits within the dtype's tolerance.
        """
        plain = self._generate(request)
        left, right = self._drawn(ours), self._drawn(plain)
        if left == right:
            return None
        shared = min(len(left), len(right))
        step = next((n for n in range(shared) if left[n] != right[n]), shared)
        if step == shared:  # one reply goes on where the other ends: ids alone decide that
            ends = (*left, None)[step], (*right, None)[step]
            return Parting(step, *ends, is_tie=False)
        is_tie = not self.is_exact and self._is_tie(request, left[:step], left[step], right[step])
        return Parting(step, left[step], right[step], is_tie)

    def _generate(self, request: GenerateRequest) -> GenerateReply:
        generator = PlainGenerator(self._model, self._eos_id, rows=1, chunk=_CHUNK)
        ((_, reply),) = generator.run([request])
        return reply

    def _drawn(self, reply: GenerateReply) -> tuple[int, ...]:
        return (*reply.ids, self._eos_id) if reply.finish == "eos" else reply.ids

    def _is_tie(
        self, request: GenerateRequest, drawn: Sequence[int], ours: int, plain: int
    ) -> bool:
        """Whether the two tokens come within rounding in the race, or one lies at top-p's edge."""
        model, sampling = self._model, request.sampling
        tokens = torch.tensor((*request.prompt, *drawn), device=model.device)
        places = torch.arange(len(tokens), device=model.device)
        attend = SequencesAttend(
            [len(tokens)], model.config.sliding_window, model.dtype, model.device
        )
        logits = model.logits(model.hidden(tokens, places, attend)[-1:])[0]
        slack = 2 * tolerance(model.dtype, 1)  # either logit may be off
        if sampling.temperature == 0:
            return bool((logits[ours] - logits[plain]).abs() <= slack)
        slack, heated = slack / sampling.temperature, logits / sampling.temperature
        noise = self._sampler.exponentials([(request.key, len(drawn))])[0]
        race = heated - noise.log()
        if (race[ours] - race[plain]).abs() <= slack:
            return True
        # a shift of s in the logits moves a probability mass m by m (1 - m) s
        width = slack * sampling.top_p * (1 - sampling.top_p)
        chances = heated.softmax(dim=0)
        edges = [float(chances[chances > chances[t]].sum()) for t in (ours, plain)]
        return any(abs(edge - sampling.top_p) < width for edge in edges)
