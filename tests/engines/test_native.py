"""The native engine: text on either side of an engine that knows ids alone."""

import dataclasses
import json
from collections.abc import Sequence

import pytest

from mistral_eval.engines.interface import EngineIdentity, Reply
from mistral_eval.engines.native import NativeEngine, open_native
from mistral_eval.errors import EngineError
from mistral_eval.native.requests import Counters, GenerateReply
from mistral_eval.settings import RunSettings
from tests.byte_level import END, save_model

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


def written(tiny: NativeEngine, ask, again, prompt: str, continuation: str, **settings) -> Reply:
    """The reply to `prompt` of an engine that writes `continuation`."""
    whole = tiny.tokenizer.encode(prompt + continuation, bos=True)
    start = len(tiny.tokenizer.encode(prompt, bos=True))
    assert whole[:start] == tiny.tokenizer.encode(prompt, bos=True)
    engine = again(tiny, runner=Scripted(whole[start:]))
    settings = {"max_gen_toks": 500, "until": [], **settings}
    prepared = engine.encode(ask(prompt, settings, kind="generate"))
    ((_, reply),) = engine.answer([prepared])
    return reply


def test_a_programs_indentation_is_kept(tiny, ask, again):
    """Decoding the same ids alone loses a space, and the program with it."""
    reply = written(tiny, ask, again, PROMPT, BODY)
    assert reply.text == BODY
    assert tiny.tokenizer.decode(reply.ids) == BODY[1:]
    with pytest.raises(IndentationError):
        compile(PROMPT + BODY[1:], "reply", "exec")
    compile(PROMPT + reply.text, "reply", "exec")


def test_a_leading_space_is_kept(tiny, ask, again):
    reply = written(tiny, ask, again, "Q: 6 times 7?\nA:", " 42, I think")
    assert reply.text == " 42, I think"
    assert tiny.tokenizer.decode(reply.ids) == "42, I think"


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
def test_a_stop_across_token_borders_is_never_shown(tiny, ask, again, text, stop, shown):
    """And the engine is told at the latest one token after the stop."""
    reply = written(tiny, ask, again, "Say:\n", text, until=[stop])
    assert reply.text == shown
    assert reply.finish == "stop"
    needed = len(tiny.tokenizer.encode("Say:\n" + text[: text.index(stop) + len(stop)], bos=True))
    assert len(tiny.tokenizer.encode("Say:\n", bos=True)) + len(reply.ids) <= needed + 1


def test_of_several_stops_the_first_in_the_text_ends_the_reply(tiny, ask, again):
    reply = written(tiny, ask, again, "Say:\n", "one two three", until=["three", "two"])
    assert reply.text == "one "


def test_a_stop_may_be_one_string(tiny, ask, again):
    assert written(tiny, ask, again, "Say:\n", "one two", until=" two").text == "one"


def test_without_a_stop_the_reply_goes_on_to_eos_or_to_its_length(tiny, ask, again):
    assert written(tiny, ask, again, "Say:\n", "one two").finish == "eos"
    assert written(tiny, ask, again, "Say:\n", "one two", max_gen_toks=1).finish == "length"


def test_the_models_own_replies_do_not_show_their_stops(tiny, ask, again):
    """Cutting at any word that the free reply holds gives its beginning, by the same ids."""
    free = _generate(tiny, ask("Once", {**GREEDY, "until": []}, kind="generate"))
    assert len(free.ids) == 8
    for place in range(1, len(free.text) - 1):
        stop = free.text[place : place + 2]
        cut = _generate(tiny, ask("Once", {**GREEDY, "until": [stop]}, kind="generate"))
        assert cut.text == free.text[: free.text.index(stop)]
        assert cut.ids == free.ids[: len(cut.ids)]


def _generate(engine, one):
    ((_, reply),) = engine.answer([engine.encode(one)])
    return reply


def test_a_context_that_is_too_long_loses_its_left_end_and_is_counted(tiny, ask, again):
    short = again(tiny, context_len=16)
    text = " ".join(["word"] * 40)
    encoded = short.encode(ask(text, " end"))
    request = encoded.work
    whole = tiny.encode_pair(text, " end")
    assert len(request.context) + len(request.continuation) == 17  # the last is never fed
    assert request.context == whole[0][-len(request.context) :]
    assert encoded.truncated
    assert not short.encode(ask("word", " end")).truncated


