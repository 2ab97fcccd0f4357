"""The engines that know no language: the oracle and chance."""

import pytest

from mistral_eval.engines.keys import reply_key
from mistral_eval.engines.model_free import Oracle, Random
from mistral_eval.errors import EngineError


def _key(engine, request):
    return reply_key(engine.identity, engine.encode(request))


def _answers(engine, requests):
    found = dict(engine.answer([engine.encode(one) for one in requests]))
    return [found[place] for place in range(len(requests))]


def gold(request, right):
    assert right
    return 1 if request.kind == "score" else " gold. Q: more"


def test_the_oracle_makes_the_right_choice_likely_and_says_the_gold_up_to_its_stop(ask):
    oracle = Oracle(gold)
    choices = [ask("q", " a", idx=0), ask("q", " b", idx=1)]
    first, second = _answers(oracle, choices)
    assert first.logprob < second.logprob
    prompt = ask("q", {"until": ["Q:"]}, kind="generate")
    assert _answers(oracle, [prompt])[0].text == " gold. "


def test_the_oracle_refuses_whole_texts(ask):
    with pytest.raises(EngineError, match="no gold answer"):
        Oracle(gold).encode(ask("text", kind="rolling"))


def test_questions_with_equal_texts_are_two_questions_to_the_oracle(ask):
    """Their golds may differ."""
    oracle = Oracle(gold)
    one, other = ask("q", " a", doc_id=1), ask("q", " a", doc_id=2)
    assert _key(oracle, one) != _key(oracle, other)


def test_chance_is_repeatable_and_its_seed_names_it(ask):
    asks = [ask("q", f" {n}", idx=n) for n in range(50)]
    first = _answers(Random(0), asks)
    assert _answers(Random(0), asks) == first
    assert _answers(Random(0), asks[::-1]) == first[::-1]
    assert _answers(Random(1), asks) != first
    assert _key(Random(0), asks[0]) != _key(Random(1), asks[0])


def test_chance_is_fair_per_character(ask):
    """A choice of 20 characters wins as often as one of 3, within 4 standard errors."""
    long, short = " twenty characters ab", " abc"
    asks = [
        ask("q", text, doc_id=n, idx=i) for n in range(4000) for i, text in enumerate((long, short))
    ]
    scores = [reply.logprob for reply in _answers(Random(0), asks)]
    wins = sum(scores[i] / 20 > scores[i + 1] / 3 for i in range(0, len(scores), 2))
    assert abs(wins / 4000 - 0.5) < 4 * (0.25 / 4000) ** 0.5


def test_eight_samples_of_chance_are_eight_draws(ask):
    asks = [ask("q", {}, sample=n, kind="generate") for n in range(8)]
    assert len({reply.text for reply in _answers(Random(0), asks)}) == 8
    assert len({_key(Random(0), one) for one in asks}) == 8
