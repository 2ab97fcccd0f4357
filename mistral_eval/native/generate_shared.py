"""Generate with shared prompts: prefill a few-shot block once, and a question once for its samples.

`admission` decides which samples have a row. On CUDA the host reads a step's tokens while the
device computes the next step, so a finished sample runs one step too far, and that token is
dropped. On a CPU, when few samples are left, a step also computes draft tokens, which repeat what a
reply repeats (`drafts`).
"""

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mistral_eval.model.memory import sent
from mistral_eval.model.products import FEW_ROWS
from mistral_eval.model.shared_attend import Piece, RowsAttend
from mistral_eval.model.shared_cache import SharedCache
from mistral_eval.model.transformer import Transformer
from mistral_eval.native.admission import Admission, Budget, FewShotBlock, Question, Sample
from mistral_eval.native.clusters import cluster_prompts
from mistral_eval.native.drafts import shortened
from mistral_eval.native.prefill import prefill
from mistral_eval.native.requests import (
    WHOLE,
    Counters,
    Flops,
    GenerateReply,
    GenerateRequest,
    Turn,
)
from mistral_eval.native.sampling import NO_TOKEN, Drawn, Running, Sampler

# Tokens of the largest step of which a CPU spends most of the time reading the weights, and which
# is multiplied as one token is: as long as fewer samples are left, draft tokens fill it.
_LOOKAHEAD = FEW_ROWS - 1
Replies = Iterator[tuple[int, GenerateReply]]


class SharedGenerator:
    """Generates replies, which do not depend on the budget."""

    def __init__(
        self,
        model: Transformer,
        eos_ids: Collection[int],
        budget: Budget,
        stats: Counters,
        *,
        reads_late: bool | None = None,
        lookahead: int = _LOOKAHEAD,
    ) -> None:
        """Prepare for a model within a budget.

        Args:
            model: computes the tokens.
            eos_ids: each ends a reply.
            budget: how much is held at once.
            stats: what is computed is added to it.
            reads_late: start a step before reading the last one's tokens; None: on CUDA.
            lookahead: compute draft tokens in steps of at most so many tokens; never if late.
        """
        self.reads_late = model.device.type == "cuda" if reads_late is None else reads_late
        self.lookahead = 0 if self.reads_late else min(lookahead, budget.rows)
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
        clusters = cluster_prompts([requests[n] for n in wanted], done)
        waiting = deque[Question]()
        for cluster in clusters:
            block = FewShotBlock(cluster.root, len(cluster.prompts))
            for prompt in cluster.prompts:
                samples = deque(Running(wanted[n], requests[wanted[n]]) for n in prompt.requests)
                waiting.append(Question(block, prompt.tail, samples))
        yield from _Generation(self, waiting, turn).run()


@dataclass(frozen=True, slots=True)
class _Unread:
    """Tokens drawn for some samples and not read yet.

    `drafts` are the tokens after the next one that were fed for each sample: the token drawn
    behind a draft token counts if that one is accepted.
    """

    samples: list[Sample]
    drafts: list[list[int]]
    drawn: Drawn
    seats: frozenset[int]


