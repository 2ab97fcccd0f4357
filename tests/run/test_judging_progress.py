"""While replies are judged the bar moves inside a benchmark, not only from one to the next."""

import time
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from mistral_eval.answers.completions import Program
from mistral_eval.console import Phase, Talk
from mistral_eval.run.run import run_suite
from mistral_eval.run.watching import JudgeRow
from mistral_eval.sandbox import run_programs
from mistral_eval.settings import RunSettings
from mistral_eval.suite.benchmark import JudgeContext
from mistral_eval.suite.registry import BY_ID


class Watcher(Talk):
    """Keeps each phase that would be displayed."""

    def __init__(self) -> None:
        super().__init__()
        self.phases: dict[str, Phase] = {}

    def say(self, text):
        pass

    @contextmanager
    def show(self, phase):
        self.phases[phase.label] = phase
        yield


def test_the_bar_counts_questions_and_moves_inside_math(tmp_path: Path, monkeypatch):
    talk, told = Watcher(), []
    advance = JudgeRow.advance

    def noted(row: JudgeRow, *counts: int) -> None:
        advance(row, *counts)
        winogrande, math = talk.phases["Judging"].rows
        told.append((winogrande.done, math.done, winogrande.note, math.note))

    monkeypatch.setattr(JudgeRow, "advance", noted)
    settings = RunSettings(
        tasks=("winogrande", "math"), engine="oracle-wrong", data="sample", output_path=tmp_path
    )
    run_suite(settings, talk)

    assert told == sorted(told)
    assert {row[0] for row in told} == {16}
    assert len({row[1] for row in told} - {0, 16}) > 5
    score = "0.0 [0.0, 19.4]"
    assert {row[2:] for row in told} == {(score, "")}, "a score once all is judged, and not before"
    ended = [(row.done, row.total, row.note) for row in talk.phases["Judging"].rows]
    assert ended == [(16, 16, score)] * 2


@pytest.mark.sandbox
def test_programs_are_reported_one_by_one(sandbox):
    told = []
    context = JudgeContext(sandbox, on_done=lambda *counts: told.append(counts), workers=2)
    rows = [{"task_id": n, "test_imports": [], "test_list": ["assert f() == 1"]} for n in range(5)]
    replies = [["def f(): return 1", "def f(): return 2"]] * 5
    found = BY_ID["mbpp"].judge(rows, replies, context)

    assert told == [(done, 10) for done in range(1, 11)]
    assert [verdict.metrics["pass@1"] for verdict in found] == [0.5] * 5


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
    """While a program waits, another one runs."""
    wait = Program("w", "import time\ntime.sleep(1)\ndef f(): return 1", "", "", ("f()",), ("f",))
    spans = []
    for _, result in run_programs([wait] * 4, isolation=sandbox, unsafe=False, workers=2):
        ended = time.monotonic()
        spans.append((ended - result.seconds, ended))
        assert str(result.status) == "passed"
        assert result.seconds > 1
    spans.sort()

    assert any(begins < ended for (_, ended), (begins, _) in pairwise(spans))
