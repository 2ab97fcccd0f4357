"""The server engine against a server whose values are a real model's: equal to the native engine.

Then servers that do something wrong: each is worked around with the same values and a note, or
what cannot be had exactly is refused.
"""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from mistral_eval.engines.interface import EngineIdentity, engine_class
from mistral_eval.engines.keys import reply_key
from mistral_eval.engines.native import NativeEngine, open_native
from mistral_eval.engines.native_encoder import HEALED, NOT_HEALED
from mistral_eval.engines.server import ServerEngine
from mistral_eval.engines.server_body import seed_of
from mistral_eval.errors import EngineError, MistralEvalError, UnansweredError, UsageError
from mistral_eval.model.tokenizers.incremental import continuation_text
from mistral_eval.native.requests import Sampling
from mistral_eval.settings import RunSettings
from tests.byte_level import save_model
from tests.stub_server import BigramModel, Fault, NativeModel, Quirks, Stub

EXACT = 3e-4  # nats
PAIRS = [
    ("Question: why?\nAnswer:", " because it is so"),
    ("Question: why?\nAnswer:", " A"),
    ("Question: why?\nAnswer:", " B"),
    ("", "It is"),
    ("a ", "b"),
    ("1 + 1 =", " 2"),
    ("def f():\n", "    return 1"),
]
PROMPTS = ["Q: 6 times 7?\nA:", "def f():\n", "\u00e9 \u6f22", "The capital of France is"]
GREEDY = {"until": ["\n\n", "Q:"], "max_gen_toks": 24, "do_sample": False}
DRAWN = {**GREEDY, "do_sample": True, "temperature": 1.0, "top_p": 0.95}


def settings_of(stub: Stub, model: str = "tiny", **args) -> RunSettings:
    return RunSettings(
        tasks=("gsm8k",),
        model=model,
        engine="server",
        base_url=stub.url,
        model_args={"max_retries": 1, **args},
    )


def open_server(stub: Stub, model: str = "tiny", **args) -> ServerEngine:
    settings = settings_of(stub, model, **args)
    engine = engine_class("server").open(settings, None, lambda text: None)
    assert isinstance(engine, ServerEngine)
    return engine


def answers(engine, asks) -> list:
    found = dict(engine.answer([engine.encode(one) for one in asks]))
    return [found[place] for place in range(len(asks))]


def same_scores(server, native, asks) -> None:
    theirs, ours = answers(server, asks), answers(native, asks)
    for one, other in zip(theirs, ours, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=EXACT)
        assert one.is_greedy == other.is_greedy


@pytest.fixture(scope="module")
def real(tiny) -> NativeModel:
    return NativeModel(tiny)


@pytest.fixture(scope="module")
def well(real):
    """A well-behaved server, and the engine that asks it."""
    with Stub(real, Quirks(max_model_len=8192)) as stub:
        yield stub, open_server(stub)


def scores(ask):
    return [ask(*pair, idx=n) for n, pair in enumerate(PAIRS)]


def test_log_likelihoods_are_the_native_engines(well, tiny, ask):
    _, engine = well
    same_scores(engine, tiny, scores(ask))
    whole = [ask("One short line. " * 9, kind="rolling")]
    (theirs,), (ours,) = answers(engine, whole), answers(tiny, whole)
    assert theirs.logprob == pytest.approx(ours.logprob, abs=EXACT * 40)


def test_the_greedy_continuation_is_known_as_such(well, tiny, ask):
    _, engine = well
    (reply,) = answers(tiny, [ask(PROMPTS[0], GREEDY, kind="generate")])
    asks = [ask(PROMPTS[0], reply.text), ask(PROMPTS[0], reply.text[:-1] + "#")]
    same_scores(engine, tiny, asks)


def test_choices_of_one_token_share_a_request(well, tiny, ask):
    stub, engine = well
    before = len(stub.asked)
    asks = [ask("Question: why?\nAnswer:", f" {one}", idx=n) for n, one in enumerate("ABCD")]
    same_scores(engine, tiny, asks)
    assert len(stub.asked) == before + 1


def test_greedy_replies_have_the_native_engines_ids(well, tiny, ask):
    _, engine = well
    asks = [ask(prompt, GREEDY, kind="generate") for prompt in PROMPTS]
    for theirs, ours in zip(answers(engine, asks), answers(tiny, asks), strict=True):
        assert (theirs.ids, theirs.text, theirs.finish) == (ours.ids, ours.text, ours.finish)


