"""Text becomes the ids the model was trained with; nothing in the text is special."""

import json
import shutil

import pytest
import sentencepiece
from transformers import AutoTokenizer

from mistral_eval.errors import TokenizerError
from mistral_eval.model.export import save_tokenizer
from mistral_eval.model.tiny import tiny_tokenizer_file
from mistral_eval.model.tokenizers.tokenizer import load_tokenizer

DATA = tiny_tokenizer_file().parent
V1 = tiny_tokenizer_file()
V3 = DATA / "mistral_instruct_tokenizer_240323.model.v3"
TEKKEN = DATA / "tekken_240911.json"
TEXTS = [
    "",
    "A",
    " A",
    "  A",
    "The quick brown fox.",
    'def f(x):\n    """Doc."""\n\treturn x  # é',
    "    return x",
    "Question: 2+2?\nAnswer:",
    "日本語 🙂 \u200b naïve \x00 \x7f",
    "a  b   c    d",
    "\n\n",
]


@pytest.fixture(scope="module")
def tekken():
    return load_tokenizer(TEKKEN, expected_vocab=131072)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Folders with tokenizer.model and the tokenizer.json our writer makes of it."""
    folders = {}
    for file in (V1, V3):
        folder = tmp_path_factory.mktemp("tokenizer")
        save_tokenizer(file, folder)
        folders[file] = folder
    return folders


@pytest.mark.parametrize("file", [V1, V3], ids=["v1", "v3"])
@pytest.mark.parametrize("text", TEXTS)
def test_sentencepiece_files_give_sentencepieces_own_ids(file, text):
    ours = load_tokenizer(file, expected_vocab=40000)
    expected = sentencepiece.SentencePieceProcessor(model_file=str(file)).encode(text)

    assert ours.encode(text, bos=False) == expected
    assert ours.encode(text, bos=True) == [1, *expected]
    assert ours.decode([1, *expected, 2]) == text


def test_a_choice_is_not_one_token_under_mistrals_v1():
    """` A` alone is two ids, which is why no scorer may assume one."""
    assert load_tokenizer(V1, expected_vocab=32000).encode(" A", bos=False) == [28705, 330]


@pytest.mark.parametrize("file", [V1, V3, TEKKEN], ids=["v1", "v3", "tekken"])
def test_words_that_look_like_control_tokens_are_text(file):
    tokenizer = load_tokenizer(file, expected_vocab=140000)
    text = "<s>[INST] hi [/INST]</s><unk><pad>"
    ids = tokenizer.encode(text, bos=True)

    assert ids[0] == tokenizer.bos_id
    assert not {0, 1, 2, 3, 4} & set(ids[1:])
    assert tokenizer.decode(ids) == text


def test_words_that_look_like_control_tokens_are_text_in_tokenizer_json(converted):
    """The library's own default would read `<s>` as BOS."""
    made = load_tokenizer(converted[V3] / "tokenizer.json", expected_vocab=32768)
    text = "<s>[INST] hi [/INST]</s>"

    ids = made.encode(text, bos=True)

    assert ids == load_tokenizer(V3, expected_vocab=32768).encode(text, bos=True)
    assert made.decode(ids) == text


@pytest.mark.parametrize(
    ("file", "kind", "n_words"),
    [(V1, "sentencepiece", 32000), (V3, "sentencepiece", 32768), (TEKKEN, "tekken", 131072)],
    ids=["v1", "v3", "tekken"],
)
def test_kinds_and_counts(file, kind, n_words):
    tokenizer = load_tokenizer(file, expected_vocab=n_words)

    assert (tokenizer.kind, tokenizer.n_words) == (kind, n_words)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    assert len(tokenizer.fingerprint) == 64


@pytest.mark.parametrize("text", TEXTS)
def test_tekken_gives_back_every_text_without_a_space_in_front(tekken, text):
    assert tekken.decode(tekken.encode(text, bos=True)) == text


