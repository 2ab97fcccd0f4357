"""A GGUF file's tokenizer gives the ids of the original tokenizer, on real texts."""

import json
from functools import cache
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
import regex
import sentencepiece
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from tokenizers import pre_tokenizers

from mistral_eval.errors import CheckpointError, TokenizerError
from mistral_eval.model.load.checkpoint import load_checkpoint
from mistral_eval.model.load.gguf_file import read_metadata
from mistral_eval.model.tiny import tiny_tokenizer_file
from mistral_eval.model.tokenizers.tokenizer import load_tokenizer
from mistral_eval.model.tokenizers.tokenizer_gguf import gguf_tokenizer
from tests.gguf_files import save_gguf
from tests.model.test_gguf_errors import SMALL

PACKAGE = tiny_tokenizer_file().parent
SENTENCEPIECE = {
    "v1": "tokenizer.model.v1",
    "v2": "mistral_instruct_tokenizer_240216.model.v2",
    "v3": "mistral_instruct_tokenizer_240323.model.v3",
    "v7": "mistral_instruct_tokenizer_241114.model.v7",
}
TEKKEN = {"Nemo": "tekken_240718.json", "tekken 3": "tekken_240911.json"}
SHARED = Path(__file__).parents[3] / "shared" / "data"
TEXTS = (
    "", " ", "  two spaces", "\n\n\tdef f(x):\n    return x", "don't we'll I'M",
    "a\u00a0b\u3000c", "Größe Straße naïve", "日本語のテキスト 中文", "🙂👩‍👩‍👧 e\u0301",
    "Привет, мир! مرحبا", "x=12345.678e-9", "<s>[INST] hi [/INST]</s>", "<|im_start|>user\n",
    "// comment\r\n#include <a>\r\n", "\x00\x07", "▁▁",
)  # fmt: skip


def real_texts():
    """Questions of GSM8K, HellaSwag and the Chinese part of AGIEval, some hundred of each."""
    files = [*SHARED.glob("gsm8k/**/*.parquet"), *SHARED.glob("hellaswag/**/*.parquet"),
             *SHARED.glob("agieval/gaokao-chinese/*.parquet")]  # fmt: skip
    for file in files:
        rows = pd.read_parquet(file).head(150)
        for column in rows.select_dtypes(include=["object", "string"]).columns:
            yield from (text for text in rows[column] if isinstance(text, str))


def assert_same_ids(ours, encode, texts=TEXTS):
    texts = [*texts, *real_texts()]
    for text in texts:
        assert ours.encode(text, bos=False) == encode(text), repr(text[:200])
    if SHARED.is_dir():
        assert len(texts) > 300


def sentencepiece_fields(processor, **change):
    """What llama.cpp's converter writes for a SentencePiece model."""
    numbers = range(processor.vocab_size())

    def kind(number):
        is_kind = (
            (2, processor.is_unknown),
            (3, processor.is_control),
            (5, processor.is_unused),
            (6, processor.is_byte),
        )
        return next((value for value, matches in is_kind if matches(number)), 1)

    return {
        "model": "llama",
        "tokens": [processor.id_to_piece(number) for number in numbers],
        "scores": [processor.get_score(number) for number in numbers],
        "token_type": [kind(number) for number in numbers],
        "bos_token_id": processor.bos_id(),
        "eos_token_id": processor.eos_id(),
        "add_bos_token": True,
        **change,
    }


def file_of(folder, fields):
    return save_gguf(folder / "model.gguf", SMALL, tokenizer=fields)


def read(folder, fields):
    return load_tokenizer(file_of(folder, fields), expected_vocab=1 << 30)


def complaint(folder, fields):
    with pytest.raises(TokenizerError) as caught:
        read(folder, fields)
    return str(caught.value)


@cache
def processor_of(name):
    return sentencepiece.SentencePieceProcessor(model_file=str(PACKAGE / SENTENCEPIECE[name]))


