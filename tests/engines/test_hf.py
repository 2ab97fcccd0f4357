"""lm-eval's hf model behind our interface, and our rolling scores against its own."""

import pytest
from lm_eval.models.huggingface import HFLM

from mistral_eval.engines.hf import HFEngine, open_hf
from mistral_eval.engines.keys import reply_key
from mistral_eval.model.export import save_hf
from mistral_eval.model.tiny import make_tiny, tiny_tokenizer_file

TEXTS = [
    "",
    "One short line.",
    "    indented = [1, 2, 3]  # and é, 漢, 😀\n" * 3,
    "The quick brown fox jumps over the lazy dog, again and again. " * 12,
]


@pytest.fixture(scope="module")
def hf():
    return open_hf("tiny", device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    return save_hf(make_tiny(), path, tokenizer_file=tiny_tokenizer_file())


def test_rolling_scores_are_lm_evals_own(tiny, folder, instance, ask, again):
    """In windows of 32 tokens. lm-eval puts BOS in front itself, so its tokenizer must not."""
    theirs = HFLM(
        pretrained=str(folder), device="cpu", dtype="float32", max_length=32, add_bos_token=False
    )
    requests = [instance(text, kind="rolling") for text in TEXTS]
    expected = theirs.loglikelihood_rolling(requests)
    short = again(tiny, context_len=32)
    ours = dict(short.answer([short.encode(ask(text, kind="rolling")) for text in TEXTS]))
    assert [ours[place].logprob for place in range(len(TEXTS))] == pytest.approx(
        expected, abs=1e-3, rel=1e-6
    )
    assert len(short.encode(ask(TEXTS[-1], kind="rolling")).work) > 5


def test_the_hf_engine_scores_as_the_native_one(hf, tiny, ask):
    """Choices and whole texts: BOS once in both."""
    pairs = [("Question: why?\nAnswer:", " because"), ("", "It is"), ("a ", "b"), ("1 + 1 =", " 2")]
    for asks in (
        [ask(*pair) for pair in pairs],
        [ask(text, kind="rolling") for text in TEXTS[1:]],
    ):
        theirs = dict(hf.answer([hf.encode(one) for one in asks]))
        ours = dict(tiny.answer([tiny.encode(one) for one in asks]))
        for place in range(len(asks)):
            assert theirs[place].logprob == pytest.approx(ours[place].logprob, abs=1e-3)


def test_the_hf_engine_writes_what_the_native_one_writes(hf, tiny, ask):
    """The same greedy text, leading space included."""
    settings = {"until": [], "max_gen_toks": 12, "do_sample": False}
    asks = [
        ask(prompt, settings, kind="generate")
        for prompt in ("Q: 6 times 7?\nA:", "def f():\n", "é 漢")
    ]
    theirs = dict(hf.answer([hf.encode(one) for one in asks]))
    ours = dict(tiny.answer([tiny.encode(one) for one in asks]))
    assert [theirs[n].text for n in range(3)] == [ours[n].text for n in range(3)]


def test_every_key_of_hf_has_a_seed_and_a_drawn_replys_its_name(hf, ask):
    def key(engine, sample, **settings):
        one = ask("q", {"until": [], **settings}, sample=sample, kind="generate")
        return reply_key(engine.identity, engine.encode(one))

    other = HFEngine(hf.lm, 1, hf.identity)
    assert key(hf, 0) == key(hf, 1) != key(other, 0)
    drawn = {key(hf, 0, do_sample=True), key(hf, 1, do_sample=True), key(other, 0, do_sample=True)}
    assert len(drawn) == 3
