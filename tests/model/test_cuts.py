"""Encoding a text in parts gives the ids of the whole, for every tokenizer that allows cuts."""

import json
import shutil

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from mistral_eval.data import make_source
from mistral_eval.model.export import save_tokenizer
from mistral_eval.model.tiny import tiny_tokenizer_file
from mistral_eval.model.tokenizers.cuts import (
    GPT2_SPLIT,
    LLAMA_SPLIT,
    TEKKEN_SPLIT,
    allows_cuts,
    are_cuttable,
)
from mistral_eval.model.tokenizers.incremental import SPACE, PrefixEncoder, joins_across_spaces
from mistral_eval.model.tokenizers.tokenizer import load_tokenizer
from mistral_eval.model.tokenizers.tokenizer_sentencepiece import is_plain_bpe
from mistral_eval.run.questions import Asking, load_benchmarks
from mistral_eval.suite.registry import BENCHMARKS

DATA = tiny_tokenizer_file().parent
FILES = {
    "v1": tiny_tokenizer_file(),
    "v3": DATA / "mistral_instruct_tokenizer_240323.model.v3",
    "tekken": DATA / "tekken_240911.json",
}
CONVERTED = {"v1.json": "v1", "v3.json": "v3", "metaspace.json": "v1"}
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
POSSESSIVE_SPLIT = (  # cl100k, in its later spelling
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s*+[\r\n]|\s+(?!\S)|\s+"
)
# Digits and expressions before ByteLevel, which has GPT-2's own expression where none is given.
SPLIT = {
    "bytes.json": [TEKKEN_SPLIT],
    "llama.json": [LLAMA_SPLIT],
    "gpt2.json": [],
    "smollm.json": ["digits"],
    "digits.json": ["digits", GPT2_SPLIT],
    "qwen.json": ["nfc", QWEN_SPLIT],
    "several.json": [r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u30ff]+", QWEN_SPLIT],
    "possessive.json": [POSSESSIVE_SPLIT],
}
KINDS = [*FILES, *CONVERTED, *SPLIT]
WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)
PIECES = st.sampled_from(
    [
        *(
            " ",
            "  ",
            "    ",
            "\n",
            "\n\n",
            "\t",
            "\r\n",
            "\u3000",
            "\xa0",
            "\x00",
            SPACE,
            SPACE * 3,
        ),
        *("</s>", "<s>", "[INST]", " [/INST]", "[REFERENCE_DOC_1]", "<0x20>", "<unk>", "[REF"),
        *(
            "A",
            " A",
            "Answer:",
            "the",
            " the",
            "'ll",
            "Größe",
            "日本語",
            "🙂",
            "👩‍👩‍👧",
            "e\u0301",
            "é",
        ),
        *(
            ".",
            ".\n",
            "//",
            " //\n",
            "12345",
            " 6",
            "_",
            "def f(x):\n    return",
            "don't",
            "\u200b",
        ),
    ]
)
TEXT = st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=12)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Folders with the tokenizer.json that our writer makes of Mistral's v1 and v3."""
    folders = {}
    for of in ("v1", "v3"):
        folders[of] = tmp_path_factory.mktemp("converted")
        save_tokenizer(FILES[of], folders[of])
    return folders


@pytest.fixture(scope="module")
def tokenizers(converted, tmp_path_factory):
    """One of every kind by name; those of `SPLIT` are trained on the spot."""
    made = {name: load_tokenizer(file, expected_vocab=140000) for name, file in FILES.items()}
    for name, of in CONVERTED.items():
        file = converted[of] / "tokenizer.json"
        if name == "metaspace.json":
            file = with_metaspace(converted[of], tmp_path_factory.mktemp("metaspace"))
        made[name] = load_tokenizer(file, expected_vocab=140000)
    for name, steps in SPLIT.items():
        file = train(tmp_path_factory.mktemp("trained"), steps)
        made[name] = load_tokenizer(file, expected_vocab=140000)
    return made