@pytest.mark.parametrize("name", SENTENCEPIECE)
def test_sentencepiece_gives_the_ids_and_texts_of_the_original(name, tmp_path):
    processor = processor_of(name)
    ours = read(tmp_path, sentencepiece_fields(processor))

    assert (ours.bos_id, ours.eos_id, ours.n_words) == (1, 2, processor.vocab_size())
    assert (ours.adds_bos, ours.eos_ids, ours.kind) == (True, (2,), "sentencepiece")
    assert_same_ids(ours, processor.encode)
    original = load_tokenizer(PACKAGE / SENTENCEPIECE[name], expected_vocab=1 << 30)
    for text in TEXTS:
        ids = ours.encode(text, bos=True)
        assert ids == original.encode(text, bos=True)
        assert ours.decode(ids) == original.decode(ids)
    assert ours.last_cut("a b c", 4) == original.last_cut("a b c", 4) == 3
    probe = range(0, ours.n_words, 17)
    assert [ours.starts_afresh(n) for n in probe] == [original.starts_afresh(n) for n in probe]


def tekken_fields(file, **change):
    """What llama.cpp's converter writes for a tekken.json: merges follow from the ranks."""
    tekkenizer = Tekkenizer.from_file(file)
    count, n_special = tekkenizer.n_words, tekkenizer.num_special_tokens
    words = [tekkenizer.id_to_byte_piece(number) for number in range(n_special, count)]
    ranks = {word: rank for rank, word in enumerate(words)}
    letters = letter_of_byte()
    spell = {word: "".join(letters[byte] for byte in word) for word in words}
    merges = [
        " ".join(spell[part] for part in split_at_last_merge(word, rank, ranks))
        for word, rank in ranks.items()
        if len(word) > 1
    ]
    special = [tekkenizer.id_to_piece(number) for number in range(n_special)]
    return {
        "model": "gpt2",
        "pre": "tekken",
        "tokens": [*special, *spell.values()],
        "token_type": [3] * n_special + [1] * len(words),
        "merges": merges,
        "bos_token_id": tekkenizer.bos_id,
        "eos_token_id": tekkenizer.eos_id,
        **change,
    }


def letter_of_byte():
    """GPT-2's letters: a byte that prints stands for itself, the others for U+0100 and on."""
    printing = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printing]
    return {byte: chr(byte) for byte in printing} | {
        byte: chr(256 + at) for at, byte in enumerate(others)
    }


def split_at_last_merge(word, rank, ranks):
    """Return the two parts that BPE joins last when only lower ranks are merged."""
    parts = [bytes([byte]) for byte in word]
    while len(parts) > 2:
        joined = [ranks.get(parts[at] + parts[at + 1], rank) for at in range(len(parts) - 1)]
        at = joined.index(min(joined))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


@pytest.mark.slow
@pytest.mark.parametrize("name", TEKKEN)
def test_tekken_gives_the_ids_and_texts_of_the_original(name, tmp_path):
    original = load_tokenizer(PACKAGE / TEKKEN[name], expected_vocab=1 << 30)
    ours = read(tmp_path, tekken_fields(PACKAGE / TEKKEN[name]))

    assert (ours.bos_id, ours.eos_id, ours.n_words) == (
        original.bos_id,
        original.eos_id,
        original.n_words,
    )
    assert (ours.adds_bos, ours.kind) == (True, "tokenizers")
    assert_same_ids(ours, lambda text: original.encode(text, bos=False))
    for text in TEXTS:
        ids = original.encode(text, bos=True)
        assert ours.encode(text, bos=True) == ids
        assert ours.decode(ids) == original.decode(ids)
    # a word that ends inside a character may count as one that begins there, never the reverse
    starts = [n for n in range(0, ours.n_words, 101) if ours.starts_afresh(n)]
    assert len(starts) > 1000
    assert all(original.starts_afresh(number) for number in starts)


# the split of llama.cpp's llama-vocab.cpp: first the digits, then GPT-2's expression
DIGIT = regex.compile(r"\p{N}")
GPT2 = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


