"""What a display hears of a run: counts, tokens as the engine counts them, the judge's scores."""

from contextlib import contextmanager
from itertools import pairwise

import pytest

from mistral_eval.console import Talk
from mistral_eval.data import make_source
from mistral_eval.engines.lm_eval_model import MistralLM
from mistral_eval.engines.open_native import open_native
from mistral_eval.engines.random import RandomBackend
from mistral_eval.record.journal import Journal
from mistral_eval.run.judging import judge_benchmark
from mistral_eval.run.questions import Asking, load_benchmarks
from mistral_eval.run.run import run_suite
from mistral_eval.run.watching import AnswerWatch
from mistral_eval.settings import RunSettings
from mistral_eval.suite.benchmark import JudgeContext

CHOICES = ("mmlu", "hellaswag", "winogrande", "piqa", "arc_easy", "arc_challenge")
TEXTS = ("nq", "triviaqa", "gsm8k")


class Spy(Talk):
    """A voice that prints nothing and keeps what each display would have shown at its end."""

    def __init__(self) -> None:
        super().__init__(quiet=False)
        self.last = {}

    def say(self, text):
        del text

    @contextmanager
    def show(self, look):
        yield
        self.last[look().label] = look()


def load(*names, limit=None):
    return list(load_benchmarks(names, Asking(make_source("sample"), limit, None, unpinned=False)))


def ask(kind, loaded, backend, journal=None):
    """All replies to the benchmarks, watched: (watch, replies by benchmark and question)."""
    watch = AnswerWatch(kind, loaded, backend)
    lm = MistralLM(backend, journal, watch)
    method = lm.loglikelihood if kind == "score" else lm.generate_until
    replies = iter(method([instance for one in loaded for instance in one.instances]))
    return watch, [
        [
            [next(replies) for one in question.instances for _ in range(one.repeats or 1)]
            for question in benchmark.questions
        ]
        for benchmark in loaded
    ]


@pytest.mark.parametrize(("kind", "names"), [("score", CHOICES), ("generate", TEXTS)])
def test_scores_on_the_way_are_the_final_judges(kind, names):
    loaded = load(*names)
    watch, replies = ask(kind, loaded, RandomBackend(3))
    for board, benchmark, answers in zip(watch.phase.boards, loaded, replies, strict=True):
        board.judge(lambda: True)
        cell = judge_benchmark(benchmark, answers, JudgeContext()).cell
        assert (board.column, board.done) == (benchmark.benchmark.column, board.total)
        assert (board.correct, board.judged) == (cell.correct, cell.n)
        score = board.standing.score
        assert (score.value, score.low, score.high) == (cell.value, cell.low, cell.high)


def test_half_of_the_replies_score_the_questions_they_complete():
    (loaded,) = load("piqa")
    backend = RandomBackend(1)
    _, (answers,) = ask("score", [loaded], backend)
    watch = AnswerWatch("score", [loaded], backend)
    keys = [bytes([n]) for n in range(32)]
    asks = [_ask(instance) for instance in loaded.instances]
    watch.begin(keys, asks, {})
    flat = [answer for question in answers for answer in question]
    for n in (*range(1, 15), 30):  # questions 1 to 6 are complete, halves of 0, 7 and 15
        watch.reply(keys[n], {"logprob": flat[n][0], "is_greedy": False})
    (board,) = watch.phase.boards
    board.judge(lambda: True)
    expected = judge_benchmark(loaded, answers, JudgeContext()).questions[1:7]
    assert (board.done, board.judged) == (15, 6)
    assert board.correct == sum(one.verdict.verdict.is_correct for one in expected)


def _ask(instance):
    from mistral_eval.engines.interface import Ask

    return Ask(instance)