def with_metaspace(folder, other):
    """The form that transformers 5 writes, in another folder."""
    content = json.loads((folder / "tokenizer.json").read_text())
    content["normalizer"] = None
    content["pre_tokenizer"] = {
        "type": "Metaspace",
        "replacement": SPACE,
        "prepend_scheme": "always",
        "split": False,
    }
    shutil.copy(folder / "tokenizer_config.json", other)
    (other / "tokenizer.json").write_text(json.dumps(content))
    return other / "tokenizer.json"


def train(folder, steps):
    """A small byte-level tokenizer.json whose words are those of its steps (see `SPLIT`)."""
    expressions = [step for step in steps if step not in ("digits", "nfc")]
    digits = [pre_tokenizers.Digits(individual_digits=True)] if "digits" in steps else []
    splits = [pre_tokenizers.Split(Regex(one), behavior="isolated") for one in expressions]
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not expressions)
    made = Tokenizer(models.BPE())
    if "nfc" in steps:
        made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence([*digits, *splits, letters])
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = "def f(x):\n    return x  // the Answer: it'll be 123 456.\n\n日本語 Größe 🙂 " * 20
    made.train_from_iterator([words], trainer)
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    return folder / "tokenizer.json"


def all_cuts(tokenizer, text):
    cuts, end = [], len(text)
    while cut := tokenizer.last_cut(text, end):
        cuts.append(cut)
        end = cut - 1
    return cuts


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=300)
@given(text=TEXT)
def test_the_parts_of_a_text_have_the_ids_of_the_whole_at_every_cut(tokenizers, kind, text):
    tokenizer = tokenizers[kind]
    whole = tokenizer.encode(text, bos=True)
    for cut in all_cuts(tokenizer, text):
        left, right = text[:cut], text[cut:]
        assert tokenizer.encode(left, bos=True) + tokenizer.encode_rest(right) == whole


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200)
@given(texts=st.lists(st.tuples(st.integers(0, 40), TEXT), min_size=1, max_size=8))
def test_texts_that_begin_alike_get_the_tokenizers_own_ids(tokenizers, kind, texts):
    """Each is a beginning of the one before it with something behind."""
    tokenizer, text = tokenizers[kind], "Question: a b\nAnswer: c d \n\nQuestion: e  f"
    encoder = PrefixEncoder(tokenizer)
    for kept, more in texts:
        text = text[:kept] + more
        expected = tuple(tokenizer.encode(text, bos=tokenizer.adds_bos))
        assert encoder.encode_beside(text) == expected
        assert encoder.encode(text) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_cut_before_a_word_and_not_within_a_run_of_spaces(tokenizers, kind):
    text = "one two  three \n four"

    assert all_cuts(tokenizers[kind], text) == [14, 7, 3]
    assert tokenizers[kind].last_cut(text, 6) == 3
    assert tokenizers[kind].last_cut(text, 2) == 0
    assert tokenizers[kind].last_cut(" leading", 7) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", WHITE_SPACE + SPACE)
def test_a_space_behind_white_space_is_no_cut(tokenizers, kind, before):
    assert tokenizers[kind].last_cut(f"a{before} b", 3) == (1 if before == " " else 0)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_rest_goes_through_the_tokenizer(tokenizers, kind):
    """A text longer by a word costs that word; one that shares half costs both other halves."""
    tokenizer, seen = tokenizers[kind], []

    class Counting:
        n_words, adds_bos = tokenizer.n_words, tokenizer.adds_bos
        last_cut = staticmethod(tokenizer.last_cut)

        @staticmethod
        def encode(text, *, bos):
            seen.append(text)
            return tokenizer.encode(text, bos=bos)

        @staticmethod
        def encode_rest(text):
            seen.append(text)
            return tokenizer.encode_rest(text)

    encoder, shared = PrefixEncoder(Counting()), "many words here " * 50
    first = encoder.encode(shared + "first one")
    seen.clear()
    encoder.encode_beside(shared + "first one more")
    assert seen == [" more"]
    seen.clear()
    assert encoder.encode(shared + "first one") is first
    assert seen == []
    encoder.encode(shared + "second")
    assert seen == [" first one", " second"]
    seen.clear()
    encoder.encode("many " + "others " * 100)
    assert seen == ["many " + "others " * 100]


