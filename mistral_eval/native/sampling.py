"""Draw the next token by Gumbel-max, with noise keyed by request, step and token id.

The token is argmin over ids of -log(u) / p (the exponential form of Gumbel-max), u being a hash of
(key, step, id). So a draw does not depend on batch, order or machine, and the last bits of the
logits matter only in near-ties. Settings apply in the order of transformers: temperature, top-k,
top-p.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import torch
from torch import Tensor

from mistral_eval.model.memory import HostCopy, sent
from mistral_eval.model.products import largest
from mistral_eval.native.requests import GenerateReply, GenerateRequest, Sampling, not_finite

_MASK_31 = 0x7FFFFFFF
_TO_UNIT = (1 - 2.0**-24) * 2.0**-31  # 31 bits into (0, 1), never rounded up to 1
# Probabilities that a core works on at once: with fewer, calls would take longer than arithmetic,
# with more, they would leave its cache.
_AT_ONCE = 1 << 19
NO_TOKEN = -1  # where a logit is not finite
_SURE = 1e-3  # far above the rounding error of a sum of probabilities


@dataclass(frozen=True, slots=True)
class Draw:
    """One row's draw: its settings, and the (key, step) that determine its noise.

    `among` are the ids that may be drawn; empty for all.
    """

    sampling: Sampling
    key: str
    step: int
    among: tuple[int, ...] = ()


def _shifted(x: Tensor, bits: int, out: Tensor) -> Tensor:
    """Write int32 shifted right logically to `out` (torch shifts arithmetically)."""
    torch.bitwise_right_shift(x, bits, out=out)
    return out.bitwise_and_((1 << (32 - bits)) - 1)


def _mixed(x: Tensor, space: Tensor) -> Tensor:
    """Mix the bits of int32 in place: MurmurHash3's finaliser (Appleby, public domain).

    `space` is overwritten and has the shape of x.
    """
    x.bitwise_xor_(_shifted(x, 16, space)).mul_(_signed(0x85EBCA6B))
    x.bitwise_xor_(_shifted(x, 13, space)).mul_(_signed(0xC2B2AE35))
    return x.bitwise_xor_(_shifted(x, 16, space))


def _signed(x: int) -> int:
    """Return the int32 with the bits of an unsigned 32-bit number."""
    return x - (1 << 32) if x >= 1 << 31 else x


def _row_keys(key: str, step: int) -> tuple[int, int]:
    """Hash a row's key and step to two int32 numbers, the second odd."""
    digest = blake2b(f"{key}\0{step}".encode(), digest_size=8).digest()
    first, second = int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")
    return _signed(first), _signed(second | 1)


