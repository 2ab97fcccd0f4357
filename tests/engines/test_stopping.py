"""An engine that is told to stop ends early; what it has not answered comes when asked again."""

import pytest

from mistral_eval.engines import hf
from mistral_eval.engines.hf import open_hf
from mistral_eval.engines.model_free import Oracle, Random
from mistral_eval.engines.native import open_native

GREEDY = {"until": ["\n\n"], "max_gen_toks": 4, "do_sample": False}
WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven")


class After:
    """Says stop once it was asked so many times."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.fixture(
    name="make", params=["native", "hf", "random", "oracle"], ids=lambda name: name, scope="module"
)
def fixture_make(request):
    """The function that makes an engine."""
    name = request.param
    if name == "hf":
        made = open_hf("tiny", device="cpu")
        return lambda: made
    return {
        "native": lambda: open_native("tiny", batch_tokens=4),
        "random": lambda: Random(0),
        "oracle": lambda: Oracle(lambda one, _: 0 if one.kind == "score" else one.context),
    }[name]


@pytest.mark.parametrize("kind", ["score", "rolling", "generate"])
def test_it_ends_early_with_right_replies_and_the_rest_comes_when_asked(
    make, kind, ask, monkeypatch
):
    monkeypatch.setattr(hf, "CALL", 2)
    engine = make()
    if engine.identity.engine == "oracle" and kind == "rolling":
        pytest.skip("there is no gold for whole texts")
    asks = {
        "score": [ask(f"Say {word}:", f" {word}", doc_id=n) for n, word in enumerate(WORDS)],
        "rolling": [
            ask(f"{word} is a word", doc_id=n, kind="rolling") for n, word in enumerate(WORDS)
        ],
        "generate": [ask(word, GREEDY, doc_id=n, kind="generate") for n, word in enumerate(WORDS)],
    }[kind]
    prepared = [engine.encode(one) for one in asks]
    undisturbed = dict(make().answer(prepared))
    counts = set()
    for times in (0, 1, 4):
        early = dict(engine.answer(prepared, stop=After(times)))
        rest = dict(engine.answer(prepared, early.keys(), After(10**6)))
        assert not early.keys() & rest.keys()
        assert early | rest == undisturbed
        counts.add(len(early))
    assert min(counts) == 0
    assert max(counts) < len(WORDS)
    if engine.identity.engine == "hf":
        assert counts == {0, 2, 8}  # whole calls
    elif engine.identity.engine != "native":
        assert counts == {0, 1, 4}


def test_of_whole_texts_none_is_answered_by_some_of_its_windows(ask):
    """A sum that lacks a window is no reply, whatever was computed for it."""
    engine = open_native("tiny", batch_tokens=16)
    engine.context_len = 8
    prepared = [engine.encode(ask(word * 20 + " and more", kind="rolling")) for word in WORDS[:6]]
    undisturbed = dict(engine.answer(prepared))
    found = []
    for times in range(60):
        early = dict(engine.answer(prepared, stop=After(times)))
        assert early == {n: undisturbed[n] for n in early}
        found.append(len(early))
    assert found == sorted(found)
    assert (found[0], found[-1]) == (0, 6)
    assert set(found) - {0, 6}