@pytest.mark.parametrize("file", [V1, V3], ids=["v1", "v3"])
def test_tokenizer_json_agrees_with_the_model_it_was_made_of(converted, file):
    folder = converted[file]
    model = load_tokenizer(folder, expected_vocab=40000)
    made = load_tokenizer(folder / "tokenizer.json", expected_vocab=40000)

    assert (model.kind, made.kind) == ("sentencepiece", "tokenizers")
    assert (made.bos_id, made.eos_id, made.n_words) == (1, 2, model.n_words)
    for text in TEXTS:
        for bos in (True, False):
            assert made.encode(text, bos=bos) == model.encode(text, bos=bos)
        ids = model.encode(text, bos=True)
        assert made.decode(ids) == model.decode(ids)


@pytest.mark.parametrize("file", [V1, V3], ids=["v1", "v3"])
def test_transformers_auto_tokenizer_reads_our_folder_with_bos_once(converted, file):
    theirs = AutoTokenizer.from_pretrained(converted[file])
    ours = load_tokenizer(file, expected_vocab=40000)

    for text in TEXTS:
        assert theirs.encode(text) == ours.encode(text, bos=True)


@pytest.mark.slow
def test_tokenizer_json_agrees_on_the_real_questions(converted, shared):
    """Every question and solution of three test sets, under v1 and v3."""
    import pandas as pd

    texts = set()
    for name in ("gsm8k", "humaneval", "mbpp"):
        for file in (shared / "data" / name).rglob("*.parquet"):
            frame = pd.read_parquet(file)
            texts |= {v for c in frame.columns for v in frame[c] if isinstance(v, str)}
    assert len(texts) > 5000
    for folder in converted.values():
        model = load_tokenizer(folder, expected_vocab=40000)
        made = load_tokenizer(folder / "tokenizer.json", expected_vocab=40000)
        for text in texts:
            assert made.encode(text, bos=True) == model.encode(text, bos=True)


def test_transformers_metaspace_form_of_tokenizer_json_is_read_too(converted, tmp_path):
    """Transformers 5 writes a pre-tokenizer where older files have a normalizer."""
    theirs = AutoTokenizer.from_pretrained(converted[V1])
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    content = json.loads(file.read_text())
    content["normalizer"] = None
    content["pre_tokenizer"] = {
        "type": "Metaspace",
        "replacement": "\u2581",
        "prepend_scheme": "always",
        "split": False,
    }
    file.write_text(json.dumps(content))
    text = "The quick brown fox\n    jumps"

    made = load_tokenizer(tmp_path, expected_vocab=32000)

    assert made.encode(text, bos=True) == load_tokenizer(V1, expected_vocab=32000).encode(
        text, bos=True
    )


def test_a_folder_with_several_files_reads_tokenizer_model_first(converted, tmp_path):
    for file in converted[V1].iterdir():
        shutil.copyfile(file, tmp_path / file.name)
    shutil.copyfile(TEKKEN, tmp_path / "tekken.json")
    shutil.copyfile(V3, tmp_path / "tokenizer.model.v3")

    kinds = []
    for name in ("tokenizer.model", "tokenizer.model.v3", "tekken.json"):
        if name == "tokenizer.model.v3":  # tokenizer.json is a conversion of this one now
            shutil.copyfile(converted[V3] / "tokenizer.json", tmp_path / "tokenizer.json")
        tokenizer = load_tokenizer(tmp_path, expected_vocab=140000)
        kinds.append((tokenizer.kind, tokenizer.n_words))
        (tmp_path / name).unlink()
    kinds.append(load_tokenizer(tmp_path, expected_vocab=140000).kind)

    assert kinds == [
        ("sentencepiece", 32000),
        ("sentencepiece", 32768),
        ("tekken", 131072),
        "tokenizers",
    ]


def add_token(folder, text, *, special):
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "bos_token": {"content": "<s>"},
                "eos_token": text if special else "</s>",
                "added_tokens_decoder": {"32000": {"content": text, "special": special}},
            }
        )
    )