def test_eight_samples_are_eight_draws_and_repeat(well, ask):
    stub, engine = well
    asks = [ask(PROMPTS[0], DRAWN, sample=n, kind="generate") for n in range(8)]
    first = answers(engine, asks)
    assert len({reply.text for reply in first}) == 8
    assert [reply.text for reply in answers(engine, asks)] == [reply.text for reply in first]
    seeds = [one["seed"] for one in stub.asked[-16:]]
    assert len(set(seeds)) == 8


def test_seeds_of_neighbouring_runs_and_samples_are_not_neighbours():
    seeds = [
        seed_of(seed, f"gsm8k|{n}|{k}") for seed in (42, 43) for n in range(50) for k in range(8)
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 1 << 31 for seed in seeds)
    steps = {abs(left - right) for left, right in pairwise(seeds)}
    assert min(steps) > 100


def test_keys_differ_with_seed_sample_url_and_model(well, ask):
    _, engine = well

    def key(seed=0, sample=0, identity=None, **settings):
        one = ask("q", {"until": [], **settings}, sample=sample, kind="generate")
        encoder = type(engine).encoder(
            RunSettings(
                tasks=("gsm8k",), model="tiny", engine="server", base_url="http://h", seed=seed
            ),
            engine.identity,
        )
        return reply_key(identity or engine.identity, encoder.encode(one))

    other = replace(engine.identity, weights="http://elsewhere/v1 tiny")
    assert key() == key(sample=1)
    distinct = {key(), key(seed=1), key(identity=other), key(do_sample=True)}
    distinct |= {key(do_sample=True, sample=1), key(do_sample=True, seed=1), key(max_gen_toks=9)}
    assert len(distinct) == 7


def test_requests_are_truncated_on_the_left_to_the_servers_context(real, ask):
    with Stub(real, Quirks(max_model_len=128)) as stub:
        engine = open_server(stub)
        long = "word " * 300
        asks = [ask(long, " end"), ask(long, " two ends")]
        assert [engine.encode(one).truncated for one in asks] == [True, True]
        answers(engine, asks)
        replies = answers(engine, [ask(long, GREEDY, kind="generate")])
        assert replies[0].finish
        with pytest.raises(EngineError, match=r"task: 200 new tokens leave no room .* Leave task"):
            engine.encode(ask(long, {**GREEDY, "max_gen_toks": 200}, kind="generate"))


def test_what_is_not_said_about_the_context_is_asked_for(made_up, tmp_path, tiny):
    with Stub(made_up, Quirks(names=("org/model",), max_model_len=None)) as stub:
        file = tmp_path / "tokenizer.model"
        from mistral_eval.model.tiny import tiny_tokenizer_file

        file.write_bytes(tiny_tokenizer_file().read_bytes())
        with pytest.raises(UsageError, match="Give `--model-args max_length=N`"):
            open_server(stub, "org/model", tokenizer=str(file))
        engine = open_server(stub, "org/model", tokenizer=str(file), max_length=64)
        assert engine.context_len == 64


# ---------------------------------------------------------------- what servers do wrong

WORKED_AROUND = {
    "no list of models": (Quirks(lists=False), "knows it by name"),
    "echo alone": (Quirks(prompt_logprobs=False, choices=False), ""),
    "echo without the generated token": (
        Quirks(prompt_logprobs=False, choices=False, drops_generated=True),
        "",
    ),
    "echo without BOS": (Quirks(prompt_logprobs=False, choices=False, drops_bos=True), "off by 1"),
    "shifted by one": (Quirks(prompt_logprobs=False, choices=False, shift=1), "off by 1"),
    "shifted back": (Quirks(prompt_logprobs=False, choices=False, shift=-1), "off by 1"),
    "a second BOS": (Quirks(bos_before_ids=True), "BOS before token ids too"),
    "fields refused": (Quirks(strict=True), "refuses fields beyond OpenAI's"),
    # llama.cpp's Python server, vLLM before 0.9, SGLang
    "a penalty of its own": (Quirks(penalises=True, refused_top_k=-1), ""),
    "top_k 0 refused": (Quirks(penalises=True, refused_top_k=0), ""),
    "top_k 0 refused for samples": (Quirks(refused_top_k=0, refuses_greedy=False), ""),
    "names of ids": (Quirks(ids="names"), ""),
    "text alone": (Quirks(ids="none"), ""),
    "no counts of tokens": (Quirks(counts=False), "text only"),
    "text prompts, BOS added": (Quirks(takes_ids=False, choices=False), "text only"),
    "text prompts, BOS written": (
        Quirks(takes_ids=False, bos_before_text=False, choices=False),
        "sent as the text <s>",
    ),
    "text prompts, echo without BOS": (
        Quirks(takes_ids=False, prompt_logprobs=False, choices=False, drops_bos=True),
        "text only",
    ),
    "stops kept": (Quirks(stops="kept", ids="none"), ""),
    "stops ignored": (Quirks(stops="ignored"), "ignores stop strings"),
    "one stop string": (Quirks(max_stops=1), ""),
    "no stop strings": (Quirks(max_stops=0), ""),
}


