"""The vLLM engine without vLLM: what it asks of a port, and how it reads the answers."""

import dataclasses

import pytest

from mistral_eval.engines import vllm_calls
from mistral_eval.engines.chat_ids import ChatIds
from mistral_eval.engines.native import NativeEngine, open_native
from mistral_eval.engines.vllm import VllmEngine
from mistral_eval.engines.vllm_calls import (
    AMONG,
    Ask,
    GenerateCall,
    Said,
    ScoreCall,
    is_top,
    score_calls,
    seed_of,
)
from mistral_eval.errors import EngineError
from mistral_eval.model.chat.messages import Messages
from mistral_eval.model.tiny import tiny_tokenizer_file
from mistral_eval.native.requests import GenerateRequest, Sampling, ScoreRequest
from tests.byte_level import save_model
from tests.vllm_stand_in import StandIn

GREEDY = {"until": ["\n\n"], "max_gen_toks": 12, "do_sample": False}
SAMPLED = {**GREEDY, "do_sample": True, "temperature": 0.8, "top_p": 0.95}
LETTERS = [" A", " B", " C", " D"]


def engine_of(native: NativeEngine, seed=0, max_model_len=512, **habits) -> VllmEngine:
    """An engine that asks a stand-in with the native engine's model."""
    port = StandIn(native, max_model_len, **habits)
    return VllmEngine(port, native.tokenizer, max_model_len - 1, seed, native.identity)


def answered(engine, asks, known=(), **how) -> dict:
    return dict(engine.answer([engine.encode(one) for one in asks], known, **how))


@pytest.fixture(name="choices")
def fixture_choices(ask):
    """Requests for letters, for longer continuations, and for ones that the context's end joins."""
    contexts = ("Which one?\nAnswer:", "Which two?\nAnswer:")
    asks = [
        ask(context, letter, doc_id=n, idx=i)
        for n, context in enumerate(contexts)
        for i, letter in enumerate(LETTERS)
    ]
    texts = (" there was a king", " in a land", " there was a queen", " é漢😀", " in")
    asks += [ask("Once upon a time", text, doc_id=2, idx=i) for i, text in enumerate(texts)]
    return [*asks, ask("", "It is", doc_id=3), ask("a ", "b", doc_id=4)]


@pytest.mark.parametrize("has_among", [True, False])
def test_scores_and_greedy_flags_are_the_native_engines(tiny, choices, has_among):
    engine = engine_of(tiny, has_among=has_among)
    found, expected = answered(engine, choices), answered(tiny, choices)
    assert found.keys() == expected.keys()
    for n in expected:
        assert found[n].logprob == pytest.approx(expected[n].logprob, abs=1e-4)
        assert found[n].is_greedy == expected[n].is_greedy


@pytest.mark.parametrize("has_among", [True, False])
@pytest.mark.parametrize("length", [1, 2, 6])
def test_the_greedy_continuation_is_greedy(tiny, ask, has_among, length):
    """In both ways of asking; and one that differs in its last token is not."""
    settings = {**GREEDY, "until": [], "max_gen_toks": length}
    prompt = tiny.encode(ask("Tell me more:", settings, kind="generate"))
    ((_, reply),) = tiny.answer([prompt])
    other = (*reply.ids[:-1], (reply.ids[-1] + 1) % 1000)
    engine = engine_of(tiny, has_among=has_among)
    pairs = [
        dataclasses.replace(
            engine.encode(ask("x", "y")), work=ScoreRequest(prompt.work.prompt, tuple(ids))
        )
        for ids in (reply.ids, other)
    ]
    found = dict(engine.answer(pairs))
    assert [found[n].is_greedy for n in range(2)] == [True, False]


@pytest.mark.parametrize(
    ("token", "shown", "expected"),
    [
        (5, {5: -1.0, 7: -2.0}, True),
        (7, {5: -1.0, 7: -2.0}, False),
        (5, {5: -1.0, 7: -1.0}, True),
        (7, {5: -1.0, 7: -1.0}, False),
        (9, {9: -3.0, 5: -1.0, 7: -1.0}, False),
        (3, {3: -1.0, 5: -1.0, 7: -1.0}, True),
    ],
)
def test_of_equally_likely_tokens_the_lowest_id_is_greedy(token, shown, expected):
    assert is_top(token, shown) is expected


