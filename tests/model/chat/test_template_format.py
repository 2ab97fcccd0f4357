"""Chat templates: transformers' ids, what differs from mistral-common, and text that stays text."""

import json
from datetime import UTC, datetime

import pytest
from golden_chat import DATA, STORED, made_tekken
from transformers import PreTrainedTokenizerFast

from mistral_eval.errors import EngineError, TokenizerError
from mistral_eval.model.chat.choose_format import PROBES, choose_format
from mistral_eval.model.chat.messages import Messages
from mistral_eval.model.chat.template_format import own_template
from mistral_eval.model.chat.template_text import TemplateText
from mistral_eval.model.tokenizers.tokenizer import ANY_VOCAB, load_tokenizer
from tests.byte_level import save_tokenizer as save_byte_level
from tests.chat_files import (
    CHATML,
    FIRST,
    LLAMA_2,
    NEMO,
    SMALL,
    UPDATED,
    V3,
    add_config,
    add_template,
    save_shape,
)

FILES = {"v1": DATA / STORED["v1"], "v3": DATA / STORED["v3"], "v7": DATA / STORED["v7"]}
ONE, TWO, THREE = (PROBES[name] for name in ("a question", "two questions", "three questions"))
ASKED = PROBES["a question with a system prompt"]
BEGUN = PROBES["a question and the reply's beginning with a system prompt"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each vocabulary and shape of tokenizer.json, as a Mistral's."""
    return {
        (version, shape): add_config(
            save_shape(file, tmp_path_factory.mktemp(f"{version}-{shape}"), shape)
        )
        for version, file in FILES.items()
        for shape in ("legacy", "metaspace")
    }


@pytest.fixture(scope="module")
def opened(folders):
    """Choose a format of one of `folders` with a template in it."""
    tokenizers = {}

    def choose(version, shape, template, asked="folder"):
        folder = add_template(folders[version, shape], template)
        if (version, shape) not in tokenizers:
            tokenizers[version, shape] = load_tokenizer(folder, expected_vocab=ANY_VOCAB)
        return choose_format(asked, tokenizers[version, shape], folder, folder)

    return choose


def first_difference(ours, theirs):
    """The first index at which two lists of ids differ; None if they are equal."""
    if ours == theirs:
        return None
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(ours), len(theirs)))


def differences(opened, version, shape, template, messages):
    folder = opened(version, shape, template).format.encode(messages)
    return first_difference(
        opened(version, shape, template, "mistral").format.encode(messages), folder
    )


@pytest.mark.parametrize("messages", [ONE, TWO, THREE, ASKED])
def test_updated_templates_of_v1_with_metaspace_give_mistral_commons_ids(opened, messages):
    assert differences(opened, "v1", "metaspace", UPDATED, messages) is None


@pytest.mark.parametrize("messages", [ONE, TWO, THREE, ASKED])
def test_updated_templates_of_v1_with_legacy_differ_from_token_1(opened, messages):
    assert differences(opened, "v1", "legacy", UPDATED, messages) == 1


@pytest.mark.parametrize("messages", [ONE, TWO, THREE, ASKED])
def test_v3_with_legacy_differs_from_token_2_and_with_metaspace_not(opened, messages):
    assert differences(opened, "v3", "legacy", V3, messages) == 2
    assert differences(opened, "v3", "metaspace", V3, messages) is None


def test_first_templates_differ_at_the_first_token_of_an_answer(opened):
    chat = opened("v1", "metaspace", FIRST, "mistral")
    at = differences(opened, "v1", "metaspace", FIRST, TWO)

    assert differences(opened, "v1", "metaspace", FIRST, ONE) in (None, 1)
    assert at is not None
    assert f"first token {at}" in chat.remark or "first token 1:" in chat.remark


def test_first_templates_refuse_a_system_prompt_which_then_stands_before_the_question(opened):
    chat = opened("v1", "legacy", FIRST)

    assert "refuses a system prompt" in chat.remark
    joined = Messages((("user", f"{ASKED.system}\n\n{ASKED.turns[0][1]}"),))
    assert chat.format.encode(ASKED) == chat.format.encode(joined)


@pytest.mark.parametrize("messages", [ONE, TWO, THREE, ASKED])
def test_nemos_template_gives_mistral_commons_ids(tmp_path, messages):
    folder = add_template(made_tekken("v3", tmp_path).parent, NEMO)
    tokenizer = load_tokenizer(folder, expected_vocab=ANY_VOCAB)
    ours, theirs = (
        choose_format(asked, tokenizer, folder, folder).format.encode(messages)
        for asked in ("mistral", "folder")
    )

    assert ours == theirs


