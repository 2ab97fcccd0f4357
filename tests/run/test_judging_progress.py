"""While replies are judged the bar moves inside a benchmark, not only from one to the next."""

import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from mistral_eval.answers.completions import Program
from mistral_eval.console import Look, Talk
from mistral_eval.run.run import run_suite
from mistral_eval.run.watching import JudgeWatch
from mistral_eval.sandbox import run_programs
from mistral_eval.settings import RunSettings
from mistral_eval.suite.benchmark import JudgeContext
from mistral_eval.suite.registry import BY_ID


class Watcher(Talk):
    """Keeps what each display was told."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.looks: dict[str, Look] = {}

    @contextmanager
    def show(self, look):
        self.looks[look().label] = look
        yield


def test_the_bar_counts_questions_and_moves_inside_math(tmp_path: Path, monkeypatch):
    talk, told = Watcher(), []
    advance = JudgeWatch.done

    def done(watch: JudgeWatch, *counts: int) -> None:
        advance(watch, *counts)
        winogrande, math = talk.looks["Judging"]().standings
        told.append((winogrande.done, math.done))

    monkeypatch.setattr(JudgeWatch, "done", done)
    settings = RunSettings(
        tasks=("winogrande", "math"), engine="oracle-wrong", data="sample", output_path=tmp_path
    )
    run_suite(settings, talk)

    assert told == sorted(told)
    assert {done for done, _ in told} == {16}
    assert len({done for _, done in told} - {0, 16}) > 5
    ended = talk.looks["Judging"]()
    assert [(one.done, one.total, one.judged) for one in ended.standings] == [(16, 16, 16)] * 2
    assert [one.score.value for one in ended.standings] == [0.0, 0.0]


@pytest.mark.sandbox
def test_programs_are_reported_one_by_one(sandbox):
    told, verdicts = [], []
    context = JudgeContext(
        sandbox, on_done=lambda *counts: told.append(counts), on_verdict=verdicts.append, workers=2
    )
    rows = [{"task_id": n, "test_imports": [], "test_list": ["assert f() == 1"]} for n in range(5)]
    replies = [["def f(): return 1", "def f(): return 2"]] * 5
    found = BY_ID["mbpp"].judge(rows, replies, context)

    assert told == [(done, 10) for done in range(1, 11)]
    assert [verdict.metrics["pass@1"] for verdict in found] == [0.5] * 5
    assert verdicts == [], "of two programs neither is the question's verdict"
    BY_ID["mbpp"].judge(rows, [samples[:1] for samples in replies], context)
    assert verdicts == [True] * 5


def test_comparisons_of_formulas_are_reported():
    told = []
    context = JudgeContext(on_done=lambda *counts: told.append(counts), workers=2)
    rows = [{"solution": rf"\boxed{{{n}}}", "answer": str(n), "problem": ""} for n in range(6)]
    replies = [[rf"The final answer is \frac{{{2 * n + 2}}}{{2}}"] for n in range(6)]
    BY_ID["math"].judge(rows, replies, context)

    assert told[-1] == (6, 6)
    assert len({done for done, _ in told}) > 2


@pytest.mark.sandbox
def test_programs_keep_two_workers_busy_at_once(sandbox):
    """Two programs that wait together take the time of one."""
    wait = Program("w", "import time\ntime.sleep(1)\ndef f(): return 1", "", "", ("f()",), ("f",))
    start = time.monotonic()
    results = dict(run_programs([wait] * 4, isolation=sandbox, unsafe=False, workers=2))
    elapsed = time.monotonic() - start
    each = [result.seconds for result in results.values()]

    assert [str(result.status) for result in results.values()] == ["passed"] * 4
    assert min(each) > 1
    assert elapsed < sum(each)