def test_a_lone_surrogate_is_replaced_in_a_part_as_in_the_whole(tokenizers):
    tokenizer, text = tokenizers["tekken"], "some \ud800 and\udc00 and \ud83d\ude42 x"
    whole = tokenizer.encode(text, bos=False)
    for cut in (4, 6, 11, 15, 18):
        assert text[cut] == " "
        assert tokenizer.encode(text[:cut], bos=False) + tokenizer.encode_rest(text[cut:]) == whole


def test_pieces_with_a_space_behind_a_character_are_found():
    assert not joins_across_spaces(["a", SPACE, SPACE * 4, f"{SPACE}the", "<0x20>"])
    assert joins_across_spaces(["a", f"of{SPACE}"])
    assert joins_across_spaces([f"{SPACE}of{SPACE}the"])
    assert joins_across_spaces(["[A B]"])


OPTIONS = {
    "plain": ({}, True),
    "unigram": ({"model_type": "unigram"}, False),
    "nfkc": ({"normalization_rule_name": "nfkc"}, False),
    "no dummy prefix": ({"add_dummy_prefix": False}, False),
    "squeezed spaces": ({"remove_extra_whitespaces": True}, False),
    "spaces behind words": ({"treat_whitespace_as_suffix": True}, False),
    "no bytes": ({"byte_fallback": False}, False),
    "words joined": ({"split_by_whitespace": False}, False),
    "symbols": ({"user_defined_symbols": ["[A]", "[B]"]}, True),
    "a symbol with a space": ({"user_defined_symbols": [f"[A{SPACE}B]"]}, False),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_which_sentencepiece_models_can_be_cut(tmp_path, name):
    """Trained here, one option away from Mistral's; what can be cut gives the whole's ids."""
    options, can = OPTIONS[name]
    text = "of the man and of the woman of the house, and so on of the [A] of the [B] day. " * 3
    text = text.rstrip()
    sentences = tmp_path / "sentences.txt"
    sentences.write_text("\n".join([text] * 20))
    sentencepiece.SentencePieceTrainer.train(
        **{
            "input": str(sentences),
            "model_prefix": str(tmp_path / "made"),
            "vocab_size": 300,
            "hard_vocab_limit": False,
            "model_type": "bpe",
            "byte_fallback": True,
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "minloglevel": 2,
            **options,
        }
    )
    tokenizer = load_tokenizer(tmp_path / "made.model", expected_vocab=400)

    assert (tokenizer.space_id is not None) == can
    assert tokenizer.last_cut(text, len(text)) == (text.rindex(" ") if can else 0)
    for cut in all_cuts(tokenizer, text):
        parts = tokenizer.encode(text[:cut], bos=True) + tokenizer.encode_rest(text[cut:])
        assert parts == tokenizer.encode(text, bos=True)


def test_a_message_of_another_kind_is_no_plain_bpe():
    assert not is_plain_bpe(b"")
    # fields of all wire types: 1 (varint), 2 (eight bytes), 4 (four bytes), 5 (a string)
    assert not is_plain_bpe(b"\x08\x96\x01\x11" + bytes(8) + b"\x25" + bytes(4) + b"\x2a\x01x")


CHANGES = {
    "dropout": lambda c: c["model"].update(dropout=0.1),
    "a suffix": lambda c: c["model"].update(end_of_word_suffix="</w>"),
    "no bytes": lambda c: c["model"].update(byte_fallback=False),
    "whole words first": lambda c: c["model"].update(ignore_merges=True),
    "a piece across a space": lambda c: c["model"]["vocab"].update({f"a{SPACE}b": 32000}),
    "another normalizer": lambda c: c["normalizer"]["normalizers"].append({"type": "NFKC"}),
    "no normalizer": lambda c: c.update(normalizer=None),
    "an ordinary added token": lambda c: c["added_tokens"][0].update(special=False),
    "a pre-tokenizer": lambda c: c.update(pre_tokenizer={"type": "Whitespace"}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_tokenizer_json_with_steps_of_another_kind_is_not_cut(converted, tmp_path, name):
    shutil.copy(converted["v1"] / "tokenizer_config.json", tmp_path)
    file = tmp_path / "tokenizer.json"
    content = json.loads((converted["v1"] / "tokenizer.json").read_text())
    CHANGES[name](content)
    file.write_text(json.dumps(content))

    tokenizer = load_tokenizer(file, expected_vocab=40000)

    assert tokenizer.front is None
    assert tokenizer.last_cut("one two three", 13) == 0


def test_dropout_does_not_draw_the_ids_of_a_text(converted, tmp_path):
    """A BPE with dropout encodes one text in many ways; evaluation must not depend on that."""
    shutil.copy(converted["v1"] / "tokenizer_config.json", tmp_path)
    file = tmp_path / "tokenizer.json"
    content = json.loads((converted["v1"] / "tokenizer.json").read_text())
    content["model"]["dropout"] = 0.5
    file.write_text(json.dumps(content))
    tokenizer = load_tokenizer(file, expected_vocab=40000)
    plain = load_tokenizer(converted["v1"] / "tokenizer.json", expected_vocab=40000)
    text = "The quick brown fox jumps over the lazy dog."
    assert {tuple(tokenizer.encode(text, bos=False)) for _ in range(20)} == {
        tuple(plain.encode(text, bos=False))
    }
    assert any("dropout" in note for note in tokenizer.notes)


LETTERS = {
    "another expression": lambda s: s[0].update(pattern={"Regex": r"\w+ \w+"}),
    "spaces in front": lambda s: s[1].update(add_prefix_space=True),
    "an expression with a space after a letter": lambda s: s[0].update(
        pattern={"Regex": r"\p{L}+ |\s+"}
    ),
    "unmatched spaces": lambda s: s[0].update(pattern={"Regex": r"\p{L}+"}),
    "words removed": lambda s: s[0].update(behavior="Removed"),
    "a third step": lambda s: s.append({"type": "Whitespace"}),
}


@pytest.mark.parametrize("name", LETTERS)
def test_a_byte_level_tokenizer_json_with_other_words_is_not_cut(tmp_path, name):
    file = train(tmp_path, [TEKKEN_SPLIT])
    content = json.loads(file.read_text())
    LETTERS[name](content["pre_tokenizer"]["pretokenizers"])
    file.write_text(json.dumps(content))

    assert load_tokenizer(file, expected_vocab=1000).front is None


ADDED = {"content": "<tool>", "single_word": False, "lstrip": False, "rstrip": False}


@pytest.mark.parametrize(
    ("changes", "can"),
    [
        ({}, True),
        ({"content": "<a b>"}, False),
        ({"lstrip": True}, False),
        ({"rstrip": True}, False),
        ({"single_word": True}, False),
        ({"normalized": True}, False),
    ],
)
def test_an_added_word_that_no_cut_can_part_leaves_cuts(tmp_path, changes, can):
    """Qwen's <tool_call> is an ordinary token; spaces in or around one forbid cuts."""
    file = train(tmp_path, [QWEN_SPLIT])
    content = json.loads(file.read_text())
    count = len(content["model"]["vocab"])
    word = ADDED | {"id": count, "special": False, "normalized": False} | changes
    content["added_tokens"].append(word)
    file.write_text(json.dumps(content))
    tokenizer = load_tokenizer(file, expected_vocab=1000)
    text = f"of{word['content']} the {word['content']}man <tool>s and"

    assert tokenizer.n_words == count + 1
    assert not can or count in tokenizer.encode(text, bos=False)
    assert bool(all_cuts(tokenizer, text)) == can
    for cut in all_cuts(tokenizer, text):
        parts = tokenizer.encode(text[:cut], bos=False) + tokenizer.encode_rest(text[cut:])
        assert parts == tokenizer.encode(text, bos=False)


ATOMS = st.sampled_from(
    [
        *(r"\s", r"\S", " ", "a", r"\p{L}", r"\p{N}", r"[^\s\p{L}]", r"[^\r\n\p{L}]", "[ab]"),
        *(r"[\r\n]", r"(?i:'s|'t)", r"(?!\S)", r"\d", r"\w", "[a-c ]", r"[^a]", r"\."),
    ]
)
ALTERNATIVE = st.lists(
    st.tuples(ATOMS, st.sampled_from(["", "", "?", "*", "+", "{1,3}", "+?", "++"])),
    min_size=1,
    max_size=3,
).map(lambda parts: "".join(a + ("" if a.startswith("(?!") else q) for a, q in parts))
EXPRESSION = st.lists(ALTERNATIVE, min_size=1, max_size=4).map(
    lambda alternatives: "|".join([*alternatives, r"\s+"])
)


@settings(max_examples=300)
@given(expression=EXPRESSION, text=st.text("ab 1\n.'s\t", max_size=12))
def test_an_expression_that_is_proved_parts_texts_at_every_cut(expression, text):
    """Any expression, proved or not, is asked; those that are proved keep the promise."""
    if not are_cuttable([expression]):
        return
    split = pre_tokenizers.Split(Regex(expression), behavior="isolated")
    whole = [piece for piece, _ in split.pre_tokenize_str(text)]
    for cut in range(1, len(text)):
        if text[cut] == " " and not text[cut - 1].isspace():
            parts = [
                piece
                for part in (text[:cut], text[cut:])
                for piece, _ in split.pre_tokenize_str(part)
            ]
            assert parts == whole


@pytest.mark.parametrize(
    ("expression", "can"),
    [
        (GPT2_SPLIT, True),
        (LLAMA_SPLIT, True),
        (TEKKEN_SPLIT, True),
        (QWEN_SPLIT, True),
        (r" ?\w+|\s+", True),
        (r"\w+ ?|\s+", False),  # a space after a letter
        (r"[^\n]+|\s+", False),
        (r"\p{L}+(?!\S)|\s+", False),  # looks beyond a letter
        (r"\b\w+|\s+", False),
        (r"(?<=a)b|\s+", False),
        (r"^\w+|\s+", False),
        (r".+|\s+", False),
        (r"\p{L}+|\p{N}+", False),  # no part for spaces
        (r"(\w+)|\s+", False),  # not read
        ("", False),
        (r"[a", False),
        ("\\", False),
    ],
)
def test_which_expressions_are_proved(expression, can):
    assert are_cuttable([expression]) == can


def test_only_nfc_is_known_to_keep_spaces_apart():
    steps = {"type": "ByteLevel", "add_prefix_space": False}

    assert allows_cuts(steps, None)
    assert allows_cuts(steps, {"type": "NFC"})
    assert not allows_cuts(steps, {"type": "NFKC"})
    assert not allows_cuts(steps, {"type": "Sequence", "normalizers": []})
    assert not allows_cuts({"type": "ByteLevel"}, None)  # a space before every text
    assert not allows_cuts(None, None)


def requests(shared, benchmark, keep=None):
    """Contexts and continuations (or None) of a benchmark's requests over the real test set."""
    asking = Asking(make_source(str(shared / "data")), None, None, unpinned=False)
    (loaded,) = load_benchmarks([benchmark], asking)
    for question in loaded.questions:
        if keep in (None, loaded.stratum(question.doc)):
            for request in question.requests:
                yield request.context, request.continuation or None


def compare(tokenizer, pairs):
    """The encoder's ids and the tokenizer's own of each context and pair; how many there were."""
    encoder, count, last = PrefixEncoder(tokenizer), 0, None
    for context, continuation in pairs:
        count += 1
        if context != last:
            last = context
            assert encoder.encode(context) == tuple(tokenizer.encode(context, bos=True))
        encoder.encode(context)
        if continuation is not None:
            whole = context + continuation
            assert encoder.encode_beside(whole) == tuple(tokenizer.encode(whole, bos=True))
    return count


def test_prompts_of_the_real_test_sets_get_the_tokenizers_own_ids(tokenizers, shared):
    pairs = [*requests(shared, "mmlu", "anatomy"), *requests(shared, "humaneval")]
    for kind in FILES:
        assert compare(tokenizers[kind], pairs) == 540 + 164


@pytest.mark.slow
@pytest.mark.parametrize(
    "benchmark",
    # QuAC's rows are not to be had, and a conversation is no text
    [one.id for one in BENCHMARKS if one.id != "quac" and not one.is_chat],
)
def test_every_request_of_the_suite_gets_mistrals_own_ids(tokenizers, shared, benchmark):
    assert compare(tokenizers["v1"], requests(shared, benchmark)) > 100
