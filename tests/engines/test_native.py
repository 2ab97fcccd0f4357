"""The native backend: text on either side of an engine that knows ids alone."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from mistral_eval.engines.native import NativeBackend
from mistral_eval.errors import EngineError
from mistral_eval.native.requests import Counters, GenerateReply

GREEDY = {"until": ["\n\n"], "max_gen_toks": 8, "do_sample": False}
PROMPT = 'def first(items):\n    """The first of them."""\n'
BODY = "    if items:\n        return items[0]\n    return None\n"


class Scripted:
    """An engine that writes given ids: the model's part of a reply, so that text can be tested."""

    stats = Counters()

    def __init__(self, script: Sequence[int]) -> None:
        self.script = script

    def score(self, requests, known=()):
        raise NotImplementedError

    def generate(self, requests, known=()):
        for index, request in enumerate(requests):
            ids: list[int] = []
            finish = "eos"
            for number in self.script:
                ids.append(number)
                if request.is_done is not None and request.is_done(ids):
                    finish = "stop"
                    break
                if len(ids) == request.max_tokens:
                    finish = "length"
                    break
            yield index, GenerateReply(tuple(ids), finish)


def written(tiny: NativeBackend, ask, prompt: str, continuation: str, **settings) -> dict:
    """The reply to `prompt` of an engine that writes `continuation`."""
    whole = tiny.tokenizer.encode(prompt + continuation, bos=True)
    start = len(tiny.tokenizer.encode(prompt, bos=True))
    assert whole[:start] == tiny.tokenizer.encode(prompt, bos=True)
    backend = replace(tiny, engine=Scripted(whole[start:]))
    settings = {"max_gen_toks": 500, "until": [], **settings}
    prepared = backend.prepare("generate", ask(prompt, settings, kind="generate_until"))
    ((_, reply),) = backend.answer("generate", [prepared])
    return reply


def test_a_programs_indentation_is_kept(tiny, ask):
    """Decoding the same ids alone loses a space, and the program with it."""
    reply = written(tiny, ask, PROMPT, BODY)
    assert reply["text"] == BODY
    assert tiny.tokenizer.decode(reply["ids"]) == BODY[1:]
    with pytest.raises(IndentationError):
        compile(PROMPT + BODY[1:], "reply", "exec")
    compile(PROMPT + reply["text"], "reply", "exec")


def test_a_leading_space_is_kept(tiny, ask):
    reply = written(tiny, ask, "Q: 6 times 7?\nA:", " 42, I think")
    assert reply["text"] == " 42, I think"
    assert tiny.tokenizer.decode(reply["ids"]) == "42, I think"


@pytest.mark.parametrize(
    ("text", "stop", "shown"),
    [
        ("The answer is 4.\n\nQ: what", "\n\n", "The answer is 4."),
        ("    return 1\n\ndef other():\n    pass", "\ndef", "    return 1\n"),
        ("x = 1 [DONE] y", "[DONE]", "x = 1 "),
        ("Problem:", "Problem:", ""),
        ("costs 5 € in all", "€", "costs 5 "),
        ("smile 😀 more", "😀", "smile "),  # four byte tokens
    ],
)
def test_a_stop_across_token_borders_is_never_shown(tiny, ask, text, stop, shown):
    """And the engine is told at the latest one token after the stop."""
    reply = written(tiny, ask, "Say:\n", text, until=[stop])
    assert reply["text"] == shown
    assert reply["finish"] == "stop"
    needed = len(tiny.tokenizer.encode("Say:\n" + text[: text.index(stop) + len(stop)], bos=True))
    assert len(tiny.tokenizer.encode("Say:\n", bos=True)) + len(reply["ids"]) <= needed + 1


def test_of_several_stops_the_first_in_the_text_ends_the_reply(tiny, ask):
    reply = written(tiny, ask, "Say:\n", "one two three", until=["three", "two"])
    assert reply["text"] == "one "


def test_a_stop_may_be_one_string(tiny, ask):
    assert written(tiny, ask, "Say:\n", "one two", until=" two")["text"] == "one"


def test_without_a_stop_the_reply_goes_on_to_eos_or_to_its_length(tiny, ask):
    assert written(tiny, ask, "Say:\n", "one two")["finish"] == "eos"
    assert written(tiny, ask, "Say:\n", "one two", max_gen_toks=1)["finish"] == "length"


