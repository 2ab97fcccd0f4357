"""An engine that is told to stop ends before its next pass, with all that was computed."""

import pytest
import torch

from mistral_eval.native.admission import Budget
from mistral_eval.native.generate_shared import SharedGenerator
from mistral_eval.native.requests import Counters, GenerateRequest, Sampling, ScoreRequest, Turn
from mistral_eval.native.score_tree import score_tree

SCORES = [
    ScoreRequest((1, 5, n % 7, n % 3, *range(3, 3 + n % 11)), (9, 10 + n % 4)) for n in range(40)
]
BLOCK = (1, *range(20, 32))
GENERATIONS = [
    GenerateRequest((*root, 5 + n, 7), 1 + n % 6, Sampling(0.9, 0.9), f"{n}|{sample}")
    for root in (BLOCK, (1,))
    for n in range(5)
    for sample in range(3)
]


class Passing:
    """Counts the passes of a model; all arithmetic is the model's."""

    def __init__(self, model) -> None:
        self._model = model
        self.passes = 0

    def __getattr__(self, name: str):
        return getattr(self._model, name)

    def hidden(self, tokens, positions, attend, rows=None):
        self.passes += 1
        return self._model.hidden(tokens, positions, attend, rows)


class Before:
    """Wants the pass that would be the `last`-th, counted from 0, not to begin."""

    def __init__(self, model: Passing, last: int) -> None:
        self._model, self._last = model, last

    def __call__(self) -> bool:
        return self._model.passes >= self._last


def timed(model: Passing, replies) -> list[tuple[int, tuple[int, object]]]:
    """Replies, each with the number of passes that there were when it came."""
    return [(model.passes, reply) for reply in replies]


@pytest.mark.parametrize("reads_late", [False, True])
def test_scoring_ends_with_the_replies_of_the_packs_that_ran(make_engine, reads_late):
    """Those that were not read yet when the stop was wanted too; the rest comes when asked."""
    model = Passing(make_engine().model)
    came = timed(model, score_tree(model, SCORES, 24, Counters(), reads_late=False))
    total, undisturbed = model.passes, dict(reply for _, reply in came)
    assert total > 5
    for last in range(total + 2):
        model = Passing(make_engine().model)
        turn = Turn(stopping=Before(model, last))
        early = list(score_tree(model, SCORES, 24, Counters(), turn=turn, reads_late=reads_late))
        assert model.passes == min(last, total)
        assert early == [reply for passes, reply in came if passes <= last]
        rest = dict(score_tree(model, SCORES, 24, Counters(), turn=Turn(dict(early))))
        assert rest | dict(early) == undisturbed
        assert len(rest) + len(early) == len(SCORES)


@pytest.mark.parametrize("reads_late", [False, True])
@pytest.mark.parametrize("rows", [3, 64])
def test_generating_ends_with_the_replies_of_the_steps_that_ran(make_engine, rows, reads_late):
    """Between two steps, two packs of prompts or two clusters, and what was drawn is read."""

    def generator(model):
        return SharedGenerator(model, (), Budget(rows, 8, 400), Counters(), reads_late=reads_late)

    model = Passing(make_engine().model)
    came = timed(model, generator(model).run(GENERATIONS))
    total, undisturbed = model.passes, dict(reply for _, reply in came)
    assert total > 10
    for last in range(total + 2):
        model = Passing(make_engine().model)
        early = list(generator(model).run(GENERATIONS, Turn(stopping=Before(model, last))))
        assert model.passes == min(last, total)
        by_then = [reply for passes, reply in came if passes <= last]
        assert early[: len(by_then)] == by_then
        if not reads_late:
            assert early == by_then
        assert all(reply == undisturbed[n] for n, reply in early)
        rest = dict(generator(model).run(GENERATIONS, Turn(dict(early))))
        assert rest | dict(early) == undisturbed
        assert len(rest) + len(early) == len(GENERATIONS)


def test_what_was_drawn_and_not_read_is_read_before_the_end(make_engine):
    """One token a reply: the pass that draws them all is the last one, and none is lost."""
    requests = [GenerateRequest((5 + n, 6), 1) for n in range(4)]
    model = Passing(make_engine().model)
    generator = SharedGenerator(model, (), Budget(8, 16, 1000), Counters(), reads_late=True)
    early = dict(generator.run(requests, Turn(stopping=Before(model, 1))))
    assert early == dict(generator.run(requests))
    assert model.passes == 2  # one for each run


@pytest.mark.parametrize(
    ("method", "requests"), [("score", SCORES), ("generate", GENERATIONS)], ids=["score", "write"]
)
def test_an_early_end_is_not_taken_for_missing_memory(make_engine, method, requests):
    engine = make_engine(16)
    engine.model = Passing(engine.model)
    engine.stopping = Before(engine.model, 7)
    early = dict(getattr(engine, method)(requests))
    assert 0 < len(early) < len(requests)
    assert (engine.model.passes, engine.stats.halvings, engine.batch_tokens) == (7, 0, 16)
    rest = dict(getattr(make_engine(16), method)(requests, set(early)))
    assert rest | early == dict(getattr(make_engine(16), method)(requests))


def test_where_the_last_pass_ran_out_of_memory_no_other_one_begins(make_engine):
    class Full(Passing):
        def hidden(self, tokens, positions, attend, rows=None):
            if self.passes == 6:
                self.passes += 1
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().hidden(tokens, positions, attend, rows)

    engine = make_engine(24)
    engine.model = Full(engine.model)
    engine.stopping = Before(engine.model, 7)
    early = dict(engine.score(SCORES))
    assert engine.model.passes == 7
    undisturbed = dict(make_engine(24).score(SCORES))
    assert early == {n: undisturbed[n] for n in early}
    assert early
