"""A continuation's text is what the whole decode says, however it is computed."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from mistral_eval.model.export import save_tokenizer
from mistral_eval.model.tiny import tiny_tokenizer_file
from mistral_eval.model.tokenizers.incremental import StreamText, continuation_text, prompt_tail
from mistral_eval.model.tokenizers.tokenizer import load_tokenizer

DATA = tiny_tokenizer_file().parent
KINDS = ["v1", "v3", "tekken", "json", "byte-level", "unknown decoder"]


def slow_text(tokenizer, prompt, new):
    """The twin: decode everything twice, cut at what both texts share."""
    old, full = tokenizer.decode(prompt), tokenizer.decode([*prompt, *new])
    shared = 0
    while shared < min(len(old), len(full)) and old[shared] == full[shared]:
        shared += 1
    return full[shared:]


def byte_level(folder):
    """A byte-level tokenizer.json of 259 ids, some of whose words end inside a character."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {char: number for number, char in enumerate(alphabet)}
    backend = Backend(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>", "</s>"])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    return folder


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("json")
    save_tokenizer(tiny_tokenizer_file(), folder)
    odd = tmp_path_factory.mktemp("odd")
    save_tokenizer(tiny_tokenizer_file(), odd)
    content = json.loads((odd / "tokenizer.json").read_text())
    content["decoder"] = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always"}
    (odd / "tokenizer.json").write_text(json.dumps(content))
    files = [
        tiny_tokenizer_file(),
        DATA / "mistral_instruct_tokenizer_240323.model.v3",
        DATA / "tekken_240911.json",
        folder / "tokenizer.json",
        byte_level(tmp_path_factory.mktemp("bytes")),
        odd / "tokenizer.json",
    ]
    return {
        kind: load_tokenizer(file, expected_vocab=140000)
        for kind, file in zip(KINDS, files, strict=True)
    }


@st.composite
def ids(draw, n_words, max_size):
    """Any ids, with a taste for the low ones: control ids and single bytes."""
    low = st.integers(0, min(n_words, 270) - 1)
    space = st.sampled_from([n for n in (28705, 29473, 259, 260) if n < n_words] or [0])
    tekken_byte = st.integers(1000, 1255) if n_words > 100000 else low
    number = st.one_of(low, low, space, tekken_byte, st.integers(0, n_words - 1))
    return draw(st.lists(number, max_size=max_size))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150)
@given(data=st.data())
def test_any_ids_continue_any_prompt_as_the_whole_decode_says(tokenizers, kind, data):
    tokenizer = tokenizers[kind]
    prompt = data.draw(ids(tokenizer.n_words, 12))
    new = data.draw(ids(tokenizer.n_words, 12))
    stream = StreamText(tokenizer, prompt)

    assert stream.text == ""
    for step in range(len(new)):
        expected = slow_text(tokenizer, prompt, new[: step + 1])
        stream.push(new[step])

        assert continuation_text(tokenizer, prompt, new[: step + 1]) == expected
        assert stream.text == expected


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100)
@given(text=st.text(max_size=30), at=st.integers(0, 30))
def test_a_text_cut_between_any_two_ids_comes_back_whole(tokenizers, kind, text, at):
    """Characters in several bytes included: the cut may fall inside one."""
    tokenizer = tokenizers[kind]
    all_ids = tokenizer.encode(text, bos=True)
    prompt, new = all_ids[: 1 + at], all_ids[1 + at :]
    stream = StreamText(tokenizer, prompt)
    for token in new:
        stream.push(token)

    assert stream.text == slow_text(tokenizer, prompt, new)
    if "\ufffd" not in tokenizer.decode(prompt):
        assert tokenizer.decode(prompt) + stream.text == tokenizer.decode(all_ids)


@pytest.mark.parametrize("kind", ["v1", "v3", "tekken", "json"])
def test_the_indentation_of_a_programs_first_line_is_kept(tokenizers, kind):
    """Decoding the continuation alone loses a space of it under SentencePiece."""
    tokenizer = tokenizers[kind]
    prompt = tokenizer.encode('def f(x):\n    """Twice x."""\n', bos=True)
    whole = tokenizer.encode('def f(x):\n    """Twice x."""\n    return 2 * x\n', bos=True)
    assert whole[: len(prompt)] == prompt

    text = continuation_text(tokenizer, prompt, whole[len(prompt) :])

    assert text == "    return 2 * x\n"
    alone = tokenizer.decode(whole[len(prompt) :])
    assert (alone == text) == (kind == "tekken")


def test_only_the_last_piece_of_a_long_prompt_is_decoded(tokenizers):
    tokenizer = tokenizers["v1"]
    prompt = tokenizer.encode("many words " * 1000, bos=True)

    assert len(prompt_tail(tokenizer, prompt)) == 1


def test_a_long_stream_decodes_a_bounded_number_of_ids_a_step(tokenizers):
    tokenizer = tokenizers["v1"]
    seen = []

    class Counting:
        starts_afresh = staticmethod(tokenizer.starts_afresh)

        @staticmethod
        def decode(numbers):
            seen.append(len(numbers))
            return tokenizer.decode(numbers)

    stream = StreamText(Counting(), tokenizer.encode("many words " * 1000, bos=True))
    for token in tokenizer.encode("and then more words, 日本 and é " * 100, bos=False):
        stream.push(token)

    assert max(seen) < 12