def slow_bpe(fields, each_digit):
    """An obvious byte-level BPE: split, then join the pair with the lowest rank until none is."""
    ids = {token: number for number, token in enumerate(fields["tokens"])}
    ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(fields["merges"])}
    letters = letter_of_byte()

    @cache
    def word_ids(word):
        parts = [letters[byte] for byte in word.encode()]
        while len(parts) > 1:
            pairs = [ranks.get(pair, len(ranks)) for pair in pairwise(parts)]
            if min(pairs) == len(ranks):
                break
            at = pairs.index(min(pairs))
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return [ids[part] for part in parts]

    def encode(text):
        spans = [text]
        if each_digit:
            spans = [span for span in regex.split(f"({DIGIT.pattern})", text) if span]
        return [
            number for span in spans for word in GPT2.findall(span) for number in word_ids(word)
        ]

    return encode


def small_bpe(**change):
    """A byte-level vocabulary of all bytes and some merges, with three special tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = ["Ġ t", "h e", "Ġt he", "1 2", "12 3", "Ġ Ġ", "ĠĠ ĠĠ", "Ġ 1", "o n", "Ċ Ċ", "' s"]
    tokens = ["<|end|>", "<|user|>", "<unk>", *letters, *(m.replace(" ", "") for m in merges)]
    return {
        "model": "gpt2",
        "pre": "smollm",
        "tokens": tokens,
        "token_type": [3, 3, 2] + [1] * (len(tokens) - 3),
        "merges": merges,
        "eos_token_id": 0,
        **change,
    }


@pytest.mark.parametrize(("pre", "each_digit"), [("smollm", True), ("gpt-2", False)])
def test_byte_level_bpe_gives_the_ids_of_a_slow_twin(pre, each_digit, tmp_path):
    fields = small_bpe(pre=pre)
    ours = read(tmp_path, fields)

    assert_same_ids(ours, slow_bpe(fields, each_digit))
    number = ours.encode("123", bos=False)
    assert len(number) == (3 if each_digit else 1)
    for text in TEXTS:
        assert ours.decode(ours.encode(text, bos=False)) == text


@pytest.mark.trained
def test_smollm2_gives_published_ids_and_those_of_a_slow_twin(trained):
    """Ids published for HuggingFaceTB/SmolLM2-135M-Instruct's own tokenizer.json."""
    ours = load_tokenizer(trained, expected_vocab=49152)
    published = {
        "Hello, we can use": [19556, 28, 392, 416, 722],
        "The capital of France is": [504, 3575, 282, 4649, 314],
        "Hello world! 123": [19556, 905, 17, 216, 33, 34, 35],
        "Café déjà vu.": [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30],
        "  multiple   spaces": [216, 2701, 256, 5600],
        "\n": [198],
    }
    assert {text: ours.encode(text, bos=False) for text in published} == published
    metadata = read_metadata(trained)
    fields = {key: metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "merges")}
    assert_same_ids(ours, slow_bpe(fields, each_digit=True))
    assert (ours.adds_bos, ours.eos_ids) == (False, (2,))


@pytest.mark.parametrize(
    ("change", "adds_bos", "eos_ids", "n_words"),
    [
        ({}, True, (2,), 32000),
        ({"add_bos_token": None}, True, (2,), 32000),
        ({"add_bos_token": False}, False, (2,), 32000),
        ({"bos_token_id": None}, False, (2,), 32000),
        ({"eot_token_id": 7, "eom_token_id": 2}, True, (2, 7), 32000),
        ({"eos_token_id": 5}, True, (5,), 32000),
    ],
)
def test_special_ids_are_those_of_the_metadata(change, adds_bos, eos_ids, n_words, tmp_path):
    ours = read(tmp_path, sentencepiece_fields(processor_of("v1"), **change))
    assert (ours.adds_bos, ours.eos_ids, ours.n_words) == (adds_bos, eos_ids, n_words)
    assert ours.eos_id == eos_ids[0]
    told = [note for note in ours.notes if note.startswith("generation also ends at")]
    source = "(by eot_token_id of the metadata)"
    assert told == [f"generation also ends at token {one} {source}" for one in eos_ids[1:]]


