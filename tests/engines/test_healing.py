"""A healed prompt's reply is the one that the joined tokens give."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mistral_eval.data.sources import make_source
from mistral_eval.engines.hf import open_hf
from mistral_eval.engines.interface import Encoded, EngineIdentity, Reply
from mistral_eval.engines.keys import reply_key
from mistral_eval.engines.native import NativeEngine, open_native
from mistral_eval.engines.native_encoder import HEALED, NativeEncoder
from mistral_eval.model.attention import SequencesAttend
from mistral_eval.model.tiny import tiny_tokenizer_file
from mistral_eval.model.tokenizers.tokenizer import ANY_VOCAB, load_tokenizer
from mistral_eval.run.questions import Asking, load_benchmarks
from mistral_eval.settings import RunSettings
from tests.byte_level import BREAK, CONFIG, WORDS, save_model

PROMPTS = [f'def {name}(x):\n    """Do {name}."""\n' for name in ("f", "add", "cut", "de", "rx")]
GREEDY = {"until": [], "max_gen_toks": 6, "do_sample": False}
SAMPLED = {**GREEDY, "do_sample": True, "temperature": 0.8, "top_p": 0.9}
BREAKS = [number for number, word in enumerate(WORDS) if word.startswith(BREAK)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("joining"))


@pytest.fixture(scope="module")
def engine(folder) -> NativeEngine:
    return open_native(str(folder), device="cpu")


def plainly(engine: NativeEngine, prompt: str, steps: int) -> list[int]:
    """Greedy ids after all but the prompt's last one, the first beginning with a line break.

    Every step computes the whole sequence anew.
    """
    model, fed = engine.runner.model, engine.tokenizer.encode(prompt, bos=False)[:-1]
    start = len(fed)
    for step in range(steps):
        attend = SequencesAttend([len(fed)], CONFIG.sliding_window, model.dtype, model.device)
        hidden = model.hidden(torch.tensor(fed), torch.arange(len(fed)), attend)
        logits = model.logits(hidden[-1:])[0].tolist()
        ids = range(len(logits)) if step else BREAKS
        best = max(ids, key=logits.__getitem__)
        if best in engine.tokenizer.eos_ids:
            break
        fed.append(best)
    return fed[start:]


def answered(engine: NativeEngine, requests, known=()) -> dict[int, Reply]:
    return dict(engine.answer([engine.encode(request) for request in requests], known))


def as_it_ends(encoded: Encoded, engine: NativeEngine) -> Encoded:
    """A healed request with its whole prompt, as it would be asked without healing."""
    work, (dropped,) = encoded.work, engine.tokenizer.encode(encoded.healed, bos=False)
    prompt = (*work.prompt, dropped)
    whole = replace(work, prompt=prompt, max_tokens=work.max_tokens - 1, first=(), is_done=None)
    return replace(encoded, healed="", work=whole)


def test_a_greedy_reply_is_the_best_of_the_joined_tokens(engine, ask):
    """By brute force; some replies begin with a joined token and none repeats the line break."""
    found = answered(engine, [ask(prompt, GREEDY, kind="generate") for prompt in PROMPTS])
    firsts = set()
    for n, prompt in enumerate(PROMPTS):
        expected = plainly(engine, prompt, GREEDY["max_gen_toks"] + 1)
        assert list(found[n].ids) == expected
        whole = engine.tokenizer.decode(engine.tokenizer.encode(prompt, bos=False)[:-1] + expected)
        assert prompt + found[n].text == whole
        firsts.add(WORDS[expected[0]])
    assert len(firsts) > 1
    assert firsts != {BREAK}


def test_the_line_break_alone_may_be_drawn_again(engine, ask):
    """Then the reply is the one that the unhealed prompt has, all of its tokens included."""
    request = ask(PROMPTS[0], GREEDY, kind="generate")
    healed = engine.encode(request)
    alone = replace(healed, work=replace(healed.work, first=(WORDS.index(BREAK),)))
    whole = as_it_ends(healed, engine)
    (_, one), (_, other) = (*engine.answer([alone]), *engine.answer([whole]))
    assert one.text == other.text
    assert one.ids == (WORDS.index(BREAK), *other.ids)


@pytest.mark.parametrize("settings", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_replies_depend_on_no_batch_and_are_the_plain_twins(folder, engine, ask, settings):
    requests = [
        ask(prompt, settings, kind="generate", doc_id=n, sample=sample)
        for n, prompt in enumerate(PROMPTS)
        for sample in range(3 if settings is SAMPLED else 1)
    ]
    together = answered(engine, requests)
    for batch_tokens in (1, 7):
        other = open_native(str(folder), device="cpu", batch_tokens=batch_tokens)
        assert answered(other, requests) == together
    half = set(range(0, len(requests), 2))
    rest = answered(engine, requests, half)
    assert rest == {n: reply for n, reply in together.items() if n not in half}
    for n, request in enumerate(requests):
        assert together[n].ids[0] in BREAKS
        assert engine.check(engine.encode(request), together[n]).fault == ""


def test_a_first_token_that_may_not_be_drawn_is_a_fault(engine, ask):
    encoded = engine.encode(ask(PROMPTS[0], GREEDY, kind="generate"))
    ((_, reply),) = engine.answer([encoded])
    other = replace(reply, ids=(WORDS.index("x"), *reply.ids[1:]))
    assert "step 0" in engine.check(encoded, other).fault


@pytest.mark.parametrize("stop", ["\n", "\n\n", "x", " "])
def test_stops_are_searched_after_the_prompts_end(engine, ask, stop):
    """The line break that is drawn again belongs to the prompt and ends nothing."""
    long = {**GREEDY, "max_gen_toks": 20}
    for prompt in PROMPTS:
        until = {**long, "until": [stop]}
        found = answered(engine, [ask(prompt, one, kind="generate") for one in (long, until)])
        assert found[1].text == found[0].text.partition(stop)[0]


def test_a_healed_prompt_shares_no_reply_with_another(engine, ask):
    """With the shorter prompt, or with the same prompt under another rule."""
    healed = engine.encode(ask("abc\n", GREEDY, kind="generate"))
    shorter = engine.encode(ask("abc", GREEDY, kind="generate"))
    twice = engine.encode(ask("abc\n\n", GREEDY, kind="generate"))
    assert healed.work.prompt == shorter.work.prompt == twice.work.prompt
    assert (healed.healed, shorter.healed, twice.healed) == ("\n", "", "\n\n")
    keys = {reply_key(engine.identity, encoded) for encoded in (healed, shorter, twice)}
    assert len(keys) == 3
    assert healed.parts == engine.encode(ask("abc\n", GREEDY, kind="generate")).parts


def test_length_is_that_of_the_unhealed_prompt(engine, ask, again):
    """A prompt is cut where it would be, and the reply has all of its tokens."""
    short = again(engine, context_len=16)
    encoded = short.encode(ask(PROMPTS[0], GREEDY, kind="generate"))
    assert encoded.truncated
    assert len(encoded.work.prompt) + encoded.work.max_tokens == 16
    ((_, reply),) = short.answer([encoded])
    assert len(reply.ids) in range(1, 8)
    for settings in ({**GREEDY, "max_gen_toks": 15}, {**GREEDY, "max_gen_toks": 0}):
        assert not short.encode(ask(PROMPTS[0], settings, kind="generate")).healed


def test_the_hf_engine_says_that_it_does_not_heal(folder, ask):
    hf = open_hf(str(folder), device="cpu")
    assert "--engine native heals it" in hf.encode(ask(PROMPTS[0], GREEDY, kind="generate")).remark
    assert not hf.encode(ask("Answer:", GREEDY, kind="generate")).remark


GENERATED = ("nq", "triviaqa", "humaneval", "mbpp", "math", "gsm8k")
PACKAGE = tiny_tokenizer_file().parent
MISTRALS = sorted(
    file.name
    for file in PACKAGE.iterdir()
    if ".model.v" in file.name or file.name.startswith("tekken")
)


@pytest.fixture(scope="module")
def sample_requests():
    """Every generated benchmark's requests of the bundled sample, one for each prompt."""
    settings = RunSettings(tasks=GENERATED, model="tiny", data="sample")
    asking = Asking.of(settings, make_source("sample"))
    loaded = load_benchmarks(settings.own_tasks, asking)
    return [question.requests[0] for benchmark in loaded for question in benchmark.questions]