def test_a_prompt_that_is_too_long_leaves_room_for_the_reply_and_is_counted(tiny, ask, again):
    short = again(tiny, context_len=16)
    text = " ".join(["word"] * 40)
    one = ask(text, {**GREEDY, "max_gen_toks": 6}, kind="generate")
    encoded = short.encode(one)
    request = encoded.work
    assert len(request.prompt) == 10
    assert list(request.prompt) == tiny.tokenizer.encode(text, bos=True)[-10:]
    assert encoded.truncated


def test_more_new_tokens_than_the_model_sees_are_refused(tiny, ask, again):
    short = again(tiny, context_len=16)
    with pytest.raises(EngineError, match="16 new tokens leave no room"):
        short.encode(ask("a", {**GREEDY, "max_gen_toks": 16}, kind="generate"))


def test_a_setting_that_would_change_the_reply_and_is_not_known_is_refused(tiny, ask, again):
    with pytest.raises(EngineError, match="'repetition_penalty'"):
        tiny.encode(ask("a", {**GREEDY, "repetition_penalty": 1.1}, kind="generate"))


def test_without_do_sample_a_temperature_is_no_temperature(tiny, ask, again):
    settings = {"until": [], "max_gen_toks": 8}
    plain = tiny.encode(ask("a", settings, kind="generate"))
    assert plain.work.sampling.temperature == 0
    assert plain.work.key == ""


def test_a_whole_texts_score_is_the_sum_of_its_tokens(tiny, ask, again):
    """One window: the same as scoring the text after BOS."""
    text = "The quick brown fox jumps over the lazy dog."
    ((_, whole),) = tiny.answer([tiny.encode(ask(text, kind="rolling"))])
    ((_, scored),) = tiny.answer([tiny.encode(ask("", text))])
    assert whole.logprob == pytest.approx(scored.logprob, abs=1e-4)


def test_texts_of_several_windows_get_their_own_sums(tiny, ask, again):
    short = again(tiny, context_len=8)
    texts = ["", "a b c", "one two three " * 9, "x"]
    together = dict(short.answer([short.encode(ask(t, kind="rolling")) for t in texts]))
    assert together[0].logprob == 0
    for place, text in enumerate(texts):
        ((_, alone),) = short.answer([short.encode(ask(text, kind="rolling"))])
        assert together[place].logprob == pytest.approx(alone.logprob, abs=1e-4)
    assert len(short.encode(ask(texts[2], kind="rolling")).work) > 3


def test_of_texts_those_that_are_known_are_not_answered_and_the_others_are_the_same(
    tiny, ask, again
):
    short = again(tiny, context_len=8)
    texts = ["", "a b c", "one two three " * 9, "x", ""]
    prepared = [short.encode(ask(text, kind="rolling")) for text in texts]
    undisturbed = dict(short.answer(prepared))
    rest = dict(short.answer(prepared, {0, 1, 3}))
    assert rest == {place: undisturbed[place] for place in (2, 4)}


def test_a_bos_without_an_embedding_row_is_left_out_without_weights_too(tmp_path, ask):
    """Rescoring encodes with what run.json keeps; the same requests find the same replies."""
    folder = save_model(tmp_path / "model")
    fields = json.loads((folder / "tokenizer.json").read_text())
    (end,) = fields["added_tokens"]
    fields["added_tokens"].append({**end, "id": end["id"] + 1, "content": "<bos>"})
    (folder / "tokenizer.json").write_text(json.dumps(fields))
    named = {"bos_token": "<bos>", "eos_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))

    engine = open_native(str(folder), device="cpu")
    settings = RunSettings(tasks=("piqa",), model=str(folder), data="sample")
    kept = EngineIdentity(**json.loads(json.dumps(dataclasses.asdict(engine.identity))))
    encoder = NativeEngine.encoder(settings, kept)

    request = ask("", "de")
    assert engine.encode(request).work.context == (end["id"],)  # EOS, as in lm-eval
    assert encoder.encode(request).work == engine.encode(request).work