def value(model: BigramModel, native: NativeEngine, one) -> tuple[float, bool]:
    """A continuation's log-likelihood straight from the distribution, and whether it is greedy."""
    context, continuation = native.encode_pair(one.context, one.continuation)
    table = model.logprobs((*context, *continuation))[len(context) - 1 : -1]
    values = [float(row[token]) for row, token in zip(table, continuation, strict=True)]
    tops = [int(row.argmax()) == token for row, token in zip(table, continuation, strict=True)]
    return sum(values), all(tops)


@pytest.mark.parametrize("name", WORKED_AROUND)
def test_what_a_server_does_wrong_is_put_right_with_a_note(made_up, tiny, ask, name):
    quirks, note = WORKED_AROUND[name]
    with Stub(made_up, quirks) as stub:
        engine = open_server(stub)
        said = " ".join(engine.identity.notes)
        assert note in said
        assert "ignores seeds" not in said
        assert engine.can.scores
        assert engine.can.samples
        asks = [one for one in scores(ask) if one.context.strip()]
        likely = ask("Q:", _greedy(made_up, tiny, "Q:", 3))
        for one, reply in zip([*asks, likely], answers(engine, [*asks, likely]), strict=True):
            logprob, is_greedy = value(made_up, tiny, one)
            assert reply.logprob == pytest.approx(logprob, abs=EXACT)
            assert reply.is_greedy == is_greedy
        assert is_greedy
        asks = [ask(prompt, GREEDY, kind="generate") for prompt in PROMPTS]
        for one, reply in zip(asks, answers(engine, asks), strict=True):
            text = _greedy(made_up, tiny, one.context, GREEDY["max_gen_toks"])
            assert reply.text == one.generation.cut(text)
            assert (reply.ids is None) == (quirks.strict or quirks.ids == "none")


def _greedy(model: BigramModel, native: NativeEngine, prompt: str, limit: int) -> str:
    """The greedy continuation of a prompt straight from the distribution."""
    ids = native.tokenizer.encode(prompt, bos=True)
    new, _ = model.generate(ids, limit, Sampling(), 0, ())
    return continuation_text(native.tokenizer, ids, new)


def test_replies_in_llama_cpps_form_have_ids(made_up, tiny, ask):
    quirks = Quirks(prompt_logprobs=False, echo=False, choices=False, ids="content")
    with Stub(made_up, quirks) as stub:
        engine = open_server(stub)
        assert engine.context_len == quirks.max_model_len
        assert engine.can.why["log-likelihoods"].endswith("no log-probabilities of the prompt")
        asks = [ask(prompt, GREEDY, kind="generate") for prompt in PROMPTS]
        replies = answers(engine, asks)
        for one, reply in zip(asks, replies, strict=True):
            text = _greedy(made_up, tiny, one.context, GREEDY["max_gen_toks"])
            assert reply.text == one.generation.cut(text)
            assert reply.ids
            assert set(made_up.tokenizer.eos_ids).isdisjoint(reply.ids)
        whole = replies[0].text
        first = {**GREEDY, "until": [whole[:2]], "max_gen_toks": 24}  # the reply begins with it
        later = {**GREEDY, "until": [whole[5:8]], "max_gen_toks": 24}
        asks = [ask(PROMPTS[0], settings, kind="generate") for settings in (first, later)]
        empty, cut = answers(engine, asks)
        assert (empty.text, empty.ids, empty.finish) == ("", (), "stop")
        assert (cut.text, cut.finish) == (whole[:5], "stop")