@pytest.mark.parametrize("name", MISTRALS)
def test_mistrals_own_ids_are_the_whole_prompts(sample_requests, name):
    tokenizer = load_tokenizer(PACKAGE / name, expected_vocab=ANY_VOCAB)
    encoder = NativeEncoder(tokenizer, 32768, 0, EngineIdentity("native"))
    assert len(sample_requests) > 90
    assert sum(request.context.endswith("\n") for request in sample_requests) >= 32
    for request in sample_requests:
        encoded = encoder.encode(request)
        assert (encoded.healed, encoded.remark, encoded.work.first) == ("", "", ())
        assert encoded.work.prompt == tuple(tokenizer.encode(request.context, bos=True))
        assert encoded.work.max_tokens == request.generation.max_tokens


TRAINED = os.environ.get("MISTRAL_EVAL_TRAINED")


@pytest.mark.skipif(not TRAINED, reason="MISTRAL_EVAL_TRAINED names no SmolLM2 GGUF file")
def test_a_trained_model_writes_bodies(sample_requests):
    """HumanEval's sample: an indented line begins most replies, and unhealed almost none."""
    trained = open_native(str(Path(TRAINED or "")), device="cpu")
    requests = [
        replace(one, settings=replace(one.generation, max_tokens=8))
        for one in sample_requests
        if one.benchmark == "humaneval"
    ]
    encoded = [trained.encode(request) for request in requests]
    assert {item.remark for item in encoded} == {HEALED}
    healed = dict(trained.answer(encoded)).values()
    unhealed = dict(trained.answer([as_it_ends(item, trained) for item in encoded])).values()
    assert sum(reply.text.startswith("    ") for reply in healed) >= 15
    assert not any(reply.text.startswith("    ") for reply in unhealed)