def test_the_models_own_replies_do_not_show_their_stops(tiny, ask):
    """Cutting at any word that the free reply holds gives its beginning, by the same ids."""
    free = _generate(tiny, ask("Once", {**GREEDY, "until": []}, kind="generate_until"))
    assert len(free["ids"]) == 8
    for place in range(1, len(free["text"]) - 1):
        stop = free["text"][place : place + 2]
        cut = _generate(tiny, ask("Once", {**GREEDY, "until": [stop]}, kind="generate_until"))
        assert cut["text"] == free["text"][: free["text"].index(stop)]
        assert cut["ids"] == free["ids"][: len(cut["ids"])]


def _generate(backend, one):
    ((_, reply),) = backend.answer("generate", [backend.prepare("generate", one)])
    return reply


def test_a_context_that_is_too_long_loses_its_left_end_and_is_counted(tiny, ask):
    short = replace(tiny, context_len=16, counts=type(tiny.counts)())
    text = " ".join(["word"] * 40)
    request = short.prepare("score", ask(text, " end")).request
    whole = tiny.encode_pair(text, " end")
    assert len(request.context) + len(request.continuation) == 17  # the last is never fed
    assert request.context == whole[0][-len(request.context) :]
    assert short.counts.truncated == 1
    short.prepare("score", ask("word", " end"))
    assert short.counts.truncated == 1


def test_a_prompt_that_is_too_long_leaves_room_for_the_reply_and_is_counted(tiny, ask):
    short = replace(tiny, context_len=16, counts=type(tiny.counts)())
    text = " ".join(["word"] * 40)
    one = ask(text, {**GREEDY, "max_gen_toks": 6}, kind="generate_until")
    request = short.prepare("generate", one).request[0]
    assert len(request.prompt) == 10
    assert list(request.prompt) == tiny.tokenizer.encode(text, bos=True)[-10:]
    assert short.counts.truncated == 1


def test_more_new_tokens_than_the_model_sees_are_refused(tiny, ask):
    short = replace(tiny, context_len=16)
    with pytest.raises(EngineError, match="16 new tokens leave no room"):
        short.prepare("generate", ask("a", {**GREEDY, "max_gen_toks": 16}, kind="generate_until"))


def test_a_setting_that_would_change_the_reply_and_is_not_known_is_refused(tiny, ask):
    with pytest.raises(EngineError, match="'repetition_penalty'"):
        tiny.prepare(
            "generate", ask("a", {**GREEDY, "repetition_penalty": 1.1}, kind="generate_until")
        )


def test_without_do_sample_a_temperature_is_no_temperature(tiny, ask):
    settings = {"until": [], "max_gen_toks": 8}
    plain = tiny.prepare("generate", ask("a", settings, kind="generate_until"))
    assert plain.request[0].sampling.temperature == 0
    assert plain.request[0].key == ""


def test_a_whole_texts_score_is_the_sum_of_its_tokens(tiny, ask):
    """One window: the same as scoring the text after BOS."""
    text = "The quick brown fox jumps over the lazy dog."
    ((_, whole),) = tiny.answer("rolling", [tiny.prepare("rolling", ask(text))])
    ((_, scored),) = tiny.answer("score", [tiny.prepare("score", ask("", text))])
    assert whole["logprob"] == pytest.approx(scored["logprob"], abs=1e-4)


def test_texts_of_several_windows_get_their_own_sums(tiny, ask):
    short = replace(tiny, context_len=8)
    texts = ["", "a b c", "one two three " * 9, "x"]
    together = dict(short.answer("rolling", [short.prepare("rolling", ask(t)) for t in texts]))
    assert together[0]["logprob"] == 0
    for place, text in enumerate(texts):
        ((_, alone),) = short.answer("rolling", [short.prepare("rolling", ask(text))])
        assert together[place]["logprob"] == pytest.approx(alone["logprob"], abs=1e-4)
    assert len(short.prepare("rolling", ask(texts[2])).request) > 3


def test_of_texts_those_that_are_known_are_not_answered_and_the_others_are_the_same(tiny, ask):
    short = replace(tiny, context_len=8)
    texts = ["", "a b c", "one two three " * 9, "x", ""]
    prepared = [short.prepare("rolling", ask(text)) for text in texts]
    undisturbed = dict(short.answer("rolling", prepared))
    rest = dict(short.answer("rolling", prepared, {0, 1, 3}))
    assert rest == {place: undisturbed[place] for place in (2, 4)}