def test_a_questions_letters_are_one_call_that_reads_the_cache(tiny, choices):
    engine = engine_of(tiny)
    answered(engine, choices)
    asked = engine.port.asked
    letters = [one for one in asked if len(one.among) == len(LETTERS)]
    assert len(letters) == 2
    assert all(one.scored_from is None for one in letters)
    assert len(asked) < len(choices) - 2 * (len(LETTERS) - 1) + 1


def test_the_calls_that_read_the_cache_come_first_and_neighbours_share_most():
    block, other = tuple(range(10, 30)), tuple(range(50, 70))
    prompts = [(*block, 1), (*other, 1), (*block, 2), (*other, 2)]
    requests = [ScoreRequest(one, (7,)) for one in prompts]
    requests[1:1] = [ScoreRequest((3,), (4,) * n) for n in (2, 9, 5)]
    calls = score_calls(list(enumerate(requests)), has_among=True)
    assert [call.ask.prompt for call in calls[:4]] == sorted(prompts)
    assert [len(call.ask.prompt) for call in calls[4:]] == [9, 5, 2]


@pytest.mark.parametrize("count", [1, AMONG, AMONG + 1, 3 * AMONG - 1])
def test_a_question_with_many_choices_is_divided(count):
    requests = [(n, ScoreRequest((1, 2), (n,))) for n in range(count)]
    calls = score_calls(requests, has_among=True)
    assert all(len(call.ask.among) <= AMONG for call in calls)
    assert sorted(index for call in calls for index, _ in call.members) == list(range(count))


def test_equal_last_tokens_are_asked_once():
    requests = [(n, ScoreRequest((1, 2), (token,))) for n, token in enumerate((5, 6, 5))]
    (call,) = score_calls(requests, has_among=True)
    assert call.ask.among == (5, 6)
    said = Said("0", (6,), is_finished=True, among={5: -2.0, 6: -1.0})
    assert [(n, one.logprob, one.is_greedy) for n, one in call.take(said)] == [
        (0, -2.0, False),
        (1, -1.0, True),
        (2, -2.0, False),
    ]


def test_a_score_call_waits_for_its_end():
    call = ScoreCall(Ask((1,), among=(5,)), ((0, 5),))
    assert not list(call.take(Said("0", (), is_finished=False)))
    assert not call.is_done


def test_a_conversation_is_answered_as_by_the_native_engine(tiny, ask):
    """In the checkpoint's format, by the native engine's encoder."""
    chat = ChatIds(tiny.tokenizer, "mistral", tiny_tokenizer_file(), tiny_tokenizer_file())
    talk = Messages((("user", "Name a colour."),))
    asked = dataclasses.replace(ask("x", GREEDY, kind="generate"), context=talk)
    native = NativeEngine(tiny.runner, tiny.tokenizer, 511, 0, tiny.identity, chat=chat)
    engine = VllmEngine(StandIn(tiny), tiny.tokenizer, 511, 0, tiny.identity, chat=chat)
    assert VllmEngine.can.chat
    assert answered(engine, [asked]) == answered(native, [asked])


PROMPTS = ("Q: 6 times 7?\nA:", "def f():\n", "é 漢", "One.\n\nTwo.", "the " * 30)


@pytest.mark.parametrize("until", [[], ["\n\n"], ["a", "ing"], ["e", "o", "i", "u", "n"]])
def test_greedy_replies_are_the_native_engines(tiny, ask, until):
    """Ids, text and why they end; also where a step brings two tokens."""
    settings = {**GREEDY, "until": until}
    asks = [ask(one, settings, doc_id=n, kind="generate") for n, one in enumerate(PROMPTS)]
    assert answered(engine_of(tiny), asks) == answered(tiny, asks)


def test_healed_prompts_are_continued_as_by_the_native_engine(tmp_path, ask):
    """The first token comes from the allowed ones, in a request of its own."""
    native = open_native(str(save_model(tmp_path)), device="cpu")
    settings = {**GREEDY, "until": ["x"]}
    prompts = [f'def {name}(x):\n    """Do {name}."""\n' for name in ("f", "add", "cut")]
    asks = [ask(one, settings, doc_id=n, kind="generate") for n, one in enumerate(prompts)]
    engine = engine_of(native)
    assert all(engine.encode(one).healed for one in asks)
    assert answered(engine, asks) == answered(native, asks)
    first = [one for one in engine.port.asked if one.allowed]
    assert len(first) == len(asks)
    assert all(one.max_tokens == 1 for one in first)


def samples(ask, count=8, doc_id=0):
    return [
        ask("Say one:", SAMPLED, sample=n, doc_id=doc_id, kind="generate") for n in range(count)
    ]