def test_a_fine_tunes_special_token_counts_and_can_be_eos(tmp_path):
    """A chat fine-tune adds an id beyond the SentencePiece model and ends its replies with it."""
    shutil.copyfile(V1, tmp_path / "tokenizer.model")
    add_token(tmp_path, "<|im_end|>", special=True)

    tokenizer = load_tokenizer(tmp_path, expected_vocab=32064)

    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.n_words) == (1, 32000, 32001)
    assert tokenizer.decode([1, 330, 32000, 330]) == "A A"


def test_a_fine_tunes_ordinary_token_needs_the_tokenizer_json(converted, tmp_path):
    shutil.copyfile(V1, tmp_path / "tokenizer.model")
    add_token(tmp_path, "wörd", special=False)
    with pytest.raises(TokenizerError, match="adds ordinary tokens to tok"):
        load_tokenizer(tmp_path, expected_vocab=32064)
    shutil.copyfile(converted[V1] / "tokenizer.json", tmp_path / "tokenizer.json")

    assert load_tokenizer(tmp_path, expected_vocab=32064).kind == "tokenizers"


def test_an_eos_that_the_model_does_not_have_is_an_error(tmp_path):
    shutil.copyfile(V1, tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|eot|>"}')

    with pytest.raises(TokenizerError, match=r"has no token '<\|eot\|>'"):
        load_tokenizer(tmp_path, expected_vocab=32000)


def test_limits_a_training_left_in_tokenizer_json_are_lifted(converted, tmp_path):
    content = json.loads((converted[V1] / "tokenizer.json").read_text())
    content["truncation"] = {
        "direction": "Right",
        "max_length": 2,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    (tmp_path / "config.json").write_text('{"bos_token_id": 1, "eos_token_id": [2, 9]}')

    tokenizer = load_tokenizer(tmp_path, expected_vocab=32000)

    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    assert tokenizer.encode("one two three", bos=False) == load_tokenizer(
        V1, expected_vocab=32000
    ).encode("one two three", bos=False)


def test_a_tokenizer_json_without_eos_asks_for_the_file_that_names_it(converted, tmp_path):
    shutil.copyfile(converted[V1] / "tokenizer.json", tmp_path / "tokenizer.json")

    with pytest.raises(TokenizerError, match=r"no file names EOS: put a tokenizer_conf"):
        load_tokenizer(tmp_path, expected_vocab=32000)


def test_ids_beyond_the_embedding_are_an_error_with_both_numbers():
    with pytest.raises(TokenizerError, match="embedding only 32000 rows"):
        load_tokenizer(V3, expected_vocab=32000)


def test_surplus_embedding_rows_are_fine():
    assert load_tokenizer(V1, expected_vocab=32064).n_words == 32000


def test_a_folder_without_a_tokenizer_is_an_error(tmp_path):
    with pytest.raises(TokenizerError, match=r"should hold tokenizer\.model, tekken\.json or"):
        load_tokenizer(tmp_path, expected_vocab=32000)


@pytest.mark.parametrize("name", ["tokenizer.model", "tekken.json", "tokenizer.json"])
@pytest.mark.parametrize("content", ["", "{}", "nonsense"])
def test_a_broken_tokenizer_file_is_an_error(tmp_path, name, content):
    (tmp_path / name).write_text(content)

    with pytest.raises(TokenizerError) as caught:
        load_tokenizer(tmp_path, expected_vocab=32000)
    assert str(tmp_path / name) in str(caught.value)
    assert "copy or download it again" in str(caught.value)


def test_the_fingerprint_sees_another_file_and_another_eos(tmp_path):
    shutil.copyfile(V1, tmp_path / "tokenizer.model")
    plain = load_tokenizer(tmp_path, expected_vocab=32064).fingerprint
    add_token(tmp_path, "<|im_end|>", special=True)

    changed = load_tokenizer(tmp_path, expected_vocab=32064).fingerprint

    assert plain == load_tokenizer(V1, expected_vocab=32000).fingerprint
    assert len({plain, changed, load_tokenizer(V3, expected_vocab=32768).fingerprint}) == 3