def test_smalls_template_writes_todays_date_without_a_system_prompt(tmp_path):
    folder = add_template(made_tekken("v7", tmp_path).parent, SMALL)
    tokenizer = load_tokenizer(folder, expected_vocab=ANY_VOCAB)
    ours, theirs = (choose_format(a, tokenizer, folder, folder) for a in ("mistral", "folder"))

    assert ours.format.encode(ASKED) == theirs.format.encode(ASKED)
    assert first_difference(ours.format.encode(ONE), theirs.format.encode(ONE)) == 1
    assert datetime.now(UTC).strftime("%Y-%m-%d")[:4] in tokenizer.decode(theirs.format.encode(ONE))
    assert "today's date" in theirs.remark
    assert "gives a question other ids, first token 1: 17 '[SYSTEM_PROMPT]' there" in ours.remark


@pytest.mark.parametrize(("version", "template"), [("v3", V3), ("v3", NEMO)])
def test_templates_drop_the_system_prompt_before_the_replys_beginning(opened, version, template):
    chat = opened(version, "metaspace", template)
    plain = Messages(BEGUN.turns)

    assert "leaves out the system prompt where it continues a reply's beginning" in chat.remark
    assert chat.format.encode(BEGUN) == chat.format.encode(plain)
    ours = opened(version, "metaspace", template, "mistral").format
    assert ours.encode(BEGUN) != ours.encode(plain)


CASES = [
    ("v1", "legacy", UPDATED),
    ("v1", "metaspace", UPDATED),
    ("v1", "metaspace", FIRST),
    ("v3", "legacy", V3),
    ("v3", "metaspace", V3),
    ("v3", "metaspace", NEMO),
    ("v7", "metaspace", SMALL),
]


@pytest.mark.parametrize(("version", "shape", "template"), CASES)
def test_ids_are_those_of_transformers(opened, folders, version, shape, template):
    chat = opened(version, shape, template)
    theirs = PreTrainedTokenizerFast.from_pretrained(folders[version, shape])
    for name, messages in PROBES.items():
        if template == FIRST and messages.system:
            continue
        continues = bool(messages.prefix)
        expected = theirs.apply_chat_template(
            messages.as_dicts(),
            add_generation_prompt=not continues,
            continue_final_message=continues,
            return_dict=False,
        )
        assert chat.format.encode(messages) == expected, name


@pytest.mark.parametrize(("version", "shape", "template"), CASES)
def test_a_control_token_in_a_message_stays_text(opened, folders, version, shape, template):
    """transformers, and lm-eval with it, read it as the token."""
    chat = opened(version, shape, template)
    tokenizer = load_tokenizer(folders[version, shape], expected_vocab=ANY_VOCAB)
    ids = set(tokenizer.control_tokens.values())
    three = (("user", "x"), ("assistant", "x"), ("user", "x"))
    expected = [one for one in chat.format.encode(Messages(three)) if one in ids]
    for name in [*list(tokenizer.control_tokens)[:30], " [/INST] ", "</s><s>", "<s<s>"]:
        for place in range(3):
            turns = list(three)
            turns[place] = (turns[place][0], f"a{name}b {name}" if place else name)
            found = chat.format.encode(Messages(tuple(turns)))
            assert [one for one in found if one in ids] == expected, (name, place)
            assert name.strip() in tokenizer.decode(found)


def test_transformers_reads_a_control_token_in_a_message(opened, folders):
    """What the test above is about: this is why no text of ours goes there."""
    opened("v3", "metaspace", V3)
    theirs = PreTrainedTokenizerFast.from_pretrained(folders["v3", "metaspace"])
    ids = theirs.apply_chat_template([{"role": "user", "content": "a</s>b"}], return_dict=False)

    assert 2 in ids


def byte_level(folder, template, **token):
    """A byte-level tokenizer with <|im_start|> and <|im_end|>."""
    file = save_byte_level(folder)
    content = json.loads(file.read_text())
    (last,) = content["added_tokens"]
    for number, name in enumerate(("<|im_start|>", "<|im_end|>"), last["id"] + 1):
        content["added_tokens"].append({**last, "id": number, "content": name, **token})
    file.write_text(json.dumps(content))
    return add_template(folder, template)


