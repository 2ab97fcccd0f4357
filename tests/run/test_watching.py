"""Progress: what counts as done, how speed and time left are estimated, when a score is shown."""

import io
import re
from contextlib import contextmanager
from itertools import pairwise

import pytest

from mistral_eval.console import Talk, line
from mistral_eval.data import make_source
from mistral_eval.engines.model_free import Random
from mistral_eval.engines.native import open_native
from mistral_eval.errors import EndedEarlyError
from mistral_eval.run.answering import Answering
from mistral_eval.run.questions import Asking, load_benchmarks
from mistral_eval.run.run import run_suite
from mistral_eval.run.watching import SPEED_SECONDS, AnswerRow, AnswerWatch, Work
from mistral_eval.settings import RunSettings


class Engine:
    """An engine's counters and a clock, all moved by the test."""

    def __init__(self, *rows: AnswerRow, to_read: int = 0) -> None:
        self.now, self.read, self.to_read, self.written = 100.0, 0, to_read, 0
        self.rows = rows
        self.work = Work(
            "Generating replies",
            rows,
            "tokens",
            lambda: self.read,
            lambda: self.to_read,
            lambda: self.written,
            lambda: self.now,
        )

    def passes(self, seconds: float, read: int = 0, written: int = 0) -> None:
        self.now += seconds
        self.read += read
        self.written += written

    def ends(self, row: AnswerRow, length: int) -> None:
        """One of a benchmark's replies ends now."""
        row.pending -= 1
        row.replies += 1
        row.length += length
        row.longest = max(row.longest, length)
        self.work.ended(length)

    def left(self) -> tuple[float, bool]:
        return self.work.left(self.work.speed())


class TestWork:
    def test_time_left_goes_by_tokens_and_not_by_requests(self):
        """Ten short requests are done, one long one is not."""
        engine = Engine(AnswerRow("MMLU", 11, done=10, pending=1), to_read=1000)
        engine.passes(2, read=100)
        assert engine.work.speed() == 50
        assert engine.left() == ((1000 - 100) / 50, False)
        assert engine.work.pace() == "50 tokens/s, 0:00:02 so far, about 0:00:18 left"

    def test_what_is_not_known_is_left_out(self):
        engine = Engine(AnswerRow("MMLU", 1, pending=1))
        assert engine.work.pace() == "0:00:00 so far"
        engine.to_read = 100  # the prefix tree is built, and nothing computed
        engine.passes(3)
        assert engine.work.pace() == "0:00:03 so far"

    def test_speed_is_that_of_the_last_seconds_that_did_anything(self):
        engine = Engine(AnswerRow("MMLU", 1, pending=1), to_read=10**6)
        engine.passes(100, read=10_000)
        assert engine.work.speed() == 100
        for _ in range(10):
            engine.passes(SPEED_SECONDS / 10, read=30)
            assert engine.work.speed() is not None
        assert engine.work.speed() == pytest.approx(10)
        engine.passes(10 * SPEED_SECONDS)  # one long forward pass: not a speed of 0
        assert engine.work.speed() > 0

    def test_replies_to_come_are_as_long_as_those_of_their_benchmark_so_far(self):
        """NQ's few words say nothing of how long GSM8K's replies will be."""
        short, long = (
            AnswerRow("NQ", 1000, limit=50, pending=1000),
            AnswerRow("GSM8K", 1000, limit=512, pending=1000),
        )
        engine = Engine(short, long, to_read=1)
        engine.passes(10, read=1)
        for _ in range(500):
            engine.passes(0.02, written=4)
            engine.ends(short, 4)
        assert engine.work.left(speed=100) == ((500 * 4 + 1000 * 512) / 100, True)
        engine.passes(0, written=200)
        engine.ends(long, 200)
        assert engine.work.left(speed=100) == ((500 * 4 + 999 * 200) / 100, False)

    def test_the_last_long_replies_are_not_no_time_at_all(self):
        """Two replies go on that are longer than the mean, by which no time would be left."""
        row = AnswerRow("GSM8K", 100, limit=512, pending=2, replies=98, length=98 * 60, longest=200)
        engine = Engine(row, to_read=1000)
        engine.passes(10, read=1000, written=2 * 75)
        engine.work.fastest = 10.0  # tokens a second, of one reply
        assert engine.work.left(speed=20) == ((200 - 75) / 10, False)
        engine.passes(20, written=2 * 225)  # longer now than any that ended
        assert engine.work.left(speed=20) == ((512 - 300) / 10, True)
        assert "at most" in engine.work.pace()

    def test_one_reply_is_as_fast_as_all_that_run_together_at_least(self):
        """The last reply alone gets all of the speed."""
        row = AnswerRow("GSM8K", 10, limit=500, pending=1, replies=9, length=900, longest=100)
        engine = Engine(row, to_read=10)
        engine.passes(60, read=10, written=200)
        engine.work.fastest = 1.0
        assert engine.work.left(speed=50) == ((500 - 200) / 50, True)

    @pytest.mark.parametrize("seconds", [0.01, 0.3])
    def test_what_is_pending_is_never_in_no_time(self, seconds):
        row = AnswerRow("GSM8K", 10, limit=500, pending=1, replies=9, length=900, longest=100)
        engine = Engine(row, to_read=10)
        engine.passes(seconds, read=10, written=490)
        assert engine.work.pace().endswith("0:00:01 left")

    def test_tokens_computed_twice_leave_no_negative_time(self):
        engine = Engine(AnswerRow("MMLU", 1, pending=1), to_read=100)
        engine.passes(1, read=130)
        assert engine.left() == (0, False)

    def test_when_all_is_answered_no_time_left_is_shown(self):
        engine = Engine(AnswerRow("MMLU", 1), to_read=100)
        engine.passes(1, read=100)
        assert engine.work.pace() == "100 tokens/s, 0:00:01 so far"