def test_the_native_engines_tokens_are_what_is_done_and_left():
    loaded = load("mmlu", "winogrande", limit=2)
    backend = open_native("tiny", batch_tokens=64)
    watch = AnswerWatch("score", loaded, backend)
    left, take = [], watch.reply

    def reply(key, record):
        take(key, record)
        left.append(watch.phase.work.left(watch.phase.boards))

    watch.reply = reply
    lm = MistralLM(backend, watch=watch)
    lm.loglikelihood([instance for one in loaded for instance in one.instances])
    stats, work = backend.engine.stats, watch.phase.work
    assert work.unit == "tokens"
    assert work.done() == stats.score_computed == stats.score_unique
    assert all(earlier >= later for earlier, later in pairwise(left))
    assert left[0] > left[-1] == 0


def test_tokens_of_replies_are_foreseen_from_those_that_came():
    loaded = load("nq", "gsm8k", limit=2)
    backend = open_native("tiny", batch_tokens=64)
    watch, _ = ask("generate", loaded, backend)
    stats, work = backend.engine.stats, watch.phase.work
    assert work.finished == work.written() == stats.generated
    assert work.done() == stats.prompt_computed + stats.generated
    assert [board.replies for board in watch.phase.boards] == [2, 16]
    assert sum(board.length for board in watch.phase.boards) == stats.generated
    assert [board.pending for board in watch.phase.boards] == [0, 0]
    assert watch.phase.boards[1].limit == 512


def test_a_second_phase_does_not_count_what_the_engine_did_before():
    backend = open_native("tiny", batch_tokens=64)
    ask("score", load("winogrande", limit=2), backend)
    watch = AnswerWatch("score", load("piqa", limit=2), backend)
    assert (watch.phase.work.done(), watch.phase.work.left([])) == (0, None)


def test_engines_that_speak_text_are_weighed_by_characters():
    loaded = load("nq", "triviaqa")
    watch, replies = ask("generate", loaded, RandomBackend(0))
    prompts = sum(len(instance.args[0]) for one in loaded for instance in one.instances)
    texts = sum(len(text) for one in replies for question in one for text in question)
    assert watch.phase.work.unit == "characters"
    assert watch.phase.work.done() == prompts + texts
    assert watch.phase.work.left(watch.phase.boards) == 0


def test_replies_from_the_journal_are_done_and_are_no_work(tmp_path):
    backend = RandomBackend(0)
    with Journal(tmp_path / "journal.sqlite") as journal:
        ask("score", load("winogrande", limit=4), backend, journal)
        watch, _ = ask("score", load("winogrande", limit=8), backend, journal)
        again, _ = ask("score", load("winogrande", limit=8), backend, journal)
    (board,) = watch.phase.boards
    board.judge(lambda: True)
    assert (board.done, board.judged) == (16, 8)
    assert (
        0
        < watch.phase.work.done()
        < sum(len(text) for one in load("winogrande", limit=8)[0].instances for text in one.args)
    )
    assert again.phase.boards[0].done == 16
    assert again.phase.snapshot().rate is None


def test_equal_requests_are_one_piece_of_work_for_all_who_asked():
    loaded = load("winogrande", limit=3)
    (backend,) = (open_native("tiny"),)
    question = loaded[0].questions[0]
    loaded[0].questions[1:] = [question, question]
    watch, _ = ask("score", loaded, backend)
    (board,) = watch.phase.boards
    board.judge(lambda: True)
    assert (board.done, board.judged, board.pending) == (6, 3, 0)
    assert board.correct in (0, 3)


def test_a_runs_displays_end_with_everything_done_and_the_tables_scores(tmp_path):
    spy = Spy()
    tasks = ("winogrande", "nq", "math")
    settings = RunSettings(
        tasks=tasks, engine="oracle", data="sample", limit=4, output_path=tmp_path
    )
    run_suite(settings, spy)
    assert list(spy.last) == ["Scoring choices", "Generating replies", "Judging"]
    shown = {
        label: [(one.column, one.done, one.total) for one in found.standings]
        for label, found in spy.last.items()
    }
    assert shown == {
        "Scoring choices": [("WinoG", 8, 8)],
        "Generating replies": [("NQ", 4, 4), ("MATH", 16, 16)],
        "Judging": [("WinoG", 4, 4), ("NQ", 4, 4), ("MATH", 4, 4)],
    }
    assert [one.score.value for one in spy.last["Judging"].standings] == [100.0] * 3