@pytest.mark.parametrize(
    ("pages", "told"),
    [
        ({"/version": {"version": "0.32.0"}}, "vLLM 0.32.0"),
        ({"/props": {"build_info": "b7000-abc"}}, "llama.cpp b7000-abc"),
        ({"/version": ["?"], "/props": {}}, ""),
    ],
)
def test_the_servers_program_is_named(made_up, pages, told):
    with Stub(made_up, Quirks(pages=pages)) as stub:
        notes = " ".join(open_server(stub).identity.notes)
        assert f"{stub.url}{told and f' ({told})'}, whose weights" in notes


def test_a_reply_may_lack_the_tokens_of_its_stop_string_and_no_others(real, tiny, ask):
    quirks = Quirks(prompt_logprobs=False, echo=False, choices=False, ids="content")
    with Stub(real, quirks) as stub:
        engine = open_server(stub)
        settings = {**GREEDY, "until": []}
        (whole,) = answers(tiny, [ask(PROMPTS[3], settings, kind="generate")])
        stops = [whole.text[place : place + 2] for place in (0, 6, 12)]
        asks = [ask(PROMPTS[3], {**GREEDY, "until": [one]}, kind="generate") for one in stops]
        for one, reply in zip(asks, answers(engine, asks), strict=True):
            assert reply.finish == "stop"
            encoded = tiny.encode(one)
            assert not tiny.compare(encoded, reply, is_other=True).fault
            if reply.ids:
                shorter = replace(reply, ids=reply.ids[:-1], text=reply.text[:-1])
                assert "has the token None" in tiny.compare(encoded, shorter, is_other=True).fault


INEXACT = {
    "no log-probabilities": Quirks(prompt_logprobs=False, echo=False),
    "values behind by a token": Quirks(prompt_logprobs=False, behind=True),
    "shifted beyond the end": Quirks(prompt_logprobs=False, shift=1, drops_generated=True),
}


@pytest.mark.parametrize("name", INEXACT)
def test_log_likelihoods_that_are_not_exact_are_refused(made_up, name):
    with Stub(made_up, INEXACT[name]) as stub:
        engine = open_server(stub)
        assert not engine.can.scores
        assert engine.can.why["log-likelihoods"]
        assert engine.can.samples


def test_a_server_that_ignores_temperature_draws_no_samples(made_up):
    with Stub(made_up, Quirks(temperature=False)) as stub:
        engine = open_server(stub)
        assert not engine.can.samples
        assert "8 equal replies" in engine.can.why["independent samples"]
        assert engine.can.scores


def test_a_server_that_ignores_seeds_gets_a_note_and_draws_samples(made_up, ask):
    with Stub(made_up, Quirks(seeds=False)) as stub:
        engine = open_server(stub)
        assert engine.can.samples
        assert "ignores seeds" in " ".join(engine.identity.notes)
        asks = [ask(PROMPTS[0], DRAWN, sample=n, kind="generate") for n in range(8)]
        assert len({reply.text for reply in answers(engine, asks)}) == 8


def test_a_lost_first_space_makes_programs_impossible(made_up):
    with Stub(made_up, Quirks(ids="none", takes_ids=False, first_space=False)) as stub:
        engine = open_server(stub)
        assert not engine.can.exact_text
        assert "without their first space" in engine.can.why["exact text"]


@pytest.mark.parametrize("stops", ["honoured", "kept", "ignored"])
def test_more_stop_strings_than_the_server_takes_are_cut_here(made_up, ask, stops):
    until = ["#1", "#2", "#3", "#4", "e", "a"]
    with Stub(made_up, Quirks(stops=stops, max_stops=4)) as stub:
        engine = open_server(stub)
        before = len(stub.asked)
        settings = {**GREEDY, "until": until, "max_gen_toks": 40}
        replies = answers(engine, [ask(prompt, settings, kind="generate") for prompt in PROMPTS])
        assert all(len(body["stop"]) == 4 for body in stub.asked[before:])
        assert not [reply for reply in replies if "e" in reply.text or "a" in reply.text]
        assert {reply.finish for reply in replies} == {"stop"}


