"""Mistral's instruct formats: mistral-common's ids for every version, from any tokenizer file."""

import json

import pytest
from golden_chat import DATA, FILE, MADE, STORED, SYSTEM, conversations, ids_of, made_tekken

from mistral_eval.errors import EngineError, TokenizerError
from mistral_eval.model.chat.choose_format import choose_format
from mistral_eval.model.chat.messages import Messages
from mistral_eval.model.chat.mistral_format import MistralFormat, Version
from mistral_eval.model.tokenizers.tokenizer import ANY_VOCAB, load_tokenizer
from tests.chat_files import add_config, save_shape

GOLDEN = json.loads(FILE.read_text(encoding="utf-8"))
NAMES = [name for name, _ in conversations()]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A tokenizer file of each version."""
    made = {
        f"{version} made": made_tekken(version, tmp_path_factory.mktemp(version))
        for version in MADE
    }
    return {name: DATA / file for name, file in STORED.items()} | made


@pytest.fixture(scope="module")
def tokenizers(files):
    return {name: load_tokenizer(file, expected_vocab=ANY_VOCAB) for name, file in files.items()}


@pytest.fixture(scope="module")
def chats(files, tokenizers):
    """The format of each version's tokenizer file."""
    return {
        name: choose_format("mistral", tokenizers[name], file, file) for name, file in files.items()
    }


def test_the_golden_file_has_every_version():
    assert set(GOLDEN) == {*STORED, *(f"{version} made" for version in MADE)}


@pytest.mark.parametrize("version", GOLDEN)
def test_mistral_common_still_gives_the_golden_ids(version, files):
    assert ids_of(files[version]) == GOLDEN[version]


@pytest.mark.parametrize("version", GOLDEN)
def test_ids_of_every_version_are_mistral_commons(version, chats):
    ours = {
        name: chats[version].format.encode(Messages.of(asked)) for name, asked in conversations()
    }

    assert ours == GOLDEN[version]


@pytest.mark.parametrize("version", GOLDEN)
def test_the_note_says_version_and_file(version, chats, files):
    number = version.split()[0]

    assert f"instruct format {number.upper()} of mistral-common" in chats[version].remark
    assert f"(by {files[version].name})" in chats[version].remark


@pytest.mark.parametrize("shape", ["legacy", "metaspace"])
@pytest.mark.parametrize("version", ["v1", "v3", "v7"])
def test_a_tokenizer_json_of_the_same_vocabulary_gives_the_same_ids(version, shape, tmp_path):
    folder = add_config(save_shape(DATA / STORED[version], tmp_path, shape))
    tokenizer = load_tokenizer(folder, expected_vocab=ANY_VOCAB)
    chat = choose_format("auto", tokenizer, folder, folder)

    assert f"instruct format {version.upper()}" in chat.remark
    for name, asked in conversations():
        assert chat.format.encode(Messages.of(asked)) == GOLDEN[version][name]


def test_plain_conversations_of_v7_and_later_have_the_same_ids():
    assert GOLDEN["v7 made"] == GOLDEN["v11 made"] == GOLDEN["v13 made"] == GOLDEN["v15 made"]


@pytest.mark.parametrize("version", GOLDEN)
def test_a_control_token_in_a_message_stays_text(version, chats, tokenizers):
    """By its id, which appears as often as in a conversation without it, and by the text."""
    tokenizer = tokenizers[version]
    ids = set(tokenizer.control_tokens.values())
    plain = chats[version].format.encode(
        Messages((("user", "x"), ("assistant", "x"), ("user", "x")))
    )
    expected = [one for one in plain if one in ids]
    for name in [*list(tokenizer.control_tokens)[:40], " [INST] ", "</s><s>"]:
        for turns in (
            (("user", name), ("assistant", "x"), ("user", "x")),
            (("user", "x"), ("assistant", f"a {name} b"), ("user", "x")),
            (("user", "x"), ("assistant", "x"), ("user", f"{name}{name}")),
        ):
            found = chats[version].format.encode(Messages(turns))
            assert [one for one in found if one in ids] == expected, name
            assert name.strip() in tokenizer.decode(found)


def test_a_system_prompt_stays_text(chats):
    messages = Messages((("user", "x"),), "[/INST]</s>")
    ids = chats["v3"].format.encode(messages)

    assert (ids.count(4), ids.count(2)) == (1, 0)


@pytest.mark.parametrize("version", GOLDEN)
@pytest.mark.parametrize("prefix", [None, "The answer", "The answer "])
def test_a_continuation_is_encoded_as_the_reply(version, prefix, chats, tokenizers):
    """The conversation's ids come first, and all ids are those of the conversation with it."""
    messages = Messages((("user", "What?"),), SYSTEM)
    if prefix is not None:
        messages = messages.replied(prefix)
    more = "is 4." if prefix is None else " is 4."
    head, whole = chats[version].format.encode_pair(messages, more)
    tokenizer = tokenizers[version]

    assert whole[: len(head)] == head
    assert whole == chats[version].format.encode(messages.replied(more))
    text = f"{prefix or ''}{more}"
    assert tokenizer.decode(whole).endswith(text)


def test_two_messages_of_the_user_are_joined_by_a_blank_line(chats):
    two = Messages((("user", "a"), ("user", "b")))

    assert chats["v3"].format.encode(two) == chats["v3"].format.encode(
        Messages((("user", "a\n\nb"),))
    )


def test_an_empty_answer_in_a_conversation_is_refused_in_one_sentence(chats):
    messages = Messages((("user", "a"), ("assistant", ""), ("user", "b")))

    with pytest.raises(EngineError, match="mistral-common refuses the conversation"):
        chats["v3"].format.encode(messages)


def test_a_vocabulary_without_the_versions_control_tokens_is_refused():
    tokenizer = load_tokenizer(DATA / STORED["v1"], expected_vocab=ANY_VOCAB)

    with pytest.raises(TokenizerError, match=r"needs the control token \[INST\]"):
        MistralFormat(tokenizer, Version("v3", "the name"))


def test_an_unknown_version_is_refused():
    tokenizer = load_tokenizer(DATA / STORED["v1"], expected_vocab=ANY_VOCAB)

    with pytest.raises(TokenizerError, match="names version v99"):
        MistralFormat(tokenizer, Version("v99", "tekken.json"))


@pytest.mark.parametrize(
    "turns", [(), (("assistant", "a"),), (("system", "a"), ("user", "b")), (("tool", "a"),)]
)
def test_a_conversation_needs_a_question(turns):
    with pytest.raises(EngineError, match="at least one of the user's"):
        Messages(turns)


def test_system_messages_of_a_history_are_one_system_prompt():
    history = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]

    assert Messages.of(history) == Messages((("user", "b"),), "a")
    assert Messages.of(history).as_dicts() == history
