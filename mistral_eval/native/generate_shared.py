"""Generation that shares: a few-shot block prefilled once, a question once for its samples.

Continuous batching by question: when the last sample of a question has ended, the next question
takes its place. On CUDA the host reads a step's tokens while the device computes the next step: a
sample that has ended goes one step too far, and what it drew there is dropped.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mistral_eval.model.memory import HostCopy, sent
from mistral_eval.model.shared_cache import CellsAttend, Piece, PrefillAttend, Room, SharedCache
from mistral_eval.model.transformer import Transformer
from mistral_eval.native.flops import Flops
from mistral_eval.native.prompts import Cluster, Question, cluster_prompts
from mistral_eval.native.requests import (
    WHOLE,
    Counters,
    GenerateReply,
    GenerateRequest,
    Turn,
    not_finite,
)
from mistral_eval.native.sampling import Draw, Sampler

Replies = Iterator[tuple[int, GenerateReply]]


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


@dataclass(frozen=True, slots=True)
class Budget:
    """How much goes through the model at once.

    Attributes:
        rows: sequences decoded side by side, at most.
        tokens: prompt tokens of one forward pass, at most.
        cached: tokens whose keys and values the tails and rings may hold.
    """

    rows: int
    tokens: int
    cached: int


def room_of(cluster: Cluster, max_tokens: Sequence[int], budget: Budget) -> Room:
    """The cache that a cluster needs under a budget; `max_tokens` by the cluster's requests."""
    questions = cluster.questions
    samples = min(max(len(question.requests) for question in questions), budget.rows)
    tail = max(len(question.tail) for question in questions)
    new = max(max_tokens[n] for question in questions for n in question.requests)
    cost = tail + samples * new
    count = sum(-(-len(question.requests) // samples) for question in questions)
    at_once = min(budget.rows // samples, budget.cached // cost, count)
    return Room(max(1, at_once), samples, len(cluster.root), tail, new)


class SharedGenerator:
    """Generates cluster after cluster; replies do not depend on the budget."""

    def __init__(
        self,
        model: Transformer,
        eos_id: int,
        budget: Budget,
        stats: Counters,
        *,
        reads_late: bool | None = None,
    ) -> None:
        """`reads_late`: a step begins before the last one's tokens are read; None: on CUDA."""
        self.reads_late = model.device.type == "cuda" if reads_late is None else reads_late
        self.model = model
        self.eos_id = eos_id
        self.budget = budget
        self.stats = stats
        self.flops = Flops.of(model.config, model.n_words)
        self.sampler = Sampler(model.n_words, model.device)

    def run(self, requests: Sequence[GenerateRequest], turn: Turn = WHOLE) -> Replies:
        """Replies as they end; a request for no tokens is answered at once, a known one never.

        Where `turn` says to stop it ends before the next pass; replies under way are dropped.
        """
        wanted = [n for n, request in enumerate(requests) if request.max_tokens > 0]
        for n in set(range(len(requests))) - set(wanted) - set(turn.known):
            yield n, GenerateReply((), "length")
        done = {place for place, n in enumerate(wanted) if n in turn.known}
        for cluster in cluster_prompts([requests[n] for n in wanted], done):
            running = [Running(n, requests[n]) for n in wanted]
            yield from _ClusterRun(self, cluster, running, turn).run()


@dataclass(frozen=True, slots=True)
class _Unread:
    """Tokens that were drawn for the samples in some cells, and not read yet."""

    cells: list[int]
    running: list[Running]
    drawn: Drawn
    places: frozenset[int]  # the cells again


class _ClusterRun:
    """The prompts of one cluster: what waits, and what is active in which cell."""

    def __init__(
        self, generator: SharedGenerator, cluster: Cluster, running: Sequence[Running], turn: Turn
    ) -> None:
        """`running` is indexed by the cluster's requests."""
        self._generator, self._model = generator, generator.model
        self._is_stopping = turn.stopping
        self._running = running
        self._root = cluster.root
        room = room_of(cluster, [item.request.max_tokens for item in running], generator.budget)
        self._waiting = deque(
            Question(question.tail, question.requests[n : n + room.samples])
            for question in cluster.questions
            for n in range(0, len(question.requests), room.samples)
        )
        self._cache = SharedCache(self._model, room)
        self._active: dict[int, Running] = {}  # by cell
        self._unread: _Unread | None = None
        self._last = torch.zeros(self._cache.n_cells, dtype=torch.int64, device=self._model.device)

    def run(self) -> Replies:
        """Prefill the root, then admit questions and step until all is answered."""
        self._prefill([Piece(None, 0, len(self._root))] if self._root else [], [self._root])
        room = self._cache.room
        while (self._waiting or self._active) and not self._is_stopping():
            if self._unread and not self._goes_on():
                yield from self._read()
                continue
            busy = {cell // room.samples for cell in self._active}
            free = [n for n in range(room.questions) if n not in busy]
            # Entering in company keeps prefill packs large; a quarter is what may idle for it.
            if self._waiting and 4 * len(free) >= min(room.questions, 4 * len(self._waiting)):
                yield from self._read()
                yield from self._admit(free[: len(self._waiting)])
            else:
                yield from self._step()
        yield from self._read()  # what ended samples drew in vain, or the pass before a stop

    def _goes_on(self) -> bool:
        """Whether some sample needs more than the token that is on its way."""
        return any(self._needs_more(cell) for cell in self._active)

    def _needs_more(self, cell: int) -> bool:
        item = self._active[cell]
        return len(item.ids) + self._count_unread(cell) < item.request.max_tokens

    def _count_unread(self, cell: int) -> int:
        return int(self._unread is not None and cell in self._unread.places)

    def _admit(self, places: list[int]) -> Replies:
        """Prefill one waiting question for each place and draw its samples' first tokens."""
        entering = [self._waiting.popleft() for _ in places]
        pieces = []
        for place, question in zip(places, entering, strict=True):
            self._cache.start_question(place, len(question.tail))
            pieces.append(Piece(place, 0, len(question.tail)))
        last = self._prefill(pieces, [question.tail for question in entering])
        if last is None:
            return
        cells, rows = [], []
        for row, (place, question) in enumerate(zip(places, entering, strict=True)):
            for sample, request in enumerate(question.requests):
                cells.append(place * self._cache.room.samples + sample)
                self._active[cells[-1]] = self._running[request]
                rows.append(row)
        self._generator.stats.generate_flop += self._generator.flops.row * len(entering)
        yield from self._draw(self._model.logits(last)[rows], cells)

    def _prefill(self, pieces: Sequence[Piece], tokens: Sequence[tuple[int, ...]]) -> Tensor | None:
        """Run pieces through the model in packs; the last hidden state of each, (pieces, dim).

        None: it was told to stop before the last pack.
        """
        states = []
        for pack in _packs(pieces, self._generator.budget.tokens):
            if self._is_stopping():
                return None
            ids = [
                token
                for n, piece in pack
                for token in tokens[n][piece.start : piece.start + piece.count]
            ]
            attend = PrefillAttend(self._cache, [piece for _, piece in pack])
            hidden = self._model.hidden(
                sent(torch.tensor(ids), self._model.device), attend.positions, attend
            )
            self._count(len(ids), [piece for _, piece in pack])
            row = -1
            for n, piece in pack:
                row += piece.count
                if piece.start + piece.count == len(tokens[n]):
                    states.append(hidden[row])
        return torch.stack(states) if states else torch.empty(0)

    def _count(self, tokens: int, pieces: Sequence[Piece]) -> None:
        """Count a pack of prompts; the tail of a question stands behind the root."""
        stats, flops = self._generator.stats, self._generator.flops
        stats.prompt_computed += tokens
        for piece in pieces:
            first = piece.start + (0 if piece.question is None else len(self._root))
            stats.generate_flop += flops.span(first, first + piece.count)

    def _step(self) -> Replies:
        cells = sorted(cell for cell in self._active if self._needs_more(cell))
        config, device = self._model.config, self._model.device
        attend = CellsAttend(self._cache, cells, config.n_heads // config.n_kv_heads)
        last = self._last[sent(torch.tensor(cells), device)]
        hidden = self._model.hidden(last, attend.positions, attend)
        attend.finish()
        yield from self._draw(self._model.logits(hidden), cells)

    def _draw(self, logits: Tensor, cells: list[int]) -> Replies:
        """Draw the cells' next tokens, then read those of the step before; or these, at once."""
        running = [self._active[cell] for cell in cells]
        unread = [self._count_unread(cell) for cell in cells]
        draws = [item.draw(count) for item, count in zip(running, unread, strict=True)]
        drawn = Drawn(self._generator.sampler, logits, draws)
        self._last[sent(torch.tensor(cells), logits.device)] = drawn.tokens
        yield from self._read()
        self._unread = _Unread(cells, running, drawn, frozenset(cells))
        if not self._generator.reads_late:
            yield from self._read()

    def _read(self) -> Replies:
        """Read what is unread; what a sample drew after its end is dropped."""
        unread, self._unread = self._unread, None
        if unread is None:
            return
        pairs = zip(unread.cells, unread.running, strict=True)
        is_live = [self._active.get(cell) is item for cell, item in pairs]
        tokens = unread.drawn.read(unread.running, is_live)
        for cell, item, token, lives in zip(
            unread.cells, unread.running, tokens, is_live, strict=True
        ):
            if not lives:
                continue
            self._generator.stats.generated += 1
            if reply := item.take(token, self._generator.eos_id):
                del self._active[cell]
                self._count_reply(
                    len(item.request.prompt), len(reply.ids) + (reply.finish == "eos")
                )
                yield item.index, reply

    def _count_reply(self, prompt: int, drawn: int) -> None:
        """Count a reply's steps; its first token is its prompt's work, its last was not fed."""
        flops = self._generator.flops
        steps = flops.span(prompt, prompt + drawn - 1) + flops.row * (drawn - 1)
        self._generator.stats.generate_flop += steps


def _packs(pieces: Sequence[Piece], tokens: int) -> Iterator[list[tuple[int, Piece]]]:
    """Pieces, numbered, in packs of `tokens` at most; a piece that does not fit is cut."""
    pack: list[tuple[int, Piece]] = []
    room = tokens
    for n, piece in enumerate(pieces):
        start, end = piece.start, piece.start + piece.count
        while start < end:
            count = min(room, end - start)
            pack.append((n, Piece(piece.question, start, count)))
            start, room = start + count, room - count
            if not room:
                yield pack
                pack, room = [], tokens
    if pack:
        yield pack
