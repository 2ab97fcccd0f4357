"""The engines that know no language: the oracle and chance."""

import pytest

from mistral_eval.engines.oracle import OracleBackend
from mistral_eval.engines.random import RandomBackend
from mistral_eval.errors import EngineError
from mistral_eval.record.replies import request_key


def _key(backend, kind, one):
    return request_key(backend.fingerprint, kind, *backend.prepare(kind, one).parts)


def _answers(backend, kind, asks):
    found = dict(backend.answer(kind, [backend.prepare(kind, one) for one in asks]))
    return [found[place] for place in range(len(asks))]


def test_the_oracle_makes_the_right_choice_likely_and_says_the_gold_up_to_its_stop(ask):
    oracle = OracleBackend(likely=lambda one: one.idx == 1, says=lambda _: " gold. Q: more")
    choices = [ask("q", " a", idx=0), ask("q", " b", idx=1)]
    first, second = _answers(oracle, "score", choices)
    assert first["logprob"] < second["logprob"]
    prompt = ask("q", {"until": ["Q:"]}, kind="generate_until")
    assert _answers(oracle, "generate", [prompt])[0]["text"] == " gold. "


def test_the_oracle_refuses_whole_texts(ask):
    with pytest.raises(EngineError, match="no gold answer"):
        OracleBackend(likely=bool, says=str).prepare("rolling", ask("text"))


def test_questions_with_equal_texts_are_two_questions_to_the_oracle(ask):
    """Their golds may differ."""
    oracle = OracleBackend(likely=bool, says=str)
    one, other = ask("q", " a", doc_id=1), ask("q", " a", doc_id=2)
    assert _key(oracle, "score", one) != _key(oracle, "score", other)


def test_chance_is_repeatable_and_its_seed_names_it(ask):
    asks = [ask("q", f" {n}", idx=n) for n in range(50)]
    first = _answers(RandomBackend(0), "score", asks)
    assert _answers(RandomBackend(0), "score", asks) == first
    assert _answers(RandomBackend(0), "score", asks[::-1]) == first[::-1]
    assert _answers(RandomBackend(1), "score", asks) != first
    assert _key(RandomBackend(0), "score", asks[0]) != _key(RandomBackend(1), "score", asks[0])


def test_chance_is_fair_per_character(ask):
    """A choice of 20 characters wins as often as one of 3, within 4 standard errors."""
    long, short = " twenty characters ab", " abc"
    asks = [
        ask("q", text, doc_id=n, idx=i) for n in range(4000) for i, text in enumerate((long, short))
    ]
    scores = [reply["logprob"] for reply in _answers(RandomBackend(0), "score", asks)]
    wins = sum(scores[i] / 20 > scores[i + 1] / 3 for i in range(0, len(scores), 2))
    assert abs(wins / 4000 - 0.5) < 4 * (0.25 / 4000) ** 0.5


def test_eight_samples_of_chance_are_eight_draws(ask):
    asks = [ask("q", {}, sample=n, kind="generate_until") for n in range(8)]
    assert len({reply["text"] for reply in _answers(RandomBackend(0), "generate", asks)}) == 8
    assert len({_key(RandomBackend(0), "generate", one) for one in asks}) == 8
