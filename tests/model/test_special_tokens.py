"""BOS, end tokens and the file that decides, against transformers where it has a rule."""

import json
import shutil
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer

from mistral_eval.errors import TokenizerError, UsageError
from mistral_eval.model.export import save_tokenizer
from mistral_eval.model.tiny import tiny_tokenizer_file
from mistral_eval.model.tokenizers.cuts import LLAMA_SPLIT, TEKKEN_SPLIT
from mistral_eval.model.tokenizers.incremental import PrefixEncoder
from mistral_eval.model.tokenizers.special import TokenizerArgs, split_tokenizer_args
from mistral_eval.model.tokenizers.tokenizer import load_tokenizer, prefix_id

V1 = tiny_tokenizer_file()
V1_ROWS = 32000
ROWS = 320  # of the small tokenizer that is trained here: control ids, bytes, pieces
WORD = 300
TEXTS = ["", "A", "  def f(x):\n\treturn x  # é 日本", "<s>[INST] hi</s>"]


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    """A folder with a small tokenizer.model and the tokenizer.json that our writer makes of it."""
    work, folder = tmp_path_factory.mktemp("training"), tmp_path_factory.mktemp("original")
    text = "of the man and of the woman of the house, and so on of the other one. Question: A B"
    (work / "sentences.txt").write_text("\n".join([text] * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(work / "sentences.txt"),
        model_prefix=str(work / "made"),
        vocab_size=ROWS,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    save_tokenizer(work / "made.model", folder)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    """A copy of `original` that a test may change."""
    return Path(shutil.copytree(original, tmp_path / "model"))


def change(file, **fields):
    """Set top-level fields of a JSON file."""
    content = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**content, **fields}))


def without_bos(folder):
    change(folder / "tokenizer.json", post_processor=None)


def add_word(folder, text, *, special, number=ROWS):
    """Add a token to tokenizer.json, as `add_tokens` of transformers does."""
    token = {"id": number, "content": text, "special": special, "single_word": False}
    token |= {"lstrip": False, "rstrip": False, "normalized": False}
    content = json.loads((folder / "tokenizer.json").read_text())
    change(folder / "tokenizer.json", added_tokens=[*content["added_tokens"], token])


@pytest.mark.parametrize(
    ("processed", "configured", "family", "model_file"),
    [
        (True, None, "mistral", True),
        (True, False, "llama", True),
        (True, False, "mistral", False),
        (False, None, "llama", True),
        (False, True, "mistral", True),
        (False, True, "llama", False),
    ],
)
def test_bos_is_added_where_transformers_adds_it(folder, processed, configured, family, model_file):
    """Only tokenizer.json's post-processor counts; a file that says otherwise is named."""
    if not processed:
        without_bos(folder)
    if configured is not None:
        change(folder / "tokenizer_config.json", add_bos_token=configured)
    if not model_file:
        (folder / "tokenizer.model").unlink()
    change(folder / "config.json", model_type=family, vocab_size=ROWS)

    ours = load_tokenizer(folder, expected_vocab=ROWS)

    assert ours.adds_bos == processed
    theirs = AutoTokenizer.from_pretrained(folder)
    for text in TEXTS[:3]:
        assert ours.encode(text, bos=ours.adds_bos) == theirs.encode(text)
    note = ours.notes[-1]
    assert "tokenizer.json's post-processor" in note
    assert ("has no effect" in note) == (configured is not None and configured != processed)


@pytest.mark.parametrize(("configured", "adds"), [(None, True), (True, True), (False, False)])
def test_a_bare_tokenizer_model_keeps_bos_unless_its_config_says_no(
    original, tmp_path, configured, adds
):
    """The paper's models; transformers 5.23 adds none, Mistral's code does."""
    shutil.copyfile(original / "tokenizer.model", tmp_path / "tokenizer.model")
    if configured is not None:
        change(tmp_path / "tokenizer_config.json", add_bos_token=configured)

    tokenizer = load_tokenizer(tmp_path, expected_vocab=ROWS)

    assert tokenizer.adds_bos == adds
    assert len(tokenizer.notes) == 1


@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("processed", [True, False])
def test_the_argument_decides_about_bos(folder, processed, adds):
    if not processed:
        without_bos(folder)

    tokenizer = load_tokenizer(folder, expected_vocab=ROWS, args=TokenizerArgs(adds_bos=adds))

    assert tokenizer.adds_bos == adds
    assert tokenizer.notes[-1].endswith("(by --model-args add_bos_token)")


