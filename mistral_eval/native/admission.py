"""Which samples of which questions have a row, and what the cache holds for them.

Continuous batching by sample: when a sample has ended, the next one of any question and benchmark
takes its row. Few-shot blocks and prompts are kept while a sample needs them.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final

from torch import Tensor

from mistral_eval.model.shared_cache import Prompt, Root, Row, SharedCache, row_slots, tail_size
from mistral_eval.native.drafts import NgramProposer
from mistral_eval.native.sampling import Running

# New samples wait until this part of the rows is free, as each time has a cost of its own.
_FREE_PART: Final = 32
# Prompts are computed ahead for so large a part of the rows, so that they fill a pack.
_AHEAD_PART: Final = 8


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of generation.

    Attributes:
        rows: samples decoded in one step.
        tokens: prompt tokens per forward pass.
        cached: tokens whose keys and values may be held if every reply reaches its limit. A single
            sample may exceed it.
    """

    rows: int
    tokens: int
    cached: int

    @property
    def prompts(self) -> int:
        """The most prompts held: those of the rows, and those computed ahead."""
        return self.rows + self.rows // _AHEAD_PART


@dataclass(eq=False, slots=True)
class FewShotBlock:
    """The few-shot block of some questions, and how many of them need it still.

    `stored` is None until the block's first prompt is opened.
    """

    tokens: tuple[int, ...]
    questions: int
    stored: Root | None = None

    @property
    def root(self) -> Root:
        """Where its keys and values are."""
        assert self.stored is not None, self
        return self.stored


@dataclass(eq=False, slots=True)
class Question:
    """A prompt with its samples that have no row yet, and the number of those that have one.

    `stored` is None until the prompt is opened, to be computed before its first sample is admitted.
    `logits` are those of the first new token, (n_words,), while samples wait for them.
    """

    block: FewShotBlock
    tail: tuple[int, ...]
    waiting: deque[Running]
    active: int = 0
    stored: Prompt | None = None
    logits: Tensor | None = None

    @property
    def prompt(self) -> Prompt:
        """Where its keys and values are."""
        assert self.stored is not None, self
        return self.stored

    @property
    def row_slots(self) -> int:
        """The slots that its next sample takes if the reply reaches its limit."""
        return row_slots(self.waiting[0].request.max_tokens)

    @property
    def prompt_slots(self) -> int:
        """The slots that opening its prompt takes, and its block's: 0 once it is open."""
        if self.stored is not None:
            return 0
        return tail_size(len(self.tail)) + (0 if self.block.stored else len(self.block.tokens))


@dataclass(eq=False, slots=True)
class Sample:
    """A sample in progress; `seat` is its place among the rows."""

    seat: int
    running: Running
    question: Question
    row: Row
    proposer: NgramProposer = field(default_factory=NgramProposer)


@dataclass(frozen=True, slots=True)
class Entering:
    """Samples that get a row together, and the blocks and prompts to be computed first."""

    samples: Sequence[Sample]
    blocks: Sequence[FewShotBlock]
    questions: Sequence[Question]


class Admission:
    """The questions in order, the free seats, and the slots held.

    Attributes:
        cache: holds blocks, prompts and rows.
        active: samples in progress, by seat.
        left: number of samples that have no row yet.
    """

    def __init__(self, questions: deque[Question], cache: SharedCache, budget: Budget) -> None:
        self.cache = cache
        self.active: dict[int, Sample] = {}
        self.left = sum(len(question.waiting) for question in questions)
        self._questions, self._budget = questions, budget
        self._free = list(range(min(budget.rows, self.left)))  # a heap
        self._held = 0  # slots, if every reply reaches its limit

    def is_ready(self) -> bool:
        """Return whether enough seats are free for the next samples, and the cache has room."""
        enough = max(1, self._budget.rows // _FREE_PART)
        return 0 < min(enough, self.left) <= len(self._free) and self._fits(self._questions[0])

    def _fits(self, question: Question, reserved: int = 0) -> bool:
        """Return whether the cache has room for a question's next sample; always if idle.

        If more slots than the sample's own are `reserved`, it must have room for these.
        """
        needed = self._held + max(question.row_slots, reserved) + question.prompt_slots
        return not self.active or needed <= self._budget.cached

    def admit(self) -> Entering:
        """Give seats and places to the next samples, and places to prompts computed ahead."""
        samples: list[Sample] = []
        blocks: list[FewShotBlock] = []
        opened: list[Question] = []
        while self._free and self._questions and self._fits(self._questions[0]):
            question = self._questions[0]
            self._open(question, blocks, opened)
            self._held += question.row_slots
            seat = heappop(self._free)
            sample = Sample(seat, question.waiting.popleft(), question, Row(question.prompt))
            question.active += 1
            self.left -= 1
            self.active[seat] = sample
            samples.append(sample)
            if not question.waiting:
                self._questions.popleft()
        if opened:
            self._look_ahead(blocks, opened)
        return Entering(samples, blocks, opened)

    def _open(self, question: Question, blocks: list[FewShotBlock], opened: list[Question]) -> None:
        """Take places for a question's prompt and block; append what must be computed."""
        self._held += question.prompt_slots
        block = question.block
        if block.stored is None:
            block.stored = self.cache.add_root(len(block.tokens))
            blocks.append(block)
        if question.stored is None:
            question.stored = self.cache.add_prompt(block.stored, len(question.tail))
            opened.append(question)

    def _look_ahead(self, blocks: list[FewShotBlock], opened: list[Question]) -> None:
        """Open the next questions too, while the cache has room beside the next sample of each."""
        samples = reserved = 0
        for question in self._questions:
            if samples >= self._budget.rows // _AHEAD_PART or not self._fits(question, reserved):
                return
            reserved = max(reserved, question.row_slots)
            samples += len(question.waiting)
            self._open(question, blocks, opened)

    def leave(self, sample: Sample) -> None:
        """Free what a sample holds, and its prompt and block if it is their last one."""
        del self.active[sample.seat]
        heappush(self._free, sample.seat)
        self.cache.drop_row(sample.row)
        self._held -= row_slots(sample.running.request.max_tokens)
        question = sample.question
        question.active -= 1
        if question.active or question.waiting:
            return
        self.cache.drop_prompt(question.prompt)
        self._held -= tail_size(len(question.tail))
        block = question.block
        block.questions -= 1
        if not block.questions:
            block.stored = None
            self._held -= len(block.tokens)