class Sampler:
    """Draws tokens from rows of logits over `n_words` ids.

    On a CPU, top-k and top-p are tested only on the winner, which needs no sort but a host
    decision per draw. Elsewhere a sort finds the surviving tokens without the host.
    """

    def __init__(self, n_words: int, device: torch.device, *, sorts: bool | None = None) -> None:
        """With `sorts`, find surviving tokens by a sort; None: except on a CPU."""
        ids = torch.arange(n_words, dtype=torch.int32, device=device)
        ids.mul_(_signed(0x9E3779B1)).add_(_signed(0x7F4A7C15))
        self._ids = _mixed(ids, torch.empty_like(ids))
        self._spaces = torch.empty(3, 0, n_words, device=device)
        self._sorts = device.type != "cpu" if sorts is None else sorts

    def draw(self, logits: Tensor, draws: Sequence[Draw]) -> Tensor:
        """Draw one token id per row.

        Args:
            logits: float32, (B, n_words).
            draws: one per row; temperature 0 takes the largest logit, of equals the lowest id.

        Returns:
            Token ids, (B,), int64.
        """
        logits = restricted(logits, draws)
        rows = [n for n, draw in enumerate(draws) if draw.sampling.temperature > 0]
        if not rows:
            return largest(logits)[1]
        chosen = torch.empty(len(draws), dtype=torch.int64, device=logits.device)
        if greedy := [n for n, draw in enumerate(draws) if draw.sampling.temperature == 0]:
            at = sent(torch.tensor(greedy), logits.device)
            chosen[at] = largest(logits[at])[1]
        size = max(1, _AT_ONCE // logits.shape[1]) * torch.get_num_threads()
        if logits.device.type != "cpu":
            size = len(rows)
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            at = sent(torch.tensor(some), logits.device)
            is_run = some[-1] - some[0] == len(some) - 1  # no copy is needed
            own = logits[some[0] : some[-1] + 1] if is_run else logits[at]
            chosen[at] = self._sampled(own, [draws[n] for n in some])
        return chosen

    def exponentials(self, keys: Sequence[tuple[str, int]]) -> Tensor:
        """Return standard exponential noise -log(1 - v), float32 (B, n_words), v uniform in (0, 1).

        v has 31 bits and is exact near 0, which gives the smallest exponentials, the winners.
        """
        return self._negative_exponentials(keys, self._room(len(keys))).neg()

    def _negative_exponentials(self, keys: Sequence[tuple[str, int]], spaces: Tensor) -> Tensor:
        """Write the noise to the first of the spaces, two or more, and return it."""
        names = torch.tensor([_row_keys(key, step) for key, step in keys], dtype=torch.int32)
        names = sent(names, self._ids.device)
        noise, (space, bits) = spaces[0], spaces[:2].view(torch.int32)
        torch.bitwise_xor(self._ids, names[:, :1], out=bits).mul_(names[:, 1:])
        noise.copy_(_mixed(bits, space).bitwise_and_(_MASK_31)).add_(0.5).mul_(-_TO_UNIT)
        return noise.log1p_()

    def _room(self, rows: int) -> Tensor:
        """Return float32 memory, (3, rows, n_words), valid until the next call.

        On a CPU, allocating it anew would take as long as computing in it.
        """
        if self._spaces.device.type != "cpu":
            return self._spaces.new_empty(3, rows, self._spaces.shape[2])
        if self._spaces.shape[1] < rows:
            self._spaces = self._spaces.new_empty(3, rows, self._spaces.shape[2])
        return self._spaces[:, :rows]

    def _sampled(self, logits: Tensor, draws: Sequence[Draw]) -> Tensor:
        spaces = self._room(len(draws))
        noise = self._negative_exponentials([(draw.key, draw.step) for draw in draws], spaces)
        _, cooled, probabilities = spaces
        heat = _column([draw.sampling.temperature for draw in draws], logits)
        torch.softmax(torch.div(logits, heat, out=cooled), dim=1, out=probabilities)
        race = noise.div_(probabilities)  # the largest wins; probability 0 never does
        if self._sorts:
            race.masked_fill_(probabilities < _least_kept(probabilities, draws), -torch.inf)
            return race.argmax(dim=1)
        cuts = _Cuts(probabilities, draws, cooled)
        winners = largest(race)[1][:, None]
        while not bool((kept := cuts.keep(winners)).all()):
            race.scatter_(1, winners, torch.where(kept, race.gather(1, winners), -torch.inf))
            winners = largest(race)[1][:, None]
        return winners[:, 0]


def restricted(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Return logits, (B, n_words), with -inf for ids that a row may not draw.

    Temperature, top-k and top-p then apply to the others alone. The argument is not changed.
    """
    rows_by_ids: dict[tuple[int, ...], list[int]] = {}
    for n, draw in enumerate(draws):
        if draw.among:
            rows_by_ids.setdefault(draw.among, []).append(n)
    if not rows_by_ids:
        return logits
    whole, logits = logits, logits.clone()
    for ids, rows in rows_by_ids.items():
        at = sent(torch.tensor(rows), logits.device)
        cells = at[:, None], sent(torch.tensor(ids), logits.device)[None]
        logits[at] = -torch.inf
        logits[cells] = whole[cells]
    return logits


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    """Return one value per row, (B, 1), in the dtype and on the device of `like`."""
    return sent(torch.tensor(values, dtype=like.dtype), like.device)[:, None]


def _least_kept(probabilities: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Return the smallest probability that survives each row's top-k, then top-p, (B, 1)."""
    n_words = probabilities.shape[1]
    top_k = [min(draw.sampling.top_k or n_words, n_words) for draw in draws]
    top_p = _column([draw.sampling.top_p for draw in draws], probabilities)
    ordered = probabilities.sort(dim=1, descending=True).values
    last = sent(torch.tensor(top_k), probabilities.device)[:, None] - 1
    in_top_k = ordered >= ordered.gather(1, last)  # ties with the k-th included
    ordered = torch.where(in_top_k, ordered, 0.0)
    above = ordered.cumsum(dim=1) - ordered
    inside = in_top_k & ((above < top_p * ordered.sum(dim=1, keepdim=True)) | (top_p >= 1))
    return ordered.gather(1, inside.sum(dim=1, keepdim=True).clamp_min(1) - 1)


class _Cuts:
    """Tests whether a winner survives top-k and top-p, without sorting.

    The token drawn is the first in the order of the race that survives. Top-p keeps a token if
    strictly more likely tokens have a total probability below top_p, which takes one pass.
    """

    def __init__(self, probabilities: Tensor, draws: Sequence[Draw], space: Tensor) -> None:
        """Take probabilities, (B, n_words); `space` has their shape and is overwritten."""
        self._probabilities, self._space = probabilities, space
        n_words = probabilities.shape[1]
        top_k = [draw.sampling.top_k or n_words for draw in draws]
        self._top_k = probabilities.new_tensor(top_k)[:, None]
        self._weight = probabilities.new_tensor([draw.sampling.top_p for draw in draws])[:, None]
        self._has_top_k = any(k < n_words for k in top_k)
        self._is_off = not self._has_top_k and all(draw.sampling.top_p >= 1 for draw in draws)
        for n, k in enumerate(top_k):
            if k < n_words:  # top-p is relative to what top-k leaves, ties with the k-th included
                least = probabilities[n].topk(k).values[-1]
                row = probabilities[n]
                self._weight[n] *= row.masked_fill(row < least, 0.0).sum()
        self._has_top_p = torch.tensor(
            [[draw.sampling.top_p < 1] for draw in draws], device=probabilities.device
        )

    def keep(self, winners: Tensor) -> Tensor:
        """Return whether each row's winner, (B, 1), survives: booleans, (B, 1)."""
        if self._is_off:
            return torch.ones_like(winners, dtype=torch.bool)
        least = self._probabilities.gather(1, winners)
        if not self._has_top_k and bool((1 - least < self._weight - _SURE).all()):
            return torch.ones_like(winners, dtype=torch.bool)  # the rest weighs less than top_p
        above = torch.gt(self._probabilities, least, out=self._space)  # 1.0 or 0.0
        is_kept = torch.ones_like(self._has_top_p)
        if self._has_top_k:
            is_kept = above.sum(dim=1, keepdim=True) < self._top_k
        in_top_p = above.mul_(self._probabilities).sum(dim=1, keepdim=True) < self._weight
        return is_kept & (in_top_p | ~self._has_top_p)


@dataclass(slots=True)
class Running:
    """A request in progress and the ids it has generated so far."""

    index: int
    request: GenerateRequest
    ids: list[int] = field(default_factory=list)

    def draw(self, unread: int = 0) -> Draw:
        """Return the draw of the next token, after `unread` tokens not yet read from the device."""
        step = len(self.ids) + unread
        among = () if step else self.request.first
        return Draw(self.request.sampling, self.request.key, step, among)

    def take(self, token: int, eos_ids: Collection[int]) -> GenerateReply | None:
        """Append a token; return the reply if it ends the generation."""
        if token in eos_ids:
            return GenerateReply(tuple(self.ids), "eos")
        self.ids.append(token)
        if self.request.is_done is not None and self.request.is_done(self.ids):
            return GenerateReply(tuple(self.ids), "stop")
        if len(self.ids) == self.request.max_tokens:
            return GenerateReply(tuple(self.ids), "length")
        return None


class Drawn:
    """The next token of some requests, drawn on the device and read by the host later.

    On CUDA the copy to the host is queued right after the draw, so reading waits only for this
    step and not for later ones.
    """

    def __init__(self, sampler: Sampler, logits: Tensor, draws: Sequence[Draw]) -> None:
        """Draw one token for each row of logits, float32 (B, n_words)."""
        is_finite = logits.sum(dim=1).isfinite()
        if not logits.is_cuda and not bool(is_finite.all()):  # sampling needs finite rows
            logits = torch.where(is_finite[:, None], logits, 0.0)
        self.tokens = sampler.draw(logits, draws)  # (B,), int64
        self._copy = HostCopy(torch.stack([self.tokens, is_finite.to(torch.int64)]))

    def read(self, running: Sequence[Running], is_live: Sequence[bool]) -> list[int]:
        """Return one token per row, of the running request there.

        A row that is not live is one of a request that has ended, or one that counts only if a
        draft token is accepted; its token is `NO_TOKEN` if a logit is not finite.

        Raises:
            EngineError: a logit of a live request is NaN or infinite; names the request.
        """
        tokens, finite = self._copy.read().tolist()
        for item, is_finite, lives in zip(running, finite, is_live, strict=True):
            if lives and not is_finite:
                raise not_finite("generate", item.index)
        return [t if is_finite else NO_TOKEN for t, is_finite in zip(tokens, finite, strict=True)]
