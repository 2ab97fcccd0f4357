"""The arithmetic of progress: time left goes by tokens, a score is over complete questions."""

import pytest

from mistral_eval.errors import EngineError
from mistral_eval.progress import PAUSE, Board, Phase, Work
from mistral_eval.stats import wilson


class Clock:
    """Seconds that pass when a test says so, and by `step` at each look."""

    def __init__(self, step: float = 0.0) -> None:
        self.now = 100.0
        self.step = step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


class Counts:
    """What an engine has read and written, and will have read."""

    def __init__(self, to_read: float = 0, read: float = 0, written: float = 0) -> None:
        self.to_read, self.read, self.written = to_read, read, written

    def work(self, finished: float = 0) -> Work:
        return Work(
            "tokens", lambda: self.read, lambda: self.to_read, lambda: self.written, finished
        )


def right(question, replies) -> bool:
    """A judge: questions with an odd sum are right."""
    del question
    return sum(replies) % 2 == 1


def always() -> bool:
    return True


def test_time_left_is_by_tokens_and_not_by_requests():
    """Ten short requests are done, a long one is not: by requests almost nothing would be left."""
    clock, counts = Clock(), Counts(to_read=1000)
    phase = Phase("Scoring", [Board("MMLU", [1] * 11)], counts.work(), clock)
    clock.now += 5
    phase.start()
    for question in range(10):
        phase.boards[0].take(question, 0, None)
    counts.read, clock.now = 100, clock.now + 2
    found = phase.snapshot()

    assert (found.elapsed, found.rate) == (7, 50)  # speed without what came before the work
    assert found.left == (1000 - 100) / 50
    assert (found.standings[0].done, found.standings[0].total) == (10, 11)


def test_nothing_is_said_of_what_nobody_knows():
    counts = Counts()
    phase = Phase("Scoring", [Board("MMLU", [1])], counts.work(), Clock())
    found = phase.snapshot()
    assert (found.rate, found.left) == (None, None)
    counts.to_read = 100  # the tree is built, and nothing computed
    assert (phase.snapshot().rate, phase.snapshot().left) == (None, None)


def test_replies_to_come_are_as_long_as_those_so_far_and_no_longer_than_the_limit():
    board = Board("GSM8K", [4, 4], limit=512)
    board.pending = 8
    assert board.to_write == 8 * 512
    board.note_length(100)
    board.note_length(200)
    board.pending = 6
    assert board.to_write == 6 * 150
    board.limit = 120
    assert board.to_write == 6 * 120


def test_each_benchmarks_replies_have_their_own_length():
    """NQ's few words say nothing of how long GSM8K's replies will be."""
    short, long = Board("NQ", [1] * 10, limit=50), Board("GSM8K", [1] * 10, limit=512)
    short.pending, long.pending = 5, 10
    for _ in range(5):
        short.note_length(4)
    counts = Counts(to_read=1000, read=1000, written=20)
    assert counts.work(finished=20).left([short, long]) == 5 * 4 + 10 * 512


def test_what_unfinished_replies_have_written_is_not_still_to_come():
    board = Board("GSM8K", [8], limit=100)
    board.pending = 8
    counts = Counts(to_read=50, read=50, written=8 * 30)
    assert counts.work().left([board]) == 8 * 70
    counts.written = 8 * 200  # longer than was to be expected
    assert counts.work().left([board]) == 0


def test_tokens_computed_twice_leave_no_negative_time():
    assert Counts(to_read=100, read=130).work().left([]) == 0


def test_a_question_counts_when_its_last_reply_is_there_in_any_order():
    board = Board("GSM8K", [2, 2, 1], right)
    board.take(1, 1, 4)
    board.take(0, 1, 1)
    board.judge(always)
    assert (board.judged, board.standing.score) == (0, None)
    board.take(1, 0, 3)
    board.take(2, 0, 2)
    board.judge(always)
    assert (board.done, board.judged, board.correct) == (4, 2, 1)
    assert board.standing.score == wilson(1, 2)


def test_judging_on_the_way_takes_a_small_share_of_the_time():
    """Each look at this clock takes 1 ms: 2 % of half a second are ten looks, not a thousand."""
    clock = Clock()
    board = Board("MMLU", [1] * 1000, right)
    phase = Phase("Scoring", [board], Counts().work(), clock)
    for question in range(1000):
        board.take(question, 0, 1)
    clock.now += PAUSE / 2
    phase.judge_some()
    assert board.judged == 0, "too early"
    clock.now, clock.step = 100.5, 0.001
    phase.judge_some()
    assert 5 <= board.judged <= 11
    before = board.judged
    phase.judge_some()
    assert board.judged == before


def test_a_reply_that_cannot_be_judged_ends_the_score_and_not_the_run():
    def refuse(question, replies) -> bool:
        del replies
        if question == 1:
            raise EngineError("expected log-likelihoods, found nan")
        return True

    board = Board("MMLU", [1, 1, 1], refuse)
    for question in range(3):
        board.take(question, 0, 0)
    board.judge(always)
    assert (board.done, board.judged, board.standing.score) == (3, 0, None)


def test_without_a_judge_requests_are_counted_alone():
    board = Board("HumanEval", [1, 1])
    board.take(0, 0, "def f(): pass")
    board.judge(always)
    assert (board.done, board.total, board.standing.score) == (1, 2, None)


@pytest.mark.parametrize("moment", [0.0, 1.0])
def test_a_snapshot_names_its_work(moment):
    clock = Clock()
    phase = Phase("Judging", [Board("NQ", [1]), Board("MATH", [4])], Counts().work(), clock)
    clock.now += moment
    found = phase.snapshot()
    assert (found.label, found.unit, found.elapsed) == ("Judging", "tokens", moment)
    assert [standing.column for standing in found.standings] == ["NQ", "MATH"]