REFUSED = {
    "another model": (Quirks(names=("other",)), "serves other, and --model is tiny"),
    "no models": (Quirks(names=()), "serves no model, and --model is tiny"),
    "any name": (Quirks(names=("other",), any_name=True), "serves other, and --model is tiny"),
    "no list, any name": (Quirks(lists=False, any_name=True), "HTTP 500"),
    "no list, another name": (Quirks(names=("other",), lists=False), "HTTP 500"),
    "another model's reply": (Quirks(answers_as="other"), "tiny was asked and other answered"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_model_is_refused(made_up, name):
    quirks, sentence = REFUSED[name]
    with Stub(made_up, quirks) as stub, pytest.raises(MistralEvalError, match=sentence):
        open_server(stub)


@pytest.mark.parametrize("alias", ["tiny@main", "org/tiny"])
def test_a_name_that_is_written_otherwise_is_the_same_model(made_up, alias):
    with Stub(made_up, Quirks(answers_as=alias)) as stub:
        assert open_server(stub).can.scores


@pytest.mark.parametrize("ids", ["token_ids", "none"])
def test_another_tokenizer_is_refused(made_up, ids, monkeypatch):
    """The server's ids are of another vocabulary; its text and its counts show it."""
    other = _Reversed(made_up.tokenizer)
    sentence = "`--model-args tokenizer=FOLDER`"
    with (
        Stub(BigramModel(other), Quirks(ids=ids)) as stub,
        pytest.raises(EngineError, match=sentence),
    ):
        open_server(stub)


class _Reversed:
    """A tokenizer of characters in the place of words."""

    def __init__(self, inner) -> None:
        self._inner = inner

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def encode(self, text, bos):
        ids = [one for char in text for one in self._inner.encode(char, bos=False)]
        return [self._inner.bos_id, *ids] if bos else ids


def test_a_model_that_changes_during_the_run_is_a_failure(made_up, ask):
    with Stub(made_up) as stub:
        engine = open_server(stub)
        stub.quirks = Quirks(answers_as="other")
        with pytest.raises(UnansweredError, match="tiny was asked and other answered"):
            answers(engine, scores(ask))


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ({"num_concurrent": "many"}, "num_concurrent should be a whole number from 1 to 10000"),
        ({"num_concurrent": 0}, "num_concurrent should be a whole number from 1 to 10000"),
        ({"timeout": -1}, "timeout should be a number of seconds from 0.001 to 1000000"),
        ({"max_retires": 3}, "Did you mean max_retries"),
        ({"num_concurrent": 1_000_000_000}, "num_concurrent should be a whole number from 1 to"),
        ({"timeout": "inf"}, "timeout should be a number of seconds"),
        ({"timeout": "nan"}, "timeout should be a number of seconds"),
        ({"api_key": "sk-1"}, "API key into the environment variable MISTRAL_EVAL_API_KEY"),
        ({"tokenizer": "/nowhere"}, "nothing is there"),
    ],
)
def test_arguments_that_cannot_be_are_refused_before_anything_is_asked(made_up, args, sentence):
    with Stub(made_up) as stub, pytest.raises(UsageError, match=sentence):
        open_server(stub, **args)
    assert stub.asked == []


def test_the_probe_is_cheap_and_never_asks_for_no_token_or_for_many(made_up):
    """llama.cpp takes 0 for no limit at all."""
    with Stub(made_up) as stub:
        open_server(stub)
        limits = [body["max_tokens"] for body in stub.asked]
        assert len(limits) <= 60
        assert 1 <= min(limits) <= max(limits) <= 32
        assert all(1 <= len(body["prompt"]) < 100 for body in stub.asked)


def test_a_request_that_fails_for_ever_loses_no_other(made_up, ask):
    with Stub(made_up) as stub:
        engine = open_server(stub)
        asks = [ask(f"Question {n}:", GREEDY, doc_id=n, kind="generate") for n in range(40)]
        bad = engine.encode(asks[7]).work.prompt
        stub.fault = lambda number, body: Fault(500) if body["prompt"] == list(bad) else None
        found = {}

        def collect() -> None:
            found.update(engine.answer([engine.encode(one) for one in asks]))

        with pytest.raises(UnansweredError) as told:
            collect()
        assert sorted(found) == [n for n in range(40) if n != 7]
        assert [index for index, _ in told.value.failures] == [7]


def test_a_server_that_fails_every_request_ends_the_run_early(made_up, ask):
    with Stub(made_up) as stub:
        engine = open_server(stub, num_concurrent=2, max_retries=0)
        stub.fault = lambda number, body: Fault(500, said="out of memory")
        before = len(stub.asked)
        asks = [ask(f"Question {n}:", GREEDY, doc_id=n, kind="generate") for n in range(400)]
        with pytest.raises(EngineError, match=r"The last 8 requests failed: .*out of memory"):
            answers(engine, asks)
        assert len(stub.asked) - before < 30