def test_bos_that_no_file_names_cannot_be_asked_for(folder):
    without_bos(folder)
    (folder / "tokenizer.model").unlink()
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    plain = load_tokenizer(folder, expected_vocab=ROWS)
    assert (plain.bos_id, prefix_id(plain)) == (None, plain.eos_id)
    with pytest.raises(TokenizerError, match="needs BOS, and no file names one"):
        load_tokenizer(folder, expected_vocab=ROWS, args=TokenizerArgs(adds_bos=True))

    change(folder / "config.json", bos_token_id=1)

    asked = load_tokenizer(folder, expected_vocab=ROWS, args=TokenizerArgs(adds_bos=True))
    assert (asked.bos_id, asked.encode("A", bos=True)[0]) == (1, 1)


def test_a_post_processor_that_opens_with_several_ids_is_an_error(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    single = content["post_processor"]["single"]
    content["post_processor"]["single"] = [single[0], *single]
    (folder / "tokenizer.json").write_text(json.dumps(content))

    with pytest.raises(TokenizerError, match=r"puts the ids \[1, 1\] before a text"):
        load_tokenizer(folder, expected_vocab=ROWS)


@pytest.mark.parametrize("adds", [True, False])
@settings(max_examples=60)
@given(
    texts=st.lists(
        st.tuples(st.integers(0, 40), st.text(alphabet="ab A\n.:é'", max_size=12)),
        min_size=1,
        max_size=6,
    )
)
def test_the_fast_encoder_is_right_with_and_without_bos(original, adds, texts):
    tokenizer = load_tokenizer(original, expected_vocab=ROWS, args=TokenizerArgs(adds_bos=adds))
    encoder, text = PrefixEncoder(tokenizer), "Question: a b\nAnswer: c d \n\nQuestion: e  f"
    for kept, more in texts:
        text = text[:kept] + more
        expected = tuple(tokenizer.encode(text, bos=adds))
        assert (expected[:1] == (1,)) == adds
        assert encoder.encode_beside(text) == expected
        assert encoder.encode(text) == expected


END = ROWS
ENDS = {
    "none": ({}, {}, (2,)),
    "numbers": ({"eos_token_id": 2}, {"eos_token_id": 2}, (2,)),
    "a list": ({"eos_token_id": [2, END]}, {"eos_token_id": 2}, (2, END)),
    "only generation_config": ({"eos_token_id": END}, {}, (2, END)),
    "only config": ({}, {"eos_token_id": [END, 2]}, (2, END)),
    "each another": ({"eos_token_id": 0}, {"eos_token_id": END}, (2, 0, END)),
    "null and -1": ({"eos_token_id": None}, {"eos_token_id": -1}, (2,)),
    "nested": ({}, {"text_config": {"eos_token_id": END}}, (2, END)),
    "a word": ({"eos_token_id": [2, WORD]}, {}, (2, WORD)),
    "a word in config alone": ({}, {"eos_token_id": WORD}, (2, WORD)),
    "a default that was saved": ({"eos_token_id": [2]}, {"eos_token_id": WORD}, (2,)),
    "beyond the rows": ({"eos_token_id": 40000}, {}, (2, 40000)),
}


@pytest.mark.parametrize("name", ENDS)
def test_every_end_token_that_a_file_names_counts(folder, name):
    generation, config, expected = ENDS[name]
    add_word(folder, "<end>", special=True)
    change(folder / "generation_config.json", **generation)
    change(folder / "config.json", **config)

    tokenizer = load_tokenizer(folder, expected_vocab=ROWS + 1)

    assert (tokenizer.eos_id, tokenizer.eos_ids) == (2, expected)
    told = [note for note in tokenizer.notes if "generation" in note]
    is_dropped = name == "a default that was saved"
    assert len(told) == len(expected) - 1 + is_dropped
    assert all("config.json" in note for note in told)
    assert sum(f"{WORD} (" in note for note in told) == ("a word" in name or is_dropped)


@pytest.mark.parametrize("value", [True, "</s>", [2, "x"], {"id": 2}])
@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_an_end_token_that_is_no_id_is_an_error(folder, file, value):
    change(folder / file, eos_token_id=value)

    with pytest.raises(TokenizerError, match="should be null, a token id or a list of these"):
        load_tokenizer(folder, expected_vocab=ROWS)


def swap(folder):
    """Exchange two words' ids in tokenizer.json."""
    content = json.loads((folder / "tokenizer.json").read_text())
    words = content["model"]["vocab"]
    left, right = (word for word, number in words.items() if number in (263, 264))
    words[left], words[right] = words[right], words[left]
    (folder / "tokenizer.json").write_text(json.dumps(content))


def forget_merges(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["merges"] = content["model"]["merges"][:3]
    (folder / "tokenizer.json").write_text(json.dumps(content))


def other_version(folder):
    shutil.copyfile(V1, folder / "tokenizer.model")


@pytest.mark.parametrize("make", [swap, forget_merges, other_version])
def test_a_stale_tokenizer_model_is_told_and_tokenizer_json_read(folder, make):
    make(folder)

    tokenizer = load_tokenizer(folder, expected_vocab=V1_ROWS)

    assert tokenizer.kind == "tokenizers"
    assert "tokenizer.model and tokenizer.json differ" in tokenizer.notes[0]
    text = "of the man and of the other woman: A B"
    theirs = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.encode(text, bos=True) == theirs.encode(text)
    chosen = TokenizerArgs(file=folder / "tokenizer.model")
    other = load_tokenizer(folder, expected_vocab=V1_ROWS, args=chosen)
    assert other.kind == "sentencepiece"
    assert other.encode(text, bos=True) != tokenizer.encode(text, bos=True)


def test_a_tiktoken_tokenizer_model_gives_way_to_tokenizer_json(folder):
    """Llama 3's folders hold both."""
    (folder / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\nIw== 2\n")
    assert load_tokenizer(folder, expected_vocab=ROWS).kind == "tokenizers"

    (folder / "tokenizer.json").unlink()

    with pytest.raises(TokenizerError, match=r"tiktoken's format.*tokenizer\.json there"):
        load_tokenizer(folder, expected_vocab=ROWS)


def test_special_tokens_beyond_the_embedding_are_legal(folder):
    """As Code Llama's infilling tokens in a vocabulary of 32000."""
    for place in range(4):
        add_word(folder, f"<fill {place}>", special=True, number=ROWS + place)

    for path in (folder, folder / "tokenizer.json"):
        tokenizer = load_tokenizer(path, expected_vocab=ROWS)
        assert tokenizer.n_words == ROWS
        assert tokenizer.notes[-1].startswith("4 special tokens have no embedding row")
        assert PrefixEncoder(tokenizer).encode("<fill 2>")[0] == 1


def test_an_ordinary_word_beyond_the_embedding_is_an_error(folder):
    add_word(folder, "<end>", special=False)

    with pytest.raises(TokenizerError, match=f"has {ROWS + 1} ids and the model's embedding"):
        load_tokenizer(folder, expected_vocab=ROWS)


def test_bos_beyond_the_embedding_is_an_error_only_if_it_is_added(folder):
    add_word(folder, "<bos>", special=True)
    change(folder / "tokenizer_config.json", bos_token="<bos>")
    without_bos(folder)
    tokenizer = load_tokenizer(folder / "tokenizer.json", expected_vocab=ROWS)
    assert (tokenizer.adds_bos, tokenizer.bos_id, prefix_id(tokenizer)) == (False, None, 2)

    with pytest.raises(TokenizerError, match="BOS has the id 320 and the model's embedding"):
        load_tokenizer(folder, expected_vocab=ROWS, args=TokenizerArgs(adds_bos=True))


@pytest.mark.parametrize(
    ("given_args", "adds"),
    [({}, None), ({"add_bos_token": "False"}, False), ({"add_bos_token": True}, True)],
)
def test_model_args_of_the_tokenizer_are_taken_out(given_args, adds):
    args, rest = split_tokenizer_args({**given_args, "rope_theta": "1"})

    assert (args.adds_bos, rest) == (adds, {"rope_theta": "1"})


@pytest.mark.parametrize("bad", [{"add_bos_token": "maybe"}, {"tokenizer": "/nowhere/at/all"}])
def test_model_args_of_the_tokenizer_are_checked(bad):
    with pytest.raises(UsageError, match="should"):
        split_tokenizer_args(bad)


SPLIT_NOTE = "splits words by another expression than Mistral's tekken"


@pytest.mark.parametrize(
    ("pattern", "family", "size", "is_told"),
    [
        (LLAMA_SPLIT, "mistral", 131072, True),
        (LLAMA_SPLIT, "ministral", 131073, True),
        (TEKKEN_SPLIT, "mistral", 131072, False),
        (LLAMA_SPLIT, "llama", 131072, False),
        (LLAMA_SPLIT, "mistral", 50000, False),
    ],
)
def test_a_mistral_with_another_split_expression_is_told(tmp_path, pattern, family, size, is_told):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<s>", "</s>", *letters, *(f"filler{n}" for n in range(size - 2 - len(letters)))]
    backend = Backend(models.BPE(vocab={word: n for n, word in enumerate(words)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>", "</s>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    change(tmp_path / "tokenizer_config.json", bos_token="<s>", eos_token="</s>")
    change(tmp_path / "config.json", model_type=family)

    tokenizer = load_tokenizer(tmp_path, expected_vocab=size)

    assert any(SPLIT_NOTE in note for note in tokenizer.notes) == is_told
    assert not tokenizer.adds_bos
