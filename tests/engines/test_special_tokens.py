"""BOS and end tokens: the native and the hf engine decide alike, as lm-eval's model would."""

import json

import pytest
from lm_eval.models.huggingface import HFLM

from mistral_eval.engines.hf import open_hf
from mistral_eval.engines.keys import reply_key
from mistral_eval.engines.native import open_native
from mistral_eval.model.export import save_hf
from mistral_eval.model.tiny import make_tiny, tiny_tokenizer_file

PAIRS = [("Question: why?\nAnswer:", " because"), ("", "It is"), ("a ", "b"), ("x", " 2 and 3")]
TEXTS = ["It is one short line.", "def f(x):\n    return x\n"]
GREEDY = {"until": [], "max_gen_toks": 6, "do_sample": False}
PROMPT = "Q: 6 times 7?\nA:"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The tiny model with a tokenizer.json that adds no BOS."""
    path = save_hf(make_tiny(), tmp_path_factory.mktemp("m"), tokenizer_file=tiny_tokenizer_file())
    file = path / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "post_processor": None}))
    return path


@pytest.fixture(scope="module")
def native(folder):
    return open_native(str(folder))


def values(engine, asks):
    found = dict(engine.answer([engine.encode(one) for one in asks]))
    return [found[place].logprob for place in range(len(asks))]


def test_without_bos_both_engines_score_as_lm_eval_does(folder, native, ask, instance):
    """Choices, an empty context and whole texts, where lm-eval puts BOS in front."""
    theirs = HFLM(pretrained=str(folder), device="cpu", dtype="float32")
    hf = open_hf(str(folder), device="cpu")
    scores = [score for score, _ in theirs.loglikelihood([instance(*pair) for pair in PAIRS])]
    rolled = theirs.loglikelihood_rolling([instance(text, kind="rolling") for text in TEXTS])

    for engine in (native, hf):
        assert values(engine, [ask(*pair) for pair in PAIRS]) == pytest.approx(scores, abs=1e-3)
        whole = [ask(text, kind="rolling") for text in TEXTS]
        assert values(engine, whole) == pytest.approx(rolled, abs=1e-3)
        assert "no BOS is added (by tokenizer.json's post-processor)" in engine.identity.notes
    with_bos = open_native(str(folder), model_args={"add_bos_token": "true"})
    assert values(with_bos, [ask(*PAIRS[0])]) != pytest.approx(scores[:1], abs=1e-3)
    assert with_bos.encode_pair(*PAIRS[0])[0] == (1, *native.encode_pair(*PAIRS[0])[0])


def test_a_context_without_ids_becomes_the_prefix_token(native, ask):
    assert native.encode_pair("", " A") == ((1,), (28705, 330))
    assert native.encode_pair("  ", "A")[0] == (1,)
    assert native.encode(ask("", GREEDY, kind="generate")).work.prompt == (1,)
    assert native.encode_pair("a", "b")[0] == (1,)  # both are one token


def reply(engine, ask):
    ((_, found),) = engine.answer([engine.encode(ask(PROMPT, GREEDY, kind="generate"))])
    return found


def test_both_engines_stop_at_every_end_token_that_a_file_names(folder, native, ask):
    """One that is an ordinary word, whose text the reply does not show; the key tells."""
    free = reply(native, ask)
    assert (len(free.ids), free.finish) == (6, "length")
    end = free.ids[3]
    cut = free.ids.index(end)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, end]}))
    try:
        ending, hf = open_native(str(folder)), open_hf(str(folder), device="cpu")
    finally:
        (folder / "generation_config.json").unlink()

    ended = reply(ending, ask)

    assert (ended.ids, ended.finish) == (free.ids[:cut], "eos")
    assert reply(hf, ask).text == ended.text
    one = ask(PROMPT, GREEDY, kind="generate")
    assert reply_key(native.identity, native.encode(one)) != reply_key(
        ending.identity, ending.encode(one)
    )
    assert not ending.check(ending.encode(one), ended).fault