class Spy(Talk):
    """Writes nothing, and keeps the lines that a log file would get."""

    def __init__(self) -> None:
        super().__init__(quiet=False)
        self.console.file = io.StringIO()
        self.lines = []

    @contextmanager
    def show(self, phase):
        self.lines.append(line(phase))
        try:
            yield
        finally:
            self.lines.append(line(phase))


def counts(text: str) -> str:
    """A line without its speed and time."""
    return text.rpartition("; ")[0]


def load(*names, limit=None):
    return list(load_benchmarks(names, Asking(make_source("sample"), limit, None, unpinned=False)))


def ask(kind, loaded, engine, log, heard=None):
    """Ask for all replies; the watch, and the lines that a log file would get."""
    talk = Spy()
    answering = Answering(engine, log)
    with AnswerWatch(kind, loaded, engine, talk) as answering.watch:
        watch = answering.watch
        if heard:
            take = watch.reply
            watch.reply = lambda key, reply: (take(key, reply), heard(watch))
        answering.answer([request for one in loaded for request in one.requests])
    return watch, talk.lines


def test_the_native_engines_tokens_are_what_is_done_and_left(log):
    loaded, left = load("mmlu", "winogrande", limit=2), []
    engine = open_native("tiny", batch_tokens=64)
    watch, lines = ask(
        "score", loaded, engine, log, heard=lambda watch: left.append(watch.work.left(1.0)[0])
    )
    stats = engine.counters
    assert watch.work.unit == "tokens"
    assert watch.work.done == stats.score_computed == stats.score_unique
    assert all(earlier >= later for earlier, later in pairwise(left))
    assert left[0] > left[-1] == 0
    assert [counts(one) for one in lines] == [
        "Scoring choices: MMLU 0/8; WinoG 0/4",
        "Scoring choices: MMLU 8/8; WinoG 4/4",
    ]


def test_lengths_of_replies_are_those_that_the_engine_drew(log):
    loaded = load("nq", "gsm8k", limit=2)
    engine = open_native("tiny", batch_tokens=64)
    watch, _ = ask("generate", loaded, engine, log)
    stats, work = engine.counters, watch.work
    assert work.finished == work.written() == stats.generated
    assert work.done == stats.prompt_computed + stats.generated
    assert [row.replies for row in watch.work.rows] == [2, 16]
    assert sum(row.length for row in watch.work.rows) == stats.generated
    assert [row.pending for row in watch.work.rows] == [0, 0]
    assert watch.work.rows[1].longest <= watch.work.rows[1].limit == 512
    assert work.fastest > 0


