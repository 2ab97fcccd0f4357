"""Conversations on engines: their ids, replies, keys, and refusals in one sentence."""

from dataclasses import replace

import pytest

from mistral_eval.engines.hf import open_hf
from mistral_eval.engines.interface import EngineIdentity, GenerationSettings, Request
from mistral_eval.engines.keys import reply_key
from mistral_eval.engines.model_free import Oracle, Random
from mistral_eval.engines.native import NativeEngine, open_native
from mistral_eval.engines.native_encoder import NativeEncoder
from mistral_eval.errors import EngineError, TokenizerError
from mistral_eval.model.chat.messages import Messages
from mistral_eval.model.export import save_hf
from mistral_eval.model.tiny import make_tiny, tiny_tokenizer_file
from mistral_eval.model.tokenizers.incremental import continuation_text
from mistral_eval.settings import RunSettings
from tests.chat_files import CHATML, add_template, save_shape

ASKED = Messages((("user", "Where is it?"),), "Be brief.")
TWO = ASKED.replied("It is there.").asked("Why?")
SETTINGS = GenerationSettings(max_tokens=8)


def generate(messages: Messages, **settings) -> Request:
    return Request("t", 0, 0, 0, "generate", messages, "", replace(SETTINGS, **settings))


def score(messages: Messages, continuation: str) -> Request:
    return Request("t", 0, 0, 0, "score", messages, continuation)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The tiny model with a ChatML template and its tokenizer.json."""
    made = save_hf(make_tiny(), tmp_path_factory.mktemp("chat"), tokenizer_file=None)
    return add_template(save_shape(tiny_tokenizer_file(), made, "metaspace"), CHATML)


def test_a_prompt_has_the_formats_ids(tiny):
    encoded = tiny.encode(generate(ASKED))

    assert tiny.tokenizer.decode(encoded.work.prompt) == "[INST] Be brief.\n\nWhere is it? [/INST]"
    assert encoded.work.prompt[0] == tiny.tokenizer.bos_id
    assert encoded.remark == (
        "asked in Mistral's instruct format V1 of mistral-common (by tokenizer.model.v1)"
    )


def test_a_reply_is_the_text_that_the_format_encodes_to_its_ids(tiny):
    """A first word's space mark is no space: the next turn would have two."""
    item = tiny.encode(generate(TWO))
    ((_, reply),) = tiny.answer([item])
    ids = tiny.encode(generate(TWO.replied("It is there.").asked("And?"))).work.prompt
    start = len(item.work.prompt)
    text = "It is there."
    written = ids[start : start + len(tiny.tokenizer.encode(text, bos=False))]

    assert reply.text == continuation_text(tiny.tokenizer, (), reply.ids)
    assert continuation_text(tiny.tokenizer, (), written) == text
    assert continuation_text(tiny.tokenizer, item.work.prompt, written) == f" {text}"


def test_a_stop_string_ends_a_reply(tiny):
    ((_, whole),) = tiny.answer([tiny.encode(generate(ASKED))])
    stop = whole.text[3:5]
    ((_, cut),) = tiny.answer([tiny.encode(generate(ASKED, until=(stop,)))])

    assert cut.finish == "stop"
    assert cut.text == whole.text.partition(stop)[0]


def test_a_begun_reply_is_continued_with_its_space(tiny):
    begun = ASKED.replied("It is")
    ((_, reply),) = tiny.answer([tiny.encode(generate(begun))])
    prompt = tiny.encode(generate(begun)).work.prompt

    assert tiny.tokenizer.decode([*prompt, *reply.ids]).endswith(f"It is{reply.text}")