def test_values_that_are_no_numbers_are_their_questions_failure(made_up, ask):
    with Stub(made_up) as stub:
        engine = open_server(stub)
        asks = [ask(f"Question {n}:", " because it is so", doc_id=n) for n in range(6)]
        bad = [*engine.encode(asks[2]).work.context, *engine.encode(asks[2]).work.continuation]
        stub.model = _Broken(made_up, tuple(bad))
        found, failures = partly(engine, asks)
        assert sorted(found) == [0, 1, 3, 4, 5]
        assert [index for index, _ in failures] == [2]
        assert "finite log-probability" in failures[0][1]


def partly(engine, asks) -> tuple[dict, tuple]:
    """What is answered, and the failures of the others."""
    found = {}

    def collect() -> None:
        found.update(engine.answer([engine.encode(one) for one in asks]))

    with pytest.raises(UnansweredError) as told:
        collect()
    return found, told.value.failures


def generations(ask, count: int) -> list:
    return [ask(f"Question {n}:", GREEDY, doc_id=n, kind="generate") for n in range(count)]


def test_a_text_that_a_filter_refuses_loses_no_other(made_up, ask):
    """A firewall's 403 is about one prompt; the server's is about the key."""
    with Stub(made_up) as stub:
        engine = open_server(stub)
        asks = generations(ask, 20)
        bad = list(engine.encode(asks[3]).work.prompt)
        stub.fault = lambda number, body: Fault(403) if body["prompt"] == bad else None
        found, failures = partly(engine, asks)
        assert len(found) == 19
        assert [index for index, _ in failures] == [3]


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (Fault(401), "HTTP 401"),
        (Fault(403), "The last 8 requests failed: .*HTTP 403"),
        (Fault(500), "The last 8 requests failed: .*HTTP 500"),
    ],
)
def test_what_is_in_flight_when_the_server_is_gone_is_kept(made_up, ask, fault, sentence):
    """Replies that come after the last straw were paid for; nothing else is asked."""
    with Stub(made_up) as stub:
        engine = open_server(stub, max_retries=0, num_concurrent=8)
        asks = generations(ask, 60)
        slow = [list(engine.encode(one).work.prompt) for one in asks[:5]]
        stub.fault = lambda number, body: Fault(delay=1.0) if body["prompt"] in slow else fault
        before, found = len(stub.settled()), {}

        def collect() -> None:
            found.update(engine.answer([engine.encode(one) for one in asks]))

        with pytest.raises(EngineError, match=sentence):
            collect()
        assert sorted(found) == list(range(5))
        assert len(stub.settled()) - before == 5
        assert len(stub.asked) < 60 + before


@pytest.mark.parametrize("first", [1, 7, 29, 33])
def test_a_server_in_trouble_during_the_probe_is_not_taken_for_another(made_up, well, first):
    """Else the run would have other keys, and ask again for all that it has paid for."""
    usual = well[1].identity.arguments
    with Stub(made_up) as stub:
        stub.fault = lambda number, body: Fault(500) if first <= number < first + 4 else None
        try:
            found = open_server(stub, max_retries=0).identity.arguments
        except EngineError as error:
            found = str(error)
        assert len(stub.asked) > first + 2
        assert found == usual or "HTTP 500" in found


@pytest.mark.parametrize(
    ("tops", "reason"),
    [("missing", "does not tell the most likely token"), ("own", "calls every token")],
)
def test_log_likelihoods_whose_greedy_tokens_are_unknown_are_refused(made_up, tops, reason):
    with Stub(made_up, Quirks(prompt_logprobs=False, choices=False, tops=tops)) as stub:
        assert reason in open_server(stub).can.why["log-likelihoods"]


@pytest.mark.parametrize("name", ["prompt_logprobs", "logprobs"])
@pytest.mark.parametrize(
    "other", [[], "none", 7, {"token_logprobs": 3}, {"token_logprobs": ["x", "y"]}, [{"1": "x"}]]
)
def test_log_likelihoods_of_another_form_are_refused_and_nothing_else(made_up, ask, name, other):
    def change(reply: dict) -> dict:
        for choice in reply.get("choices", ()):
            choice[name] = other
        return reply

    quirks = Quirks(prompt_logprobs=name == "prompt_logprobs", echo=name == "logprobs")
    with Stub(made_up, quirks) as stub:
        stub.fault = lambda number, body: Fault(change=change)
        engine = open_server(stub)
        assert engine.can.why["log-likelihoods"]
        assert engine.can.samples
        assert answers(engine, [ask(PROMPTS[0], GREEDY, kind="generate")])[0].finish