def test_a_second_phase_does_not_count_what_the_engine_did_before(log):
    engine = open_native("tiny", batch_tokens=64)
    ask("score", load("winogrande", limit=2), engine, log)
    watch = AnswerWatch("score", load("piqa", limit=2), engine, Spy())
    assert (watch.work.done, watch.work.speed()) == (0, None)


def test_engines_that_speak_text_are_weighed_by_characters(log):
    loaded = load("nq", "triviaqa")
    watch, _ = ask("generate", loaded, Random(0), log)
    prompts = sum(len(request.context) for one in loaded for request in one.requests)
    assert watch.work.unit == "characters"
    assert watch.work.done == prompts + sum(row.length for row in watch.work.rows)
    assert watch.work.left(1.0) == (0, False)


def test_a_resumed_run_starts_its_count_where_it_is(log):
    """Replies from the replies log are done at the start, and are no work."""
    engine = Random(0)
    ask("score", load("winogrande", limit=4), engine, log)
    watch, lines = ask("score", load("winogrande", limit=8), engine, log)
    again, same = ask("score", load("winogrande", limit=8), engine, log)
    everything = load("winogrande", limit=8)[0].requests
    assert 0 < watch.work.done < sum(len(one.context) + len(one.continuation) for one in everything)
    assert [counts(one) for one in lines] == [
        "Scoring choices: WinoG 8/16",
        "Scoring choices: WinoG 16/16",
    ]
    assert [counts(one) for one in same] == ["Scoring choices: WinoG 16/16"] * 2
    assert (again.work.done, again.work.speed()) == (0, None)


def test_equal_requests_are_one_piece_of_work_for_all_who_asked(log):
    loaded = load("winogrande", limit=3)
    loaded[0].questions[1:] = [loaded[0].questions[0]] * 2
    watch, _ = ask("score", loaded, open_native("tiny"), log)
    (row,) = watch.work.rows
    assert (row.done, row.total, row.pending, row.replies) == (6, 6, 0, 2)


def test_a_phase_that_ends_early_leaves_its_last_line(log):
    class Ends(Random):
        def answer(self, *arguments):
            yield from list(super().answer(*arguments))[:3]

    talk, loaded, engine = Spy(), load("winogrande", limit=4), Ends(0)
    answering = Answering(engine, log)
    with (
        pytest.raises(EndedEarlyError),
        AnswerWatch("score", loaded, engine, talk) as answering.watch,
    ):
        answering.answer(loaded[0].requests)
    assert [counts(one) for one in talk.lines] == [
        "Scoring choices: WinoG 0/8",
        "Scoring choices: WinoG 3/8",
    ]


def test_a_run_shows_scores_when_it_has_judged_and_not_before(tmp_path):
    spy = Spy()
    tasks = ("winogrande", "nq", "math")
    settings = RunSettings(
        tasks=tasks, engine="oracle", data="sample", limit=4, output_path=tmp_path
    )
    run_suite(settings, spy)
    score = "100.0 [51.0, 100.0]"
    assert [counts(one) for one in spy.lines] == [
        "Scoring choices: WinoG 0/8",
        "Scoring choices: WinoG 8/8",
        "Generating replies: NQ 0/4; MATH 0/16",
        "Generating replies: NQ 4/4; MATH 16/16",
        "Judging: WinoG 0/4; NQ 0/4; MATH 0/4",
        f"Judging: WinoG 4/4 {score}; NQ 4/4 {score}; MATH 4/4 {score}",
    ]
    for judging in spy.lines[-2:]:  # a program takes a thousand times as long as a choice
        assert re.search(r"; \d:\d\d:\d\d so far$", judging)


def test_a_quiet_run_has_no_watch(tmp_path, monkeypatch):
    monkeypatch.setattr(AnswerWatch, "__init__", lambda *_: pytest.fail("watched"))
    settings = RunSettings(
        tasks=("winogrande",), engine="oracle", data="sample", limit=2, output_path=tmp_path
    )
    run_suite(settings, Talk(quiet=True))
    with pytest.raises(pytest.fail.Exception, match="watched"):
        run_suite(settings.model_copy(update={"fresh": True}), Spy())