def test_choices_share_their_conversations_ids(tiny):
    first, second = (tiny.encode(score(ASKED, text)).work for text in ("Here.", "There."))

    assert first.context is second.context
    assert first.context == tiny.encode(generate(ASKED)).work.prompt
    assert tiny.tokenizer.decode(second.continuation) == "There."


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["auto", "mistral"])
def test_hf_answers_as_native_does(folder, asked):
    """ChatML and V1, scored and greedy, on one folder."""
    native = open_native(str(folder), device="cpu", chat_template=asked)
    hf = open_hf(str(folder), device="cpu", chat_template=asked)
    scored = [score(one, text) for one in (ASKED, TWO) for text in ("Here.", "It is not.")]
    written = [generate(one) for one in (ASKED, TWO, ASKED.replied("It"))]

    for asks in (scored, written):
        ours, theirs = (
            dict(engine.answer([engine.encode(one) for one in asks])) for engine in (native, hf)
        )
        for place in range(len(asks)):
            assert theirs[place].logprob == pytest.approx(ours[place].logprob, abs=1e-3)
            assert theirs[place].text == ours[place].text
    assert hf.encode(scored[0]).remark == native.encode(scored[0]).remark
    assert ("the chat template" if asked == "auto" else "V1") in hf.encode(scored[0]).remark


@pytest.mark.slow
def test_the_system_prompt_is_part_of_every_engines_key(tiny):
    hf = open_hf("tiny", device="cpu")
    for engine in (tiny, hf, Random(0), Oracle(lambda *_: "")):
        keys = {
            reply_key(engine.identity, engine.encode(generate(replace(ASKED, system=system))))
            for system in (ASKED.system, "Be briefer.", None)
        }
        assert len(keys) == 3, engine.identity.engine


def test_a_conversation_has_another_key_than_its_text(tiny):
    prompt = tiny.encode(generate(ASKED))
    plain = tiny.encode(replace(prompt.request, context="[INST] Be brief.\n\nWhere is it? [/INST]"))

    assert prompt.work.prompt == plain.work.prompt
    assert reply_key(tiny.identity, prompt) != reply_key(tiny.identity, plain)


@pytest.mark.slow
def test_another_template_is_another_identity_of_hf(folder, tmp_path):
    (tmp_path / "one.jinja").write_text(CHATML)
    (tmp_path / "two.jinja").write_text(CHATML + " ")
    asked = ("auto", str(tmp_path / "one.jinja"), str(tmp_path / "two.jinja"))
    engines = [open_hf(str(folder), device="cpu", chat_template=one) for one in asked]

    assert len({engine.identity.fingerprint for engine in engines}) == 3


@pytest.mark.slow
def test_the_encoder_of_a_rescored_run_gives_the_same_key(folder):
    for name, opened in (("native", open_native), ("hf", open_hf)):
        engine = opened(str(folder), device="cpu", chat_template="mistral")
        settings = RunSettings(
            tasks=("piqa",), model=str(folder), engine=name, chat_template="mistral"
        )
        encoder = type(engine).encoder(settings, engine.identity)
        for request in (generate(TWO), score(TWO, "Yes.")):
            keys = {reply_key(engine.identity, one.encode(request)) for one in (engine, encoder)}
            assert len(keys) == 1


def test_a_conversation_longer_than_the_context_loses_its_beginning(tiny, again):
    short = again(tiny, context_len=40, chat=tiny.chat)
    long = Messages((("user", "word " * 100),))

    assert short.encode(generate(long)).truncated
    assert short.encode(score(long, "Yes.")).truncated
    assert not tiny.encode(generate(long)).truncated


def test_an_encoder_without_chat_refuses_a_conversation(tiny):
    encoder = NativeEncoder(tiny.tokenizer, 100, 0, EngineIdentity("x"))
    for request in (generate(ASKED), score(ASKED, "a")):
        with pytest.raises(EngineError, match="is a conversation, which this engine does not take"):
            encoder.encode(request)


def test_a_refused_conversation_names_the_question(tiny):
    messages = Messages((("user", "a"), ("assistant", ""), ("user", "b")))

    with pytest.raises(EngineError, match="t question 0, sample 0: mistral-common refuses"):
        tiny.encode(generate(messages))


def test_a_model_without_any_format_is_refused_in_one_sentence(tmp_path):
    made = save_hf(make_tiny(), tmp_path, tokenizer_file=None)
    save_shape(tiny_tokenizer_file(), made, "legacy")
    config = made / "config.json"
    config.write_text(config.read_text().replace('"mistral"', '"llama"'))
    engine = open_native(str(made), device="cpu")

    with pytest.raises(TokenizerError, match="has no chat template"):
        engine.encode(generate(ASKED))


def test_only_engines_that_say_so_take_conversations():
    assert NativeEngine.can.chat
    assert not NativeEncoder.__dict__.get("can")