def test_an_echo_of_a_text_whose_tokens_are_not_counted_is_refused(made_up):
    quirks = Quirks(takes_ids=False, prompt_logprobs=False, choices=False, counts=False)
    with Stub(made_up, quirks) as stub:
        assert "does not count its tokens" in open_server(stub).can.why["log-likelihoods"]


@pytest.mark.parametrize("takes_ids", [True, False])
def test_a_prompt_that_the_server_cuts_is_a_failure(made_up, ask, takes_ids):
    """Some cut what is longer than their context, whatever they list, and answer all the same."""
    with Stub(made_up, Quirks(takes_ids=takes_ids, reads=40)) as stub:
        engine = open_server(stub)
        asks = [ask("Short:", GREEDY, kind="generate")]
        asks.append(ask("word " * 60, GREEDY, doc_id=1, kind="generate"))
        found, failures = partly(engine, asks)
        assert sorted(found) == [0]
        assert "read 40 tokens of a prompt that has" in failures[0][1]
        assert "max_length" in failures[0][1]
        _, failures = partly(engine, [ask("word " * 60, " end")])
        assert [index for index, _ in failures] == [0]


@pytest.mark.parametrize("ids", ["token_ids", "none"])
def test_a_server_with_a_limit_of_its_own_gives_no_reply(made_up, ask, ids):
    with Stub(made_up, Quirks(ids=ids)) as stub:
        engine = open_server(stub)
        stub.quirks = replace(stub.quirks, writes=3)
        _, failures = partly(engine, [ask(PROMPTS[0], {**GREEDY, "until": []}, kind="generate")])
        assert "has 3 tokens, and its limit was 24" in failures[0][1]


def test_a_truncated_prompt_gets_the_servers_bos_in_place_of_its_first_token(made_up, ask):
    with Stub(made_up, Quirks(bos_before_ids=True, max_model_len=128)) as stub:
        engine = open_server(stub)
        encoded = engine.encode(ask("word " * 300, GREEDY, kind="generate"))
        assert encoded.truncated
        ((_, reply),) = engine.answer([encoded])
        assert reply.finish
        assert stub.asked[-1]["prompt"] == list(encoded.work.prompt[1:])
        for continuation in (" end", " two ends"):
            _, failures = partly(engine, [ask("word " * 300, continuation)])
            assert "cannot be scored alone" in failures[0][1]


def test_no_new_tokens_are_not_asked_for(made_up, ask):
    """llama.cpp takes 0 for no limit at all."""
    with Stub(made_up) as stub:
        engine = open_server(stub)
        before = len(stub.asked)
        settings = {**GREEDY, "max_gen_toks": 0}
        (reply,) = answers(engine, [ask(PROMPTS[0], settings, kind="generate")])
        assert (reply.text, reply.finish) == ("", "length")
        assert len(stub.asked) == before


def test_greedy_replies_that_vary_are_not_taken_for_another_tokenizers(made_up):
    """On a GPU a reply depends on its batch; each has to fit its own ids."""

    def fault(number: int, body: dict) -> Fault | None:
        noise = {"temperature": 2.0, "seed": number}
        return Fault(change=lambda reply: stub.complete({**body, **noise})[1])

    with Stub(made_up) as stub:
        stub.fault = fault
        assert "differ from call to call" in " ".join(open_server(stub).identity.notes)


# ---------------------------------------------------------------- healed prompts


@pytest.fixture(scope="module")
def joining(tmp_path_factory) -> Path:
    """A model whose tokenizer joins a line break with the spaces that follow."""
    return save_model(tmp_path_factory.mktemp("joining"))


@pytest.fixture(scope="module")
def joins(joining) -> NativeEngine:
    return open_native(str(joining), device="cpu")


def programs(ask, settings, samples=1):
    return [
        ask(f'def {name}(x):\n    """Do."""\n', settings, doc_id=n, sample=k, kind="generate")
        for n, name in enumerate(("f", "add", "cut", "de"))
        for k in range(samples)
    ]