class _Generation:
    """One list of requests in progress: the questions that wait and the samples in each seat."""

    def __init__(self, generator: SharedGenerator, waiting: deque[Question], turn: Turn) -> None:
        self._generator, self._model = generator, generator.model
        self._is_stopping = turn.stopping
        budget = generator.budget
        seats = min(budget.rows, sum(len(question.waiting) for question in waiting))
        prompts = min(budget.prompts, len(waiting))
        self._cache = SharedCache(self._model, seats, budget.cached, prompts)
        self._admission = Admission(waiting, self._cache, budget)
        self._active = self._admission.active
        self._unread: _Unread | None = None
        self._may_draft = True
        self._last = torch.zeros(seats, dtype=torch.int64, device=self._model.device)

    def run(self) -> Replies:
        """Admit samples and step until everything is answered."""
        while (self._admission.left or self._active) and not self._is_stopping():
            if self._unread and not self._goes_on():
                yield from self._read()
            elif self._admission.is_ready():
                yield from self._read()
                yield from self._admit()
            else:
                yield from self._step()
        yield from self._read()  # surplus tokens of ended samples, or the pass before a stop

    def _goes_on(self) -> bool:
        """Return whether a sample needs more tokens than those not yet read."""
        return any(map(self._needs_more, self._active.values()))

    def _needs_more(self, sample: Sample) -> bool:
        running = sample.running
        return len(running.ids) + self._count_unread(sample) < running.request.max_tokens

    def _count_unread(self, sample: Sample) -> int:
        return int(self._unread is not None and sample.seat in self._unread.seats)

    def _admit(self) -> Replies:
        """Give the next samples rows, prefill prompts and draw the samples' first tokens."""
        entering = self._admission.admit()
        if self._prefill(entering.blocks, entering.questions):
            samples = entering.samples
            logits = torch.stack([_logits(sample.question) for sample in samples])
            for question in {sample.question for sample in samples}:
                if not question.waiting:
                    question.logits = None
            yield from self._draw(logits, samples)

    def _prefill(self, blocks: Sequence[FewShotBlock], questions: Sequence[Question]) -> bool:
        """Compute new blocks, then new questions behind them; return False if told to stop."""
        roots = [Piece(block.root, 0, len(block.tokens)) for block in blocks if block.tokens]
        shared = [block.tokens for block in blocks if block.tokens]
        if self._run_pieces(roots, shared, is_asked=False) is None:
            return False
        tails = [Piece(question.prompt, 0, len(question.tail)) for question in questions]
        own = [question.tail for question in questions]
        states = self._run_pieces(tails, own, is_asked=True)
        if states is None:
            return False
        if states:
            self._generator.stats.generate_flop += self._generator.flops.row * len(states)
            logits = self._model.logits(torch.stack(states))
            for question, row in zip(questions, logits, strict=True):
                # a view would keep all rows as long as this one is waited for
                question.logits = row.clone() if question.waiting else row
        return True

    def _run_pieces(
        self, pieces: Sequence[Piece], tokens: Sequence[tuple[int, ...]], *, is_asked: bool
    ) -> list[Tensor] | None:
        """Run pieces through the model in packs; see `prefill`."""
        generator = self._generator
        return prefill(
            self._model,
            self._cache,
            list(zip(pieces, tokens, strict=True)),
            generator.budget.tokens,
            is_asked=is_asked,
            count=self._count_pack,
            stopping=self._is_stopping,
        )

    def _count_pack(self, pieces: Sequence[Piece], asked: Sequence[bool]) -> None:
        stats, flops = self._generator.stats, self._generator.flops
        for piece, is_asked in zip(pieces, asked, strict=True):
            end = piece.first + piece.count
            stats.prompt_computed += piece.count
            stats.generate_flop += flops.span(piece.first, end)
            stats.generate_flop -= flops.spared(np.arange(piece.first, end - is_asked))

    def _step(self) -> Replies:
        samples = [s for _, s in sorted(self._active.items()) if self._needs_more(s)]
        drafts = self._propose(samples)
        attend = RowsAttend(self._cache, [s.row for s in samples], [len(g) for g in drafts])
        last = self._last[self._seats(samples)]
        if any(drafts):
            pairs = zip(last.tolist(), drafts, strict=True)
            last = torch.tensor([token for first, more in pairs for token in (first, *more)])
        hidden = self._model.hidden(last, attend.positions, attend)
        if any(drafts) and not bool(hidden.isfinite().all()):
            self._forget(samples, drafts)
            yield from self._step()
            return
        attend.finish()
        stats = self._generator.stats
        stats.decode_steps += 1
        stats.decode_rows = max(stats.decode_rows, len(samples))
        yield from self._draw(self._model.logits(hidden), samples, drafts)

    def _forget(self, samples: Sequence[Sample], drafts: Sequence[Sequence[int]]) -> None:
        """Erase draft tokens, of which one overflowed, and try no more: 0 * NaN would be seen.

        A row without any is left alone: its next token is stored again, and in a rolling buffer it
        has taken the place of another.
        """
        self._may_draft = False
        for sample, draft in zip(samples, drafts, strict=True):
            if draft:
                self._cache.erase(sample.row, 1 + len(draft))

    def _propose(self, samples: Sequence[Sample]) -> list[list[int]]:
        """Return draft tokens of each sample, which share what room a step has."""
        room = self._generator.lookahead - len(samples)
        if room < 1 or not self._may_draft:
            return [[] for _ in samples]
        drafts = [s.proposer.propose(s.running.ids, self._room_ahead(s)) for s in samples]
        return shortened(drafts, room)

    def _room_ahead(self, sample: Sample) -> int:
        """Return how many tokens a sample may be fed behind its next one."""
        running = sample.running
        left = running.request.max_tokens - len(running.ids) - 1
        return min(left, self._cache.room_ahead(sample.row))

    def _seats(self, samples: Sequence[Sample]) -> Tensor:
        seats = torch.tensor([sample.seat for sample in samples])
        return sent(seats, self._model.device)

    def _draw(
        self, logits: Tensor, samples: Sequence[Sample], drafts: list[list[int]] | None = None
    ) -> Replies:
        """Draw the samples' next tokens; read the previous step's and, unless late, these too.

        `logits` has a row for each sample's next token, and one behind each of its draft tokens.
        """
        drafts = drafts or [[] for _ in samples]
        draws = [
            sample.running.draw(self._count_unread(sample) + n)
            for sample, draft in zip(samples, drafts, strict=True)
            for n in range(len(draft) + 1)
        ]
        drawn = Drawn(self._generator.sampler, logits, draws)
        if not any(drafts):
            self._last[self._seats(samples)] = drawn.tokens
        yield from self._read()
        seats = frozenset(sample.seat for sample in samples)
        self._unread = _Unread(list(samples), drafts, drawn, seats)
        if not self._generator.reads_late:
            yield from self._read()

    def _read(self) -> Replies:
        """Read tokens not yet read; drop those that a sample drew after its end."""
        unread, self._unread = self._unread, None
        if unread is None:
            return
        pairs = list(zip(unread.samples, unread.drafts, strict=True))
        rows = [(s, n) for s, draft in pairs for n in range(len(draft) + 1)]
        is_live = [not n and self._active.get(s.seat) is s for s, n in rows]
        tokens = iter(unread.drawn.read([s.running for s, _ in rows], is_live))
        for sample, draft in pairs:
            own = [next(tokens) for _ in range(len(draft) + 1)]
            if self._active.get(sample.seat) is not sample:
                continue
            if reply := self._take(sample, own, draft):
                yield sample.running.index, reply
        if any(unread.drafts):
            left = [s for s in unread.samples if self._active.get(s.seat) is s]
            last = torch.tensor([s.running.ids[-1] for s in left], dtype=torch.int64)
            self._last[torch.tensor([s.seat for s in left], dtype=torch.int64)] = last

    def _take(
        self, sample: Sample, tokens: Sequence[int], draft: Sequence[int]
    ) -> GenerateReply | None:
        """Append drawn tokens until one is not the draft's; return the reply if it ends."""
        stats = self._generator.stats
        accepted, reply = 0, None
        for n, token in enumerate(tokens):
            stats.generated += 1
            reply = sample.running.take(token, self._generator.eos_ids)
            if reply or n == len(draft) or token != draft[n] or tokens[n + 1] == NO_TOKEN:
                break
            accepted += 1
        stats.draft_tokens += len(draft)
        stats.accepted_tokens += accepted
        if reply is None:
            sample.proposer.learn(len(draft), accepted)
            sample.row.length += accepted
            return None
        self._admission.leave(sample)
        drawn = len(reply.ids) + (reply.finish == "eos")
        self._count_reply(len(sample.running.request.prompt), drawn)
        return reply

    def _count_reply(self, prompt: int, drawn: int) -> None:
        """Count a reply's steps: the prefill gave its first token, and its last was not fed."""
        flops = self._generator.flops
        steps = flops.span(prompt, prompt + drawn - 1) + flops.row * (drawn - 1)
        self._generator.stats.generate_flop += steps


def _logits(question: Question) -> Tensor:
    assert question.logits is not None, question
    return question.logits
