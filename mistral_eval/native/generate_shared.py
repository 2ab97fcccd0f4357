"""Generate with shared prompts: prefill a few-shot block once, and a question once for its samples.

Continuous batching by question: when the last sample of a question has ended, the next question
takes its place. On CUDA the host reads a step's tokens while the device computes the next step, so
a finished sample runs one step too far, and that token is dropped.
"""

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from mistral_eval.model.memory import sent
from mistral_eval.model.shared_cache import CellsAttend, Piece, PrefillAttend, Room, SharedCache
from mistral_eval.model.transformer import Transformer
from mistral_eval.native.requests import (
    WHOLE,
    Counters,
    Flops,
    GenerateReply,
    GenerateRequest,
    Turn,
)
from mistral_eval.native.sampling import Drawn, Running, Sampler

# Sorted neighbours form one cluster if they share half of the shorter one, and more than BOS and a
# word or two.
_SHARED_PART = 0.5
_SHARED_TOKENS = 8
Replies = Iterator[tuple[int, GenerateReply]]


@dataclass(frozen=True, slots=True)
class Question:
    """A distinct prompt without its cluster's root, and the requests that continue it."""

    tail: tuple[int, ...]
    requests: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cluster:
    """Prompts that begin with the same `root`, which is empty if they share little."""

    root: tuple[int, ...]
    questions: tuple[Question, ...]


def cluster_prompts(
    requests: Sequence[GenerateRequest], known: Collection[int] = ()
) -> list[Cluster]:
    """Cluster prompts by their shared prefix, independently of the order of requests.

    Requests in `known` count when roots are chosen but are left out of the result. A root is
    shorter than each of its prompts, since the logits of a question's last own token start its
    generations. Prompts that share little form one cluster without a root.
    """
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for n, request in enumerate(requests):
        by_prompt.setdefault(request.prompt, []).append(n)
    ordered = sorted(by_prompt)
    runs = _runs(ordered)
    clusters = []
    loose: list[tuple[int, ...]] = [run[0] for run in runs if len(run) == 1]
    for run in ([loose] if loose else []) + [run for run in runs if len(run) > 1]:
        shared = 0 if run is loose else _shared(run[0], run[-1])
        length = min(shared, min(map(len, run)) - 1)
        questions = (Question(prompt[length:], tuple(by_prompt[prompt])) for prompt in run)
        clusters.append(Cluster(run[0][:length], tuple(questions)))
    return _without(clusters, known) if known else clusters


def _without(clusters: Sequence[Cluster], known: Collection[int]) -> list[Cluster]:
    """Remove known requests, then questions and clusters without requests."""
    left = []
    for cluster in clusters:
        questions = [
            replace(question, requests=tuple(n for n in question.requests if n not in known))
            for question in cluster.questions
        ]
        if asked := tuple(question for question in questions if question.requests):
            left.append(replace(cluster, questions=asked))
    return left


def unique_tokens(requests: Sequence[GenerateRequest]) -> int:
    """Count the tokens in the prefix tree of all prompts."""
    ordered = sorted({request.prompt for request in requests})
    return sum(len(right) - _shared(left, right) for left, right in pairwise([(), *ordered]))