@pytest.mark.parametrize("until", [[], ["x"], ["e", "o"], ["\n"], [" "]])
@pytest.mark.parametrize("limit", [1, 2, 12])
def test_healed_prompts_are_continued_as_by_the_native_engine(joining, joins, ask, until, limit):
    """Ids, text and finish; the first token is drawn by a request of its own."""
    asks = programs(ask, {**GREEDY, "until": until, "max_gen_toks": limit})
    with Stub(NativeModel(joins), Quirks(names=(str(joining),))) as stub:
        engine = open_server(stub, str(joining))
        before = len(stub.asked)
        for theirs, ours in zip(answers(engine, asks), answers(joins, asks), strict=True):
            assert (theirs.text, theirs.finish) == (ours.text, ours.finish)
            assert theirs.ids[: len(ours.ids)] == ours.ids
        first = [body for body in stub.asked[before:] if "allowed_token_ids" in body]
    assert all(engine.encode(one).healed for one in asks)
    assert len(first) == len(asks)
    assert all(body["max_tokens"] == 1 and "stop" not in body for body in first)


def test_samples_of_a_healed_prompt_are_draws_of_their_own(joining, joins, ask):
    asks = programs(ask, {**DRAWN, "until": []}, samples=8)
    with Stub(NativeModel(joins), Quirks(names=(str(joining),))) as stub:
        engine = open_server(stub, str(joining))
        found = answers(engine, asks)
        assert answers(engine, asks) == found
        seeds = [body["seed"] for body in stub.asked if body.get("temperature") == 1.0]
    assert len({reply.ids for reply in found}) == len(asks)
    assert len(set(seeds[-2 * len(asks) :])) == 2 * len(asks)


def test_a_server_that_cannot_choose_among_tokens_does_not_heal(joining, joins, ask):
    """The note says so, and a rescoring encodes as the run did."""
    (request, *_) = programs(ask, GREEDY)
    for among in (True, False):
        quirks = Quirks(names=(str(joining),), among=among)
        with Stub(NativeModel(joins), quirks) as stub:
            engine = open_server(stub, str(joining))
        encoded = engine.encode(request)
        assert encoded.remark == (HEALED if among else NOT_HEALED)
        later = ServerEngine.encoder(settings_of(stub, str(joining)), engine.identity)
        assert reply_key(engine.identity, later.encode(request)) == reply_key(
            engine.identity, encoded
        )


def test_a_first_token_that_was_not_allowed_is_no_reply(joining, joins, ask):
    (request, *_) = programs(ask, GREEDY)

    def change(reply):
        reply["choices"][0]["token_ids"] = [1]
        return reply

    with Stub(NativeModel(joins), Quirks(names=(str(joining),))) as stub:
        engine = open_server(stub, str(joining))
        stub.fault = lambda number, body: (
            Fault(change=change) if "allowed_token_ids" in body else None
        )
        with pytest.raises(UnansweredError, match="was allowed, and its token ids are 1"):
            answers(engine, [request])


class _Broken:
    """A model that has no numbers for one sequence."""

    def __init__(self, inner: BigramModel, bad: tuple[int, ...]) -> None:
        self.tokenizer = inner.tokenizer
        self.generate = inner.generate
        self._inner, self._bad = inner, bad

    def logprobs(self, ids):
        found = self._inner.logprobs(ids)
        return found * math.nan if tuple(ids[: len(self._bad)]) == self._bad else found


# ---------------------------------------------------------------- a trained model


@pytest.mark.trained
@pytest.mark.slow
def test_a_trained_model_answers_through_a_server_as_it_does_natively(trained, ask):
    native: NativeEngine = open_native(str(trained), dtype="float32")
    with Stub(NativeModel(native), Quirks(names=(str(trained),))) as stub:
        engine = open_server(stub, str(trained))
        assert isinstance(engine.identity, EngineIdentity)
        same_scores(engine, native, [one for one in scores(ask) if one.context.strip()])
        asks = [ask(prompt, GREEDY, kind="generate") for prompt in PROMPTS]
        assert any(native.encode(one).healed for one in asks)
        for theirs, ours in zip(answers(engine, asks), answers(native, asks), strict=True):
            assert theirs.ids == ours.ids
        asks = [ask(PROMPTS[0], DRAWN, sample=n, kind="generate") for n in range(8)]
        assert len({reply.text for reply in answers(engine, asks)}) == 8