def test_eight_samples_are_eight_draws_whatever_their_order(tiny, ask):
    asks = samples(ask)
    found = answered(engine_of(tiny), asks)
    assert len({reply.ids for reply in found.values()}) == 8
    turned = answered(engine_of(tiny), asks[::-1])
    assert {7 - n: reply for n, reply in turned.items()} == found
    rest = answered(engine_of(tiny), asks, known={0, 3, 5})
    assert rest == {n: reply for n, reply in found.items() if n not in {0, 3, 5}}


def test_neighbouring_seeds_share_no_draw(tiny, ask):
    """VLLM's own n samples do: seed 42 and 43 have seven of eight in common."""
    engines = [engine_of(tiny, seed=seed) for seed in (42, 43)]
    for engine in engines:
        answered(engine, [*samples(ask), *samples(ask, doc_id=1)])
    seeds = [one.seed for engine in engines for one in engine.port.asked]
    assert len(set(seeds)) == len(seeds) == 32


def test_a_seed_is_31_bits_and_stays_what_it_is():
    assert seed_of("0|gsm8k|0|0") == 1986351735
    assert all(0 <= seed_of(str(n)) < 2**31 for n in range(2000))
    assert len({seed_of(str(n)) for n in range(2000)}) == 2000


@pytest.mark.parametrize(
    ("drawn", "ids", "finish"),
    [
        ((5, 6, 2), (5, 6), "eos"),
        ((2,), (), "eos"),
        ((5, 9, 6), (5, 9), "stop"),
        ((9, 2), (9,), "stop"),
        ((5, 6, 7, 8), (5, 6, 7, 8), "length"),
        ((5, 6, 7, 2), (5, 6, 7), "eos"),
        ((5, 6, 7, 9), (5, 6, 7, 9), "stop"),
    ],
)
@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_a_reply_ends_where_the_native_engine_ends_it(drawn, ids, finish, at_once):
    """The end token is vLLM's last id and no part of the reply; 9 completes a stop string."""
    request = GenerateRequest((1,), 4, is_done=lambda ids: ids[-1] == 9)
    call = GenerateCall(0, request, ends=(2,))
    found = []
    for start in range(0, len(drawn), at_once):
        part = drawn[start : start + at_once]
        found += call.take(Said("0", part, is_finished=start + at_once >= len(drawn)))
        if call.is_done:
            break
    ((_, reply),) = found
    assert (reply.ids, reply.finish) == (ids, finish)


def test_a_reply_that_fills_the_context_ends_by_its_length():
    call = GenerateCall(0, GenerateRequest((1,), 9))
    ((_, reply),) = call.take(Said("0", (5, 6), is_finished=True))
    assert (reply.ids, reply.finish) == ((5, 6), "length")


def test_sampling_settings_come_from_the_request_alone(tiny, ask):
    settings = {**SAMPLED, "top_k": 7, "top_p": 0.5, "temperature": 0.3}
    engine = engine_of(tiny)
    answered(engine, [ask("x", settings, kind="generate"), ask("y", GREEDY, kind="generate")])
    drawn, greedy = engine.port.asked
    assert drawn.sampling == Sampling(0.3, 0.5, 7)
    assert greedy.sampling == Sampling()
    assert greedy.seed is None
    assert drawn.ends == greedy.ends == tiny.tokenizer.eos_ids


def test_rows_without_a_token_are_never_drawn(tiny, ask):
    identity = dataclasses.replace(tiny.identity, info={"embedding_rows": 32064})
    engine = VllmEngine(StandIn(tiny), tiny.tokenizer, 511, 0, identity)
    answered(engine, [ask("x", GREEDY, kind="generate")])
    (asked,) = engine.port.asked
    assert asked.allowed == tuple(range(32000))


def test_what_asks_for_no_token_is_not_asked(tiny, ask):
    engine = engine_of(tiny)
    asks = [
        ask("x", {**GREEDY, "max_gen_toks": 0}, kind="generate"),
        ask("x", GREEDY, kind="generate"),
    ]
    assert answered(engine, asks) == answered(tiny, asks)
    assert len(engine.port.asked) == 1


