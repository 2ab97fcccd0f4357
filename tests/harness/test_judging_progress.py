"""While replies are judged the bar moves inside a benchmark, not only from one to the next."""

import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from mistral_eval.answers.programs import Program
from mistral_eval.console import Talk
from mistral_eval.harness.run import run_suite
from mistral_eval.protocol import JudgeContext, judge
from mistral_eval.sandbox import run_programs
from mistral_eval.settings import RunSettings


class Watcher(Talk):
    """Keeps what each display was told."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.told: dict[str, list[tuple[int, int]]] = {}

    @contextmanager
    def progress(self, label):
        steps = self.told[label] = []

        class Steps:
            @staticmethod
            def update(done: int, total: int) -> None:
                steps.append((done, total))

        yield Steps


def test_the_bar_counts_questions_and_moves_inside_math(tmp_path: Path):
    talk = Watcher()
    settings = RunSettings(
        tasks=("winogrande", "math"), engine="oracle-wrong", data="sample", output_path=tmp_path
    )
    run_suite(settings, talk)
    told = talk.told["Judging"]

    assert {total for _, total in told} == {16 + 16}
    assert told == sorted(told)
    assert (told[0], told[-1]) == ((16, 32), (32, 32))
    inside = {done for done, _ in told} - {16, 32}
    assert len(inside) > 5


@pytest.mark.sandbox
def test_programs_are_reported_one_by_one(sandbox):
    told = []
    context = JudgeContext(sandbox, on_done=lambda *counts: told.append(counts), workers=2)
    rows = [{"task_id": n, "test_imports": [], "test_list": ["assert f() == 1"]} for n in range(5)]
    replies = [["def f(): return 1", "def f(): return 2"]] * 5
    verdicts = judge("mbpp", rows, replies, context=context)

    assert told == [(done, 10) for done in range(1, 11)]
    assert [verdict.metrics["pass@1"] for verdict in verdicts] == [0.5] * 5


def test_comparisons_of_formulas_are_reported():
    told = []
    context = JudgeContext(on_done=lambda *counts: told.append(counts), workers=2)
    rows = [{"solution": rf"\boxed{{{n}}}", "answer": str(n), "problem": ""} for n in range(6)]
    replies = [[rf"The final answer is \frac{{{2 * n + 2}}}{{2}}"] for n in range(6)]
    judge("math", rows, replies, context=context)

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
