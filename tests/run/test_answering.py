"""Answering: the replies log is asked first, equal requests are computed once, draws have names."""

import itertools
import re
from collections import Counter
from contextlib import contextmanager
from functools import partial

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model

from mistral_eval.engines.hf import open_hf
from mistral_eval.engines.interface import Engine, Reply, never
from mistral_eval.engines.lm_eval_model import MistralLM, ask, requests_of
from mistral_eval.engines.model_free import Oracle, Random
from mistral_eval.engines.native import NativeEngine, open_native
from mistral_eval.errors import EndedEarlyError, EngineError, RequestError
from mistral_eval.model.export import save_hf
from mistral_eval.model.tiny import make_tiny, tiny_tokenizer_file
from mistral_eval.run.answering import Answering

DRAWN = {"until": ["\n\n"], "max_gen_toks": 6, "do_sample": True, "temperature": 1.0}
CHOICES = [(f"Question {n}?\nAnswer:", f" {choice}") for n in range(4) for choice in "ABCD"]


@pytest.fixture(scope="module")
def tiny() -> NativeEngine:
    return open_native("tiny")


def scores(pairs=CHOICES) -> list[Instance]:
    return [
        Instance("loglikelihood", {}, pair, n % 4, metadata=("task", n // 4, 1))
        for n, pair in enumerate(pairs)
    ]


def prompt(doc_id=0, text="Once upon a time", task="task", **settings) -> Instance:
    return Instance(
        "generate_until", {}, (text, {**DRAWN, **settings}), 0, metadata=(task, doc_id, 1)
    )


class Counting(Engine):
    """An engine that counts what reaches it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.identity = engine.identity
        self.encode = engine.encode
        self.asked = 0

    def answer(self, encoded, known=(), stop=never):
        self.asked += len(encoded) - len(known)
        self.stop = stop
        return self.engine.answer(encoded, known, stop)


def like(engine: NativeEngine, **changed) -> NativeEngine:
    """An engine like another, but for its runner, seed or context."""
    names = ("runner", "tokenizer", "context_len", "seed", "identity")
    return NativeEngine(**{name: getattr(engine, name) for name in names} | changed)


class Asked(MistralLM):
    """lm-eval's view of an engine, with a replies log where there is one."""

    def __init__(self, engine, log=None, **options) -> None:
        self.answering = None if log is None else Answering(engine, log, **options)
        super().__init__(self.answering.answer if self.answering else partial(ask, engine))

    @property
    def counts(self):
        return self.answering.computed, self.answering.reused


def test_replies_come_in_the_order_of_their_requests(tiny):
    """Whatever order the engine answers in."""
    forward = Asked(tiny).loglikelihood(scores())
    backward = Asked(tiny).loglikelihood(scores(CHOICES[::-1]))
    for (first, first_greedy), (second, second_greedy) in zip(forward, backward[::-1], strict=True):
        assert first == pytest.approx(second, abs=1e-4)
        assert first_greedy == second_greedy
    assert len({logprob for logprob, _ in forward}) == len(CHOICES)


def test_equal_requests_are_computed_once(tiny, log):
    counting = Counting(tiny)
    lm = Asked(counting, log)
    replies = lm.loglikelihood(scores(CHOICES * 3))
    assert counting.asked == len(CHOICES)
    assert lm.counts == (len(CHOICES), 0)
    assert replies == replies[: len(CHOICES)] * 3


def test_equal_greedy_prompts_of_two_questions_are_computed_once(tiny):
    counting = Counting(tiny)
    greedy = {"do_sample": False, "temperature": 0.0}
    first, second = Asked(counting).generate_until(
        [prompt(1, **greedy), prompt(2, task="other", **greedy)]
    )
    assert first == second
    assert counting.asked == 1


def test_a_second_run_over_the_same_log_computes_nothing_and_says_the_same(tiny, log):
    instances = [prompt()] * 3
    whole = [Instance("loglikelihood_rolling", {}, ("A text.",), 0, metadata=("task", 0, 1))]

    def ask(lm):
        return (
            lm.loglikelihood(scores()),
            lm.generate_until(instances),
            lm.loglikelihood_rolling(whole),
        )

    counting = Counting(tiny)
    first = Asked(counting, log)
    replies = ask(first)
    total = len(CHOICES) + 3 + 1
    assert (*first.counts, counting.asked) == (total, 0, total)
    second = Asked(counting, log)
    assert ask(second) == replies
    assert (*second.counts, counting.asked) == (0, total, total)


def test_what_was_answered_before_an_error_is_not_computed_again(tiny, log):
    class Failing(Counting):
        def answer(self, encoded, known=(), stop=never):
            for count, reply in enumerate(super().answer(encoded, known, stop)):
                if count == 5:
                    raise KeyboardInterrupt
                yield reply

    with pytest.raises(KeyboardInterrupt):
        Asked(Failing(tiny), log).loglikelihood(scores())
    log.flush()
    lm = Asked(tiny, log)
    assert lm.loglikelihood(scores()) == Asked(tiny).loglikelihood(scores())
    assert lm.counts == (len(CHOICES) - 5, 5)


def test_an_engine_that_ends_early_is_told_of_and_what_it_answered_is_durable(tiny, log):
    class Ending(Counting):
        def answer(self, encoded, known=(), stop=never):
            yield from itertools.islice(super().answer(encoded, known, stop), 5)

    with pytest.raises(EndedEarlyError, match="ended with 11 of 16 requests unanswered"):
        Asked(Ending(tiny), log).loglikelihood(scores())
    assert log.count() == 5


def test_the_engine_asks_the_stopper_and_is_asked_inside_of_its_block(log):
    class Stopper:
        is_inside = wanted = False

        @contextmanager
        def deferred(self):
            self.is_inside = True
            yield
            self.is_inside = False
            assert log.count() == len(CHOICES)

        def is_wanted(self):
            assert self.is_inside
            return self.wanted

    stopper, counting = Stopper(), Counting(Random(0))
    Asked(counting, log, stopper=stopper).loglikelihood(scores())
    stopper.is_inside = True
    assert not counting.stop()
    stopper.wanted = True
    assert counting.stop()


def test_the_engine_sees_all_requests_of_a_call_and_which_are_known(tiny, log):
    """So that its packs are those of an undisturbed run, whatever the replies log has."""

    class Heard(Counting):
        def answer(self, encoded, known=(), stop=never):
            heard.append((len(encoded), sorted(known)))
            return super().answer(encoded, known, stop)

    heard: list[tuple[int, list[int]]] = []
    Asked(tiny, log).loglikelihood(scores(CHOICES[2:5]))
    Asked(Heard(tiny), log).loglikelihood(scores(CHOICES * 2))
    Asked(Heard(tiny), log).loglikelihood(scores())
    assert heard == [(16, [2, 3, 4]), (16, list(range(16)))]


@pytest.mark.parametrize("name", ["tiny", "random", "oracle", "hf"])
def test_an_engine_answers_what_is_not_known_and_nothing_else(tiny, name):
    made = {
        "tiny": lambda: tiny,
        "random": lambda: Random(0),
        "oracle": lambda: Oracle(lambda one, _: 0 if one.kind == "score" else "text"),
        "hf": lambda: open_hf("tiny"),
    }[name]()
    for requests in (
        requests_of(scores()),
        requests_of([prompt(n) for n in range(5)]),
    ):
        encoded = [made.encode(request) for request in requests]
        known = {1, 2, 4}
        found = [index for index, _ in made.answer(encoded, known)]
        assert sorted(found) == sorted(set(range(len(requests))) - known)


def test_the_watcher_hears_of_every_reply_and_of_those_known_before(tiny, log):
    class Watch:
        def begin(self, keys, requests, known):
            self.keys, self.known, self.heard = keys, dict(known), {}
            assert [(one.context, one.continuation) for one in requests] == CHOICES

        def reply(self, key, reply):
            assert key not in self.heard
            self.heard[key] = reply

    Asked(tiny, log).loglikelihood(scores(CHOICES[:4]))
    watch = Watch()
    lm = Asked(tiny, log)
    lm.answering.watch = watch
    found = lm.loglikelihood(scores())
    assert set(watch.known) == set(watch.keys[:4])
    assert set(watch.heard) == set(watch.keys[4:])
    replies = watch.known | watch.heard
    assert [(replies[key].logprob, replies[key].is_greedy) for key in watch.keys] == found


def test_samples_of_one_question_are_different_draws_that_come_again(tiny):
    first = Asked(tiny).generate_until([prompt()] * 6)
    assert len(set(first)) == 6
    assert Asked(tiny).generate_until([prompt()] * 6) == first


def test_another_seed_draws_other_samples(tiny):
    other = like(tiny, seed=1)
    first = Asked(tiny).generate_until([prompt()] * 4)
    assert set(first).isdisjoint(Asked(other).generate_until([prompt()] * 4))


def test_two_questions_with_one_text_are_drawn_apart(tiny):
    first, second, third = Asked(tiny).generate_until(
        [prompt(1), prompt(2), prompt(1, task="other")]
    )
    assert len({first, second, third}) == 3


def test_a_draw_does_not_depend_on_what_is_asked_beside_it_or_before_it(tiny):
    """Alone, among others, in another order, with a smaller budget: the same text."""
    mine = [prompt(7, "The third question")] * 3
    others = [prompt(n, "Another question " * n) for n in range(1, 5)]
    alone = Asked(tiny).generate_until(mine)
    mixed = Asked(tiny).generate_until([*others, *mine])
    between = Asked(tiny).generate_until([mine[0], *others, *mine[1:]])
    small = Asked(open_native("tiny", batch_tokens=16)).generate_until([*mine, *others])
    assert mixed[4:] == alone
    assert [between[0], *between[5:]] == alone
    assert small[:3] == alone
    assert Asked(tiny).generate_until(mine[:1]) == alone[:1]


def test_no_reply_crosses_from_one_model_dtype_seed_or_setting_to_another(tiny, log, tmp_path):
    """Everyone asks the same over one log, and everyone has to compute."""
    folder = save_hf(make_tiny(seed=1), tmp_path / "m", tokenizer_file=tiny_tokenizer_file())
    models = [tiny, open_native("tiny", dtype="bfloat16"), open_native(str(folder))]
    for engine in [*models, like(tiny, seed=1), Random(0), Random(1)]:
        lm = Asked(engine, log)
        lm.loglikelihood(scores())
        assert lm.counts == (len(CHOICES), 0), engine.identity.fingerprint
    settings = [
        {},
        {"temperature": 0.5},
        {"top_p": 0.9},
        {"top_k": 5},
        {"max_gen_toks": 5},
        {"until": ["Q:"]},
        {"do_sample": False},
    ]
    for engine in (tiny, like(tiny, seed=1)):
        for one in settings:
            lm = Asked(engine, log)
            lm.generate_until([prompt(**one)])
            assert lm.counts == (1, 0), one


def test_lm_eval_knows_the_adapter_by_name_and_opens_it_from_its_arguments():
    lm = get_model("mistral").create_from_arg_string(
        "pretrained=tiny,dtype=bfloat16", {"batch_size": 4, "device": "cpu"}
    )
    assert [type(reply) for reply in lm.loglikelihood(scores()[:1])[0]] == [float, bool]


def test_replies_are_plain_python_whatever_the_engine(tiny, log):
    """A reply from the replies log is the same kind of thing as a fresh one."""
    fresh = Asked(tiny, log).loglikelihood(scores()[:2])
    known = Asked(tiny, log).loglikelihood(scores()[:2])
    assert Counter(map(type, fresh[0])) == Counter(map(type, known[0])) == {float: 1, bool: 1}


@pytest.mark.parametrize("kind", ["loglikelihood", "loglikelihood_rolling", "generate_until"])
def test_a_request_that_cannot_be_answered_is_named_by_its_question(tiny, log, kind):
    """The engine counts what it is given, windows of texts too; a user knows benchmarks."""

    class Broken:
        stats = tiny.runner.stats

        def score(self, requests, known=()):
            raise RequestError("score", 5, "it is broken")
            yield

        generate = score

    lm = Asked(like(tiny, runner=Broken(), context_len=16), log)
    asked = {
        "loglikelihood": (scores(), "task question 1, choice 1: it is broken"),
        "loglikelihood_rolling": (
            [
                Instance(
                    kind, {}, (f"text {n}: " + "one two three " * 4,), 0, metadata=("texts", n, 1)
                )
                for n in range(9)
            ],
            "texts question 2: it is broken",
        ),
        "generate_until": (
            [prompt(n, "Once", max_gen_toks=4) for n in range(8)],
            "task question 5, sample 0: it is broken",
        ),
    }
    instances, sentence = asked[kind]
    with pytest.raises(EngineError) as told:
        getattr(lm, kind)(instances)
    assert str(told.value) == sentence


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (Reply(text="42"), "answered task question 0, sample 0 without `finish`: expected eos"),
        (Reply(logprob=float("nan")), "gave task question 0, choice 0 the log-likelihood nan"),
        (Reply(logprob=float("-inf")), "gave task question 0, choice 0 the log-likelihood -inf"),
        (Reply(logprob=1.0), "gave task question 0, choice 0 the log-likelihood 1.0"),
    ],
    ids=["no finish", "nan", "infinite", "positive"],
)
def test_a_reply_that_is_no_answer_is_refused_and_not_logged(log, reply, sentence):
    """It would count as known when the engine is repaired."""

    class Bad(Counting):
        def answer(self, encoded, known=(), stop=never):
            for index, _ in super().answer(encoded, known, stop):
                yield index, reply

    lm = Asked(Bad(Random(0)), log)
    with pytest.raises(EngineError, match=re.escape(sentence)):
        lm.generate_until([prompt()]) if reply.text else lm.loglikelihood(scores()[:1])
    log.flush()
    assert log.count() == 0