def test_rows_that_only_fill_the_embedding_up_are_no_tokens(tmp_path):
    fields = sentencepiece_fields(processor_of("v1"))
    for name, value in (("tokens", "[PAD{}]"), ("scores", -1e4), ("token_type", 5)):
        padding = [value.format(n) if name == "tokens" else value for n in range(64)]
        fields[name] = [*fields[name], *padding]
    ours = read(tmp_path, fields)
    assert ours.n_words == 32000
    assert ours.encode("[PAD3]", bos=False) == processor_of("v1").encode("[PAD3]")


def test_a_text_without_the_space_that_is_prepended(tmp_path):
    fields = sentencepiece_fields(processor_of("v1"), add_space_prefix=False)
    ours = read(tmp_path, fields)
    assert ours.decode(ours.encode("cat", bos=False)) == "cat"
    assert ours.encode(" cat", bos=False) == processor_of("v1").encode("cat")
    assert ours.last_cut("a b c", 4) == 0


def test_the_fingerprint_is_of_the_tokenizer_alone(tmp_path):
    fields = small_bpe()
    first = read(tmp_path, fields).fingerprint
    other = save_gguf(tmp_path / "other.gguf", SMALL, tokenizer=fields, seed=3)
    assert gguf_tokenizer(other).fingerprint == first
    assert read(tmp_path, small_bpe(pre="gpt-2")).fingerprint != first
    assert read(tmp_path, small_bpe(eos_token_id=1)).fingerprint != first


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "tokenizer.ggml.model should be llama (SentencePiece) or gpt2"),
        (small_bpe(model="t5"), "and is 't5': take the model's Hugging Face folder"),
        (small_bpe(pre="poro-chat"), "should be one of llama3, llama-v3, llama-bpe, tekken"),
        (small_bpe(pre="poro-chat"), "and is 'poro-chat'"),
        (small_bpe(pre=None), "and is missing"),
        (small_bpe(pre="default"), "and is 'default'"),
        (small_bpe(token_type=None), "tokenizer.ggml.token_type should have a value for each"),
        (small_bpe(eos_token_id=None), "names no eos_token_id"),
        (small_bpe(eos_token_id=4000), "special ids should be below"),
        (small_bpe(merges=["no such"]), "its tokenizer cannot be built"),
        (
            {"model": "llama", "tokens": ["a", "b"], "token_type": [1, 1], "eos_token_id": 0},
            "tokenizer.ggml.scores should have a value for each of the 2 tokens and has 0",
        ),
        (
            {
                "model": "llama",
                "tokens": ["a", "b"],
                "token_type": [1, 1],
                "scores": [-1000.0, -1000.0],
                "eos_token_id": 0,
            },
            "all tokens have the score -1000.0, which orders no merges",
        ),
        (
            {
                "model": "llama",
                "tokens": ["a", "a"],
                "token_type": [1, 1],
                "scores": [0.0, -1.0],
                "eos_token_id": 0,
            },
            "its tokenizer cannot be built",
        ),
    ],
)
def test_what_cannot_be_read_is_one_sentence(fields, words, tmp_path):
    assert words in complaint(tmp_path, fields)


def test_a_tokenizer_larger_than_the_embedding_is_of_another_model(tmp_path):
    file = file_of(tmp_path, small_bpe())
    with pytest.raises(TokenizerError, match="the model's embedding only 8 rows"):
        load_tokenizer(file, expected_vocab=load_checkpoint(file).config.vocab_size)


def test_a_file_that_is_no_gguf_file_is_said_to_be_none(tmp_path):
    (tmp_path / "model.gguf").write_text(json.dumps({}))
    with pytest.raises(CheckpointError, match="should begin with GGUF"):
        load_tokenizer(tmp_path, expected_vocab=8)