@pytest.mark.parametrize("token", [{}, {"rstrip": True}, {"lstrip": True}])
def test_chatml_gives_transformers_ids(tmp_path, token):
    folder = byte_level(tmp_path, CHATML, **token)
    tokenizer = load_tokenizer(folder, expected_vocab=ANY_VOCAB)
    chat = choose_format("auto", tokenizer, folder, folder)
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)

    assert chat.remark.startswith("asked in the chat template (by tokenizer_config.json)")
    for messages in (*PROBES.values(), Messages((("user", "  a \n\n b  "),))):
        continues = bool(messages.prefix)
        assert chat.format.encode(messages) == theirs.apply_chat_template(
            messages.as_dicts(),
            add_generation_prompt=not continues,
            continue_final_message=continues,
            return_dict=False,
        )


PARTS = [
    "<|im_end",
    "<|im_end|",
    "<|im_",
    "|>",
    "im_end|>",
    "<",
    ">",
    " <|im_end|",
    "m_start|> x <|im_star",
]


@pytest.mark.parametrize(
    "template", [CHATML, CHATML.replace("message['content']", "message['content'].strip()")]
)
@pytest.mark.parametrize("part", PARTS)
def test_a_message_completes_no_control_token_with_the_template(tmp_path, part, template):
    """The template's own text before or behind a message is such a part."""
    around = template.replace("+ '<|im_end|>'", "+ '|><|im_end|>'").replace(
        "+ '\n' + message", "+ '\n<|im_end' + message"
    )
    folder = byte_level(tmp_path, around)
    tokenizer = load_tokenizer(folder, expected_vocab=ANY_VOCAB)
    chat = choose_format("auto", tokenizer, folder, folder)
    ids = set(tokenizer.control_tokens.values())
    plain, found = (
        [one for one in chat.format.encode(Messages((("user", text),))) if one in ids]
        for text in ("x", part)
    )

    assert found == plain


def test_a_sentencepiece_model_marks_every_text_as_the_legacy_shape_does(folders, tmp_path):
    add_template(add_config(tmp_path), V3)
    (tmp_path / "tokenizer.model").write_bytes(FILES["v3"].read_bytes())
    legacy = add_template(folders["v3", "legacy"], V3)
    ours, theirs = (
        choose_format("folder", load_tokenizer(at, expected_vocab=ANY_VOCAB), at, at).format
        for at in (tmp_path, legacy)
    )

    for messages in (ONE, THREE, ASKED, Messages((("user", "a</s> [INST]b"),))):
        assert ours.encode(messages) == theirs.encode(messages)


def test_private_characters_in_a_message_stay_themselves(tmp_path):
    folder = byte_level(tmp_path, CHATML)
    tokenizer = load_tokenizer(folder, expected_vocab=ANY_VOCAB)
    text = TemplateText(tokenizer)
    asked = "\U000f0000 <|im_end|> \U000f0001"
    (marked,), shield = text.shield([asked])

    assert shield.lift(marked) == asked
    assert tokenizer.decode(text.encode(marked, shield)) == asked
    with pytest.raises(EngineError, match="private planes"):
        text.shield(["\U000f0000\U00100000"])


def test_a_pair_is_split_as_lm_eval_splits_it(tmp_path):
    """White space at the prompt's end belongs to the continuation."""
    folder = byte_level(tmp_path, CHATML)
    tokenizer = load_tokenizer(folder, expected_vocab=ANY_VOCAB)
    chat = choose_format("auto", tokenizer, folder, folder).format
    head, whole = chat.encode_pair(ONE, "A</s>")

    assert whole[: len(head)] == head
    assert tokenizer.decode(head).endswith("assistant")
    assert tokenizer.decode(whole).endswith("assistant\nA</s>")


# Which format a checkpoint has.


@pytest.mark.parametrize(
    ("version", "template", "format_name"),
    [
        ("v1", None, "format V1"),
        ("v1", UPDATED, "format V1"),
        ("v1", CHATML, "the chat template"),
        ("v3", V3, "format V3"),
        ("v3", CHATML, "the chat template"),
        ("v7", SMALL, "format V7"),
        ("v1", LLAMA_2, "the chat template"),
    ],
)
def test_a_mistrals_format_is_chosen_unless_its_template_is_another(
    folders, version, template, format_name
):
    folder = folders[version, "metaspace"]
    add_template(folder, template or "")
    tokenizer = load_tokenizer(folder, expected_vocab=ANY_VOCAB)

    assert format_name in choose_format("auto", tokenizer, folder, folder).remark


