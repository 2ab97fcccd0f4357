"""The adapter asks the replies log first, computes equal requests once, and names each sample."""

import itertools
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model

from mistral_eval.engines.interface import Ask
from mistral_eval.engines.lm_eval_model import MistralLM
from mistral_eval.engines.native import NativeBackend
from mistral_eval.engines.open_hf import open_hf
from mistral_eval.engines.open_native import open_native
from mistral_eval.engines.oracle import OracleBackend
from mistral_eval.engines.random import RandomBackend
from mistral_eval.errors import EndedEarlyError, EngineError, RequestError
from mistral_eval.model.export import save_hf
from mistral_eval.model.tiny import make_tiny, tiny_tokenizer_file
from mistral_eval.record.replies import RepliesLog

DRAWN = {"until": ["\n\n"], "max_gen_toks": 6, "do_sample": True, "temperature": 1.0}
CHOICES = [(f"Question {n}?\nAnswer:", f" {choice}") for n in range(4) for choice in "ABCD"]


@pytest.fixture(scope="module")
def tiny() -> NativeBackend:
    return open_native("tiny")


@pytest.fixture
def log(tmp_path):
    with RepliesLog(tmp_path) as opened:
        yield opened


def scores(pairs=CHOICES) -> list[Instance]:
    return [
        Instance("loglikelihood", {}, pair, n % 4, metadata=("task", n // 4, 1))
        for n, pair in enumerate(pairs)
    ]


def prompt(doc_id=0, text="Once upon a time", task="task", **settings) -> Instance:
    return Instance(
        "generate_until", {}, (text, {**DRAWN, **settings}), 0, metadata=(task, doc_id, 1)
    )


class Counting:
    """A backend that counts what reaches it."""

    def __init__(self, backend) -> None:
        self.backend = backend
        self.name = backend.name
        self.fingerprint = backend.fingerprint
        self.counts = backend.counts
        self.prepare = backend.prepare
        self.asked = 0

    def answer(self, kind, prepared, known=()):
        self.asked += len(prepared) - len(known)
        return self.backend.answer(kind, prepared, known)


def test_replies_come_in_the_order_of_their_requests(tiny):
    """Whatever order the engine answers in."""
    forward = MistralLM(tiny).loglikelihood(scores())
    backward = MistralLM(tiny).loglikelihood(scores(CHOICES[::-1]))
    for (first, first_greedy), (second, second_greedy) in zip(forward, backward[::-1], strict=True):
        assert first == pytest.approx(second, abs=1e-4)
        assert first_greedy == second_greedy
    assert len({logprob for logprob, _ in forward}) == len(CHOICES)


def test_equal_requests_are_computed_once(tiny):
    counting = Counting(tiny)
    lm = MistralLM(counting)
    replies = lm.loglikelihood(scores(CHOICES * 3))
    assert counting.asked == len(CHOICES)
    assert (lm.computed, lm.reused) == (len(CHOICES), 0)
    assert replies == replies[: len(CHOICES)] * 3


def test_equal_greedy_prompts_of_two_questions_are_computed_once(tiny):
    counting = Counting(tiny)
    greedy = {"do_sample": False, "temperature": 0.0}
    first, second = MistralLM(counting).generate_until(
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
    first = MistralLM(counting, log)
    replies = ask(first)
    total = len(CHOICES) + 3 + 1
    assert (first.computed, first.reused, counting.asked) == (total, 0, total)
    second = MistralLM(counting, log)
    assert ask(second) == replies
    assert (second.computed, second.reused, counting.asked) == (0, total, total)


def test_what_was_answered_before_an_error_is_not_computed_again(tiny, log):
    class Failing(Counting):
        def answer(self, kind, prepared, known=()):
            for count, reply in enumerate(super().answer(kind, prepared, known)):
                if count == 5:
                    raise KeyboardInterrupt
                yield reply

    with pytest.raises(KeyboardInterrupt):
        MistralLM(Failing(tiny), log).loglikelihood(scores())
    log.flush()
    lm = MistralLM(tiny, log)
    assert lm.loglikelihood(scores()) == MistralLM(tiny).loglikelihood(scores())
    assert (lm.computed, lm.reused) == (len(CHOICES) - 5, 5)


def test_an_engine_that_ends_early_is_told_of_and_what_it_answered_is_durable(tiny, log):
    class Ending(Counting):
        def answer(self, kind, prepared, known=()):
            yield from itertools.islice(super().answer(kind, prepared, known), 5)

    with pytest.raises(EndedEarlyError, match="ended with 11 of 16 requests unanswered"):
        MistralLM(Ending(tiny), log).loglikelihood(scores())
    assert log.count() == 5


def test_the_backend_asks_the_stopper_and_is_asked_inside_of_its_block(log):
    class Stopper:
        is_inside = False

        @contextmanager
        def deferred(self):
            self.is_inside = True
            yield
            self.is_inside = False
            assert log.count() == len(CHOICES)

        def is_wanted(self):
            assert self.is_inside
            return False

    stopper, backend = Stopper(), RandomBackend(0)
    MistralLM(backend, log, stopper=stopper).loglikelihood(scores())
    assert backend.stopping == stopper.is_wanted


def test_the_backend_sees_all_requests_of_a_call_and_which_are_known(tiny, log):
    """So that its packs are those of an undisturbed run, whatever the log has."""

    class Heard(Counting):
        def answer(self, kind, prepared, known=()):
            heard.append((len(prepared), sorted(known)))
            return super().answer(kind, prepared, known)

    heard: list[tuple[int, list[int]]] = []
    MistralLM(tiny, log).loglikelihood(scores(CHOICES[2:5]))
    MistralLM(Heard(tiny), log).loglikelihood(scores(CHOICES * 2))
    MistralLM(Heard(tiny), log).loglikelihood(scores())
    assert heard == [(16, [2, 3, 4]), (16, list(range(16)))]


@pytest.mark.parametrize("backend", ["tiny", "random", "oracle", "hf"])
def test_a_backend_answers_what_is_not_known_and_nothing_else(tiny, backend):
    made = {
        "tiny": lambda: tiny,
        "random": lambda: RandomBackend(0),
        "oracle": lambda: OracleBackend(lambda one: one.idx == 0, lambda _: "text"),
        "hf": lambda: open_hf("tiny"),
    }[backend]()
    for kind, asks in (
        ("score", [Ask(one) for one in scores()]),
        ("generate", [Ask(prompt(n), n) for n in range(5)]),
    ):
        prepared = [made.prepare(kind, ask) for ask in asks]
        known = {1, 2, 4}
        found = [index for index, _ in made.answer(kind, prepared, known)]
        assert sorted(found) == sorted(set(range(len(asks))) - known)


def test_the_watcher_hears_of_every_reply_and_of_those_known_before(tiny, log):
    class Watch:
        def begin(self, keys, asks, known):
            self.keys, self.known, self.heard = keys, dict(known), {}
            assert [ask.instance.args for ask in asks] == CHOICES

        def reply(self, key, reply):
            assert key not in self.heard
            self.heard[key] = reply

    MistralLM(tiny, log).loglikelihood(scores(CHOICES[:4]))
    watch = Watch()
    found = MistralLM(tiny, log, watch).loglikelihood(scores())
    assert set(watch.known) == set(watch.keys[:4])
    assert set(watch.heard) == set(watch.keys[4:])
    replies = watch.known | watch.heard
    assert [(replies[key]["logprob"], replies[key]["is_greedy"]) for key in watch.keys] == found


def test_samples_of_one_question_are_different_draws_that_come_again(tiny):
    first = MistralLM(tiny).generate_until([prompt()] * 6)
    assert len(set(first)) == 6
    assert MistralLM(tiny).generate_until([prompt()] * 6) == first


def test_another_seed_draws_other_samples(tiny):
    other = replace(tiny, seed=1)
    first = MistralLM(tiny).generate_until([prompt()] * 4)
    assert set(first).isdisjoint(MistralLM(other).generate_until([prompt()] * 4))


def test_two_questions_with_one_text_are_drawn_apart(tiny):
    first, second, third = MistralLM(tiny).generate_until(
        [prompt(1), prompt(2), prompt(1, task="other")]
    )
    assert len({first, second, third}) == 3


def test_a_draw_does_not_depend_on_what_is_asked_beside_it_or_before_it(tiny):
    """Alone, among others, in another order, with a smaller budget: the same text."""
    mine = [prompt(7, "The third question")] * 3
    others = [prompt(n, "Another question " * n) for n in range(1, 5)]
    alone = MistralLM(tiny).generate_until(mine)
    mixed = MistralLM(tiny).generate_until([*others, *mine])
    between = MistralLM(tiny).generate_until([mine[0], *others, *mine[1:]])
    small = MistralLM(open_native("tiny", batch_tokens=16)).generate_until([*mine, *others])
    assert mixed[4:] == alone
    assert [between[0], *between[5:]] == alone
    assert small[:3] == alone
    assert MistralLM(tiny).generate_until(mine[:1]) == alone[:1]


def test_no_reply_crosses_from_one_model_dtype_seed_or_setting_to_another(tiny, log, tmp_path):
    """Everyone asks the same over one log, and everyone has to compute."""
    folder = save_hf(make_tiny(seed=1), tmp_path / "m", tokenizer_file=tiny_tokenizer_file())
    models = [tiny, open_native("tiny", dtype="bfloat16"), open_native(str(folder))]
    for backend in [*models, replace(tiny, seed=1), RandomBackend(0), RandomBackend(1)]:
        lm = MistralLM(backend, log)
        lm.loglikelihood(scores())
        assert (lm.computed, lm.reused) == (len(CHOICES), 0), backend.fingerprint
    settings = [
        {},
        {"temperature": 0.5},
        {"top_p": 0.9},
        {"top_k": 5},
        {"max_gen_toks": 5},
        {"until": ["Q:"]},
        {"do_sample": False},
    ]
    for backend in (tiny, replace(tiny, seed=1)):
        for one in settings:
            lm = MistralLM(backend, log)
            lm.generate_until([prompt(**one)])
            assert (lm.computed, lm.reused) == (1, 0), one


def test_lm_eval_knows_the_adapter_by_name_and_opens_it_from_its_arguments():
    lm = get_model("mistral").create_from_arg_string(
        "pretrained=tiny,dtype=bfloat16", {"batch_size": 4, "device": "cpu"}
    )
    assert lm.backend.info["model_dtype"] == "torch.bfloat16"
    assert [type(reply) for reply in lm.loglikelihood(scores()[:1])[0]] == [float, bool]


def test_replies_are_plain_python_whatever_the_engine(tiny, log):
    """A reply from the log is the same kind of thing as a fresh one."""
    fresh = MistralLM(tiny, log).loglikelihood(scores()[:2])
    known = MistralLM(tiny, log).loglikelihood(scores()[:2])
    assert Counter(map(type, fresh[0])) == Counter(map(type, known[0])) == {float: 1, bool: 1}


@pytest.mark.parametrize("kind", ["loglikelihood", "loglikelihood_rolling", "generate_until"])
def test_a_request_that_cannot_be_answered_is_named_by_its_question(tiny, kind):
    """The engine counts what it is given, windows of texts too; a user knows benchmarks."""

    class Broken:
        stats = tiny.engine.stats

        def score(self, requests, known=()):
            raise RequestError("score", 5, "it is broken")
            yield

        generate = score

    lm = MistralLM(replace(tiny, engine=Broken(), context_len=16))
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
