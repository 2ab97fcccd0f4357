"""When a device's memory runs out the budget is halved, and the replies stay what they were."""

import pytest
import torch

from mistral_eval.errors import ResourceError
from mistral_eval.native.requests import GenerateRequest, Sampling, ScoreRequest

SCORES = [ScoreRequest((1, 5, n, 7), tuple(range(3, 3 + n))) for n in range(1, 20)]
GENERATIONS = [
    GenerateRequest((1, 5, 7, 9, n % 4), 12, Sampling(0.9, top_p=0.9), f"k{n}") for n in range(20)
]


class SmallDevice:
    """A model on a device that holds `most` tokens of one pass; all arithmetic is the model's."""

    def __init__(self, model, most: int) -> None:
        self._model, self._most = model, most
        self.refused: list[int] = []

    def __getattr__(self, name: str):
        return getattr(self._model, name)

    def hidden(self, tokens, positions, attend, rows=None):
        if len(tokens) > self._most:
            self.refused.append(len(tokens))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
        return self._model.hidden(tokens, positions, attend, rows)


class FullOnce(SmallDevice):
    """A device that runs out once, at its third pass."""

    passes = 0

    def hidden(self, tokens, positions, attend, rows=None):
        self.passes += 1
        if self.passes == 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self._model.hidden(tokens, positions, attend, rows)


def test_scores_go_on_under_half_the_budget_until_it_fits(make_engine):
    expected = dict(make_engine(64).score(SCORES))
    engine = make_engine(64)
    engine.model = SmallDevice(engine.model, 20)
    replies = dict(engine.score(SCORES))
    assert sorted(replies) == list(range(len(SCORES)))
    assert [replies[n].logprob for n in range(len(SCORES))] == pytest.approx(
        [expected[n].logprob for n in range(len(SCORES))], abs=1e-5
    )
    assert engine.model.refused == [64, 32]
    assert (engine.batch_tokens, engine.stats.halvings) == (16, 2)


def test_what_was_answered_before_stays_and_comes_once(make_engine):
    """Running out at the third pass: two passes' replies are out already."""
    whole = make_engine(16)
    expected = dict(whole.score(SCORES))
    engine = make_engine(16)
    engine.model = FullOnce(engine.model, 0)
    replies = list(engine.score(SCORES))
    assert sorted(n for n, _ in replies) == list(range(len(SCORES)))
    assert [reply.logprob for _, reply in sorted(replies, key=lambda pair: pair[0])] == (
        pytest.approx([expected[n].logprob for n in range(len(SCORES))], abs=1e-5)
    )
    assert engine.stats.halvings == 1
    assert engine.model._space.size <= engine.batch_tokens, "the larger workspace must go"
    assert engine.stats.score_unique == whole.stats.score_unique
    assert engine.stats.score_naive == whole.stats.score_naive
    assert engine.stats.score_computed > engine.stats.score_unique


@pytest.mark.parametrize("device", [SmallDevice, FullOnce])
def test_generated_ids_are_those_of_a_large_device(make_engine, device):
    whole = make_engine(64)
    expected = dict(whole.generate(GENERATIONS))
    engine = make_engine(64)
    engine.model = device(engine.model, 3)
    replies = list(engine.generate(GENERATIONS))
    assert len(replies) == len(GENERATIONS)
    assert dict(replies) == expected
    assert engine.stats.halvings >= 1
    assert engine.stats.prompt_unique == whole.stats.prompt_unique


def test_a_device_that_holds_not_one_token_is_an_error(make_engine):
    engine = make_engine(8)
    engine.model = SmallDevice(engine.model, 0)
    with pytest.raises(ResourceError, match=r"single token .* \(CUDA out of memory. Tried to all"):
        list(engine.score(SCORES))
    assert engine.model.refused == [8, 4, 2, 1]


def test_a_budget_given_by_hand_is_respected_while_it_fits(make_engine):
    engine = make_engine(7)
    engine.model = SmallDevice(engine.model, 7)
    list(engine.score(SCORES))
    list(engine.generate(GENERATIONS))
    assert (engine.model.refused, engine.batch_tokens, engine.stats.halvings) == ([], 7, 0)


def test_the_peak_of_memory_is_noted_after_scoring_and_after_generating(make_engine):
    for name, requests in (("score", SCORES), ("generate", GENERATIONS)):
        engine = make_engine()
        assert engine.stats.peak_bytes == 0
        list(getattr(engine, name)(requests))
        assert 50 << 20 < engine.stats.peak_bytes < 1 << 40
        assert engine.stats.peak_device_bytes == 0