def _runs(ordered: list[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Split sorted prompts where neighbours share little."""
    runs: list[list[tuple[int, ...]]] = []
    for left, right in pairwise([(), *ordered]):
        least = max(_SHARED_TOKENS, _SHARED_PART * min(len(left), len(right)))
        if _shared(left, right) >= least:
            runs[-1].append(right)
        else:
            runs.append([right])
    return runs


def _shared(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    """Return the length of the longest common prefix."""
    for n, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return n
    return min(len(left), len(right))


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of generation.

    Attributes:
        rows: sequences decoded in one step.
        tokens: prompt tokens per forward pass.
        cached: tokens whose keys and values the tails and rings may hold.
    """

    rows: int
    tokens: int
    cached: int


def room_of(cluster: Cluster, max_tokens: Sequence[int], budget: Budget) -> Room:
    """Return the cache size for a cluster within a budget; `max_tokens` by request index."""
    questions = cluster.questions
    samples = min(max(len(question.requests) for question in questions), budget.rows)
    tail = max(len(question.tail) for question in questions)
    new = max(max_tokens[n] for question in questions for n in question.requests)
    cost = tail + samples * new
    count = sum(-(-len(question.requests) // samples) for question in questions)
    at_once = min(budget.rows // samples, budget.cached // cost, count)
    return Room(max(1, at_once), samples, len(cluster.root), tail, new)


class SharedGenerator:
    """Generates one cluster of prompts after the other; replies do not depend on the budget."""

    def __init__(
        self,
        model: Transformer,
        eos_ids: Collection[int],
        budget: Budget,
        stats: Counters,
        *,
        reads_late: bool | None = None,
    ) -> None:
        """With `reads_late`, start a step before reading the last one's tokens; None: on CUDA."""
        self.reads_late = model.device.type == "cuda" if reads_late is None else reads_late
        self.model = model
        self.eos_ids = eos_ids
        self.budget = budget
        self.stats = stats
        self.flops = Flops.of(model.config, model.n_words)
        self.sampler = Sampler(model.n_words, model.device)

    def run(self, requests: Sequence[GenerateRequest], turn: Turn = WHOLE) -> Replies:
        """Yield replies as generations end; requests for 0 tokens first, known ones never.

        When `turn.stopping` returns True, drop generations in progress.
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
    """Tokens drawn for the samples in some cells and not read yet."""

    cells: list[int]
    running: list[Running]
    drawn: Drawn
    places: frozenset[int]  # `cells` as a set


class _ClusterRun:
    """One cluster's generation: its waiting questions and the requests active in each cell."""

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
        """Prefill the root, then admit questions and step until everything is answered."""
        self._prefill([Piece(None, 0, len(self._root))] if self._root else [], [self._root])
        room = self._cache.room
        while (self._waiting or self._active) and not self._is_stopping():
            if self._unread and not self._goes_on():
                yield from self._read()
                continue
            busy = {cell // room.samples for cell in self._active}
            free = [n for n in range(room.questions) if n not in busy]
            # Admitting several questions at once keeps prefill packs large; up to a quarter of the
            # places may be idle for it.
            if self._waiting and 4 * len(free) >= min(room.questions, 4 * len(self._waiting)):
                yield from self._read()
                yield from self._admit(free[: len(self._waiting)])
            else:
                yield from self._step()
        yield from self._read()  # surplus tokens of ended samples, or the pass before a stop

    def _goes_on(self) -> bool:
        """Return whether a sample needs more tokens than those not yet read."""
        return any(self._needs_more(cell) for cell in self._active)

    def _needs_more(self, cell: int) -> bool:
        item = self._active[cell]
        return len(item.ids) + self._count_unread(cell) < item.request.max_tokens

    def _count_unread(self, cell: int) -> int:
        return int(self._unread is not None and cell in self._unread.places)

    def _admit(self, places: list[int]) -> Replies:
        """Prefill a waiting question for each place and draw its samples' first tokens."""
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
        """Run pieces through the model in packs; return their last hidden states, (pieces, dim).

        Return None if told to stop before the last pack.
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
        """Count a pack of prompt tokens; a question's tail follows the root."""
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
        """Draw the cells' next tokens; read the previous step's and, unless late, these too."""
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
        """Read tokens not yet read; drop those that a sample drew after its end."""
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
            if reply := item.take(token, self._generator.eos_ids):
                del self._active[cell]
                self._count_reply(
                    len(item.request.prompt), len(reply.ids) + (reply.finish == "eos")
                )
                yield item.index, reply

    def _count_reply(self, prompt: int, drawn: int) -> None:
        """Count a reply's steps: the prefill gave its first token, and its last was not fed."""
        flops = self._generator.flops
        steps = flops.span(prompt, prompt + drawn - 1) + flops.row * (drawn - 1)
        self._generator.stats.generate_flop += steps


def _packs(pieces: Sequence[Piece], tokens: int) -> Iterator[list[tuple[int, Piece]]]:
    """Yield packs of at most `tokens` tokens of (index, piece); split pieces that do not fit."""
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