def test_long_texts_lose_their_left_end_before_vllm_sees_them(tiny, ask, again):
    """VLLM would fail the whole call; the count of truncated requests is the native engine's."""
    text = "The quick brown fox jumps. " * 30
    asks = [ask(text, " yes"), ask(text, " a longer continuation"), ask("short", " no")]
    engine, short = engine_of(tiny, max_model_len=65), again(tiny, context_len=64)
    assert [engine.encode(one).truncated for one in asks] == [True, True, False]
    found, expected = answered(engine, asks), answered(short, asks)
    for n in expected:
        assert found[n].logprob == pytest.approx(expected[n].logprob, abs=1e-4)
    generated = ask(text, {**GREEDY, "until": []}, kind="generate")
    assert answered(engine, [generated]) == answered(short, [generated])


def test_whole_texts_are_scored_in_windows(tiny, ask, again):
    texts = ["", "One short line.", "indented = [1, 2]  # é, 漢\n" * 12]
    asks = [ask(one, doc_id=n, kind="rolling") for n, one in enumerate(texts)]
    engine, short = engine_of(tiny, max_model_len=33), again(tiny, context_len=32)
    found, expected = answered(engine, asks), answered(short, asks)
    assert len(engine.encode(asks[-1]).work) > 3
    assert found.keys() == expected.keys()
    for n in expected:
        assert found[n].logprob == pytest.approx(expected[n].logprob, abs=5e-4)
        assert not found[n].is_greedy


@pytest.mark.parametrize("temperature", [2.5, 100.0])
def test_a_temperature_that_vllm_refuses_is_refused_first(tiny, ask, temperature):
    hot = ask("x", {**SAMPLED, "temperature": temperature}, kind="generate")
    with pytest.raises(EngineError, match=r"^task asks for temperature .* Use --engine native\.$"):
        engine_of(tiny).encode(hot)


class After:
    """Says stop once it was asked so many times."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("kind", ["score", "rolling", "generate"])
def test_few_requests_are_in_flight_and_a_stop_loses_none_that_was_answered(
    tiny, ask, monkeypatch, kind
):
    monkeypatch.setattr(vllm_calls, "IN_FLIGHT", 3)
    make = {
        "score": lambda n: ask(f"Say {n}:", " well now"),
        "rolling": lambda n: ask(f"Say {n} and go", kind="rolling"),
        "generate": lambda n: ask(f"Say {n}:", GREEDY, doc_id=n, kind="generate"),
    }[kind]
    asks = [make(n) for n in range(10)]
    engine = engine_of(tiny)
    expected = answered(engine, asks)
    assert len(expected) == 10
    assert engine.port.most == 3
    counts = set()
    for times in (0, 2, 4, 9):
        early = answered(engine, asks, stop=After(times))
        rest = answered(engine, asks, known=early.keys())
        assert early | rest == expected
        assert not early.keys() & rest.keys()
        counts.add(len(early))
    assert min(counts) == 0
    assert len(counts) > 1


def test_replies_come_as_they_end(tiny, ask):
    """The short one is not held back for the long one."""
    asks = [
        ask("Say:", {**GREEDY, "until": [], "max_gen_toks": n}, doc_id=n, kind="generate")
        for n in (40, 2)
    ]
    engine = engine_of(tiny)
    index, _ = next(engine.answer([engine.encode(one) for one in asks]))
    assert index == 1
    assert engine.port.steps < 4


class Dying(StandIn):
    """A port whose vLLM ends after a few steps."""

    def step(self):
        if self.steps == 2:
            self.close()
            raise EngineError("vLLM failed (it was killed).")
        return super().step()


@pytest.mark.parametrize("wanted", [True, False])
def test_an_engine_that_dies_ends_in_a_sentence_unless_a_stop_was_wanted(
    tiny, ask, wanted, monkeypatch
):
    """Ctrl-C reaches vLLM's processes too."""
    monkeypatch.setattr(vllm_calls, "IN_FLIGHT", 2)
    engine = VllmEngine(Dying(tiny), tiny.tokenizer, 511, 0, tiny.identity)
    asks = [engine.encode(ask(f"Say {n}:", " well now")) for n in range(10)]
    found = []
    died = []

    def collect():
        for index, _ in engine.answer(asks, (), lambda: wanted and bool(died)):
            found.append(index)

    close = engine.port.close
    engine.port.close = lambda: (died.append(1), close())
    if wanted:
        collect()
    else:
        with pytest.raises(EngineError, match="it was killed"):
            collect()
    assert len(found) == 4


def test_nothing_is_queued_after_a_caller_has_gone(tiny, ask):
    engine = engine_of(tiny)
    asks = [ask(f"Say {n}:", GREEDY, doc_id=n, kind="generate") for n in range(3)]
    replies = engine.answer([engine.encode(one) for one in asks])
    next(replies)
    replies.close()
    assert engine.port.step() == []