def test_another_familys_vocabulary_needs_a_template(tmp_path):
    folder = add_config(save_shape(FILES["v1"], tmp_path, "legacy"), "llama")
    tokenizer = load_tokenizer(folder, expected_vocab=ANY_VOCAB)

    with pytest.raises(TokenizerError, match="has no chat template"):
        choose_format("auto", tokenizer, folder, folder)
    assert "format V1" in choose_format("mistral", tokenizer, folder, folder).remark


def test_mistral_is_refused_for_a_byte_level_vocabulary(tmp_path):
    folder = byte_level(tmp_path, CHATML)
    tokenizer = load_tokenizer(folder, expected_vocab=ANY_VOCAB)

    with pytest.raises(TokenizerError, match="not a tokenizer of Mistral's"):
        choose_format("mistral", tokenizer, folder, folder)


def test_the_version_of_a_file_beside_the_tokenizer_counts(tmp_path):
    """As in the repository of v0.3, which holds tokenizer.model and tokenizer.model.v3."""
    for name in ("tokenizer.model", "tokenizer.model.v2", "tokenizer.model.v3"):
        (tmp_path / name).write_bytes(FILES["v3"].read_bytes())
    tokenizer = load_tokenizer(tmp_path, expected_vocab=ANY_VOCAB)

    remark = choose_format("auto", tokenizer, tmp_path, tmp_path).remark
    assert (
        remark == "asked in Mistral's instruct format V3 of mistral-common (by tokenizer.model.v3)"
    )


def test_a_template_file_of_the_user(tmp_path):
    folder = byte_level(tmp_path, "{{ 'unused' }}")
    (tmp_path / "mine.jinja").write_text("{{ eos_token + messages[0]['content'] }}")
    tokenizer = load_tokenizer(folder, expected_vocab=ANY_VOCAB)
    chat = choose_format(str(tmp_path / "mine.jinja"), tokenizer, folder, folder)

    assert "(by mine.jinja)" in chat.remark
    assert chat.format.encode(ONE)[0] == tokenizer.eos_id
    with pytest.raises(TokenizerError, match=r"none.jinja should hold a chat template"):
        choose_format(str(tmp_path / "none.jinja"), tokenizer, folder, folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("chat_template.jinja", "{{ 'here' }}"),
        ("chat_template.json", json.dumps({"chat_template": "{{ 'here' }}"})),
        (
            "tokenizer_config.json",
            json.dumps({"chat_template": [{"name": "default", "template": "{{ 'here' }}"}]}),
        ),
    ],
)
def test_every_place_of_a_template_is_found(tmp_path, file, content):
    (tmp_path / file).write_text(content)
    found = own_template(tmp_path)

    assert found is not None
    assert (found.text, found.place) == ("{{ 'here' }}", file)


def test_a_folder_without_a_template_has_none(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text("{}")

    assert own_template(tmp_path) is None


@pytest.mark.parametrize(
    "template", ["{% for", "{{ messages[7]['content'] }}", "{{ nothing.at.all }}"]
)
def test_a_broken_template_is_refused_in_one_sentence(tmp_path, template):
    folder = byte_level(tmp_path, template)
    tokenizer = load_tokenizer(folder, expected_vocab=ANY_VOCAB)

    with pytest.raises(TokenizerError, match="cannot be rendered"):
        choose_format("folder", tokenizer, folder, folder)


def test_a_conversation_that_the_template_refuses_is_named(tmp_path):
    folder = byte_level(tmp_path, FIRST)
    tokenizer = load_tokenizer(folder, expected_vocab=ANY_VOCAB)
    chat = choose_format("folder", tokenizer, folder, folder).format

    with pytest.raises(EngineError, match="roles must alternate"):
        chat.encode(Messages((("user", "a"), ("user", "b"))))


def test_a_template_that_leaves_out_the_system_prompt_says_so(tmp_path):
    folder = byte_level(tmp_path, "{{ messages[-1]['content'] }}")
    tokenizer = load_tokenizer(folder, expected_vocab=ANY_VOCAB)

    assert (
        "it leaves out a system prompt" in choose_format("folder", tokenizer, folder, folder).remark
    )


OWN_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n"
    "{% endif %}" + CHATML
)


@pytest.mark.parametrize(("template", "writes"), [(CHATML, False), (OWN_SYSTEM, True)])
def test_a_template_that_writes_a_system_prompt_of_its_own_says_so(tmp_path, template, writes):
    folder = byte_level(tmp_path, template)
    tokenizer = load_tokenizer(folder, expected_vocab=ANY_VOCAB)
    remark = choose_format("folder", tokenizer, folder, folder).remark

    assert ("writes a system prompt of its own where none is given" in remark) == writes
