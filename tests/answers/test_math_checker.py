"""Comparisons run in processes that can be killed, one without harm to the others."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mistral_eval.answers.latex.boxed import Equality, boxed_answer
from mistral_eval.answers.math_checker import MathChecker
from mistral_eval.errors import MistralEvalError
from tests.processes import is_alive

PATIENCE = 300.0  # seconds that a busy machine may take for what a free one does at once
HANGING = ("((x^{5000})^{5000})^{5000}", "x^{2}")
CASES = json.loads((Path(__file__).parent / "cases" / "latex.json").read_text("utf-8"))
PIECES = st.sampled_from(
    [*"12x_^=,()[]!<|e{}+-", r"\frac", r"\sqrt", r"\pi", r"\pm", r"\infty", r"\cup", r"\text{ }"]
)
LATEX = st.lists(PIECES, max_size=12).map(" ".join)
ANY_TEXT = st.one_of(LATEX, st.text(st.characters(codec=None), max_size=50))


@pytest.fixture(scope="module")
def checker():
    """One checker for the tests of this file."""
    with MathChecker(workers=2) as opened:
        yield opened


def wait_until_gone(pids: list[int]) -> list[int]:
    """Wait until none of the processes is there; return those that do not go."""
    end = time.monotonic() + PATIENCE
    while any(map(is_alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return [pid for pid in pids if is_alive(pid)]


def work_of(pid: int) -> int:
    """The processor time that a process has used, in ticks of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def wait_until_busy(pids: list[int]) -> None:
    """Wait until each process has worked for 0.2 seconds from now on."""
    before = {pid: work_of(pid) for pid in pids}
    end = time.monotonic() + PATIENCE
    while any(work_of(pid) - before[pid] < 20 for pid in pids):
        assert time.monotonic() < end, "the comparisons did not begin"
        time.sleep(0.05)


def test_results_keep_the_order_of_the_pairs(checker):
    """Duplicates and identical strings get their result at their place."""
    pairs = [("1", "2"), ("1/2", "0.5"), ("x", "x"), ("1", "2"), ("0.5", "1/2"), ("{", "{")]

    expected = ["different", "equal", "equal", "different", "equal", "equal"]

    assert expected == checker.equal_many(pairs)
    assert checker.equal_many([]) == []


def test_the_case_table_holds_through_the_processes(checker):
    """A worker says what the function says in this process."""
    pairs = [(case["gold"], case["answer"]) for case in CASES]

    assert [case["expected"] for case in CASES] == checker.equal_many(pairs)


def test_progress_counts_every_comparison(checker):
    """The callback sees the number done rise to the number in all."""
    seen = []

    checker.equal_many([(str(n), str(n + 1)) for n in range(50)], lambda *done: seen.append(done))

    assert seen[-1] == (50, 50)
    assert seen == sorted(seen)


def test_a_hanging_comparison_is_a_timeout_and_the_others_go_on():
    """The kernel ends the worker at its limit; its neighbours' results are right."""
    others = [(f"{n}/2", str(n / 2)) for n in range(40)]
    with MathChecker(workers=2, limit_seconds=1) as checker:
        results = checker.equal_many([*others[:20], HANGING, *others[20:], HANGING[::-1]])

    assert [Equality.EQUAL] * 20 == results[:20] == results[21:41]
    assert [results[20], results[41]] == [Equality.TIMEOUT] * 2


def test_a_comparison_without_memory_is_a_timeout():
    """A worker that may not allocate ends alone, and the checker goes on."""
    big = "x" * 5_000_000
    with MathChecker(workers=1, memory_bytes=1) as checker:
        results = checker.equal_many([(big, big + "y"), ("1", "2")])

    assert results[0] is Equality.TIMEOUT


def test_a_worker_that_dies_is_not_an_answer(checker):
    """A worker killed from outside gives `failed`, and a new one takes its place."""
    for n in count():  # one that dies before it was ready is an error of the installation
        if all(worker.ready for worker in checker._workers):
            break
        checker.equal_many([(f"x+{n}", "y")])
    victims = [worker._process.pid for worker in checker._workers]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    results = checker.equal_many([(f"{n}/2", str(n / 2)) for n in range(20)])

    assert {"equal", "failed"} >= set(results)
    assert results.count(Equality.FAILED) <= len(victims)
    assert wait_until_gone(victims) == []


def test_nothing_is_left_behind():
    """Leaving the checker ends its processes, on an exception too."""
    pids = []

    def interrupted() -> None:
        with MathChecker(workers=2) as checker:
            pids.extend(worker._process.pid for worker in checker._workers)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    assert [len(pids), wait_until_gone(pids)] == [2, []]


SCRIPT = f"""
import sys
from mistral_eval.answers.math_checker import MathChecker
with MathChecker(workers=2, limit_seconds=float(sys.argv[1])) as checker:
    print(*(worker._process.pid for worker in checker._workers), flush=True)
    checker.equal_many([{HANGING!r}, {HANGING[::-1]!r}])
"""


@pytest.mark.parametrize(("ending", "limit"), [(signal.SIGINT, 10_000), (signal.SIGKILL, 5)])
def test_workers_end_with_the_process_that_started_them(ending, limit):
    """Ctrl-C ends busy workers long before their limit; after kill -9 they end at it."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(limit)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as parent:
        pids = [int(word) for word in parent.stdout.readline().split()]
        wait_until_busy(pids)
        parent.send_signal(ending)

    assert [len(pids), wait_until_gone(pids)] == [2, []]


def test_a_missing_parser_is_an_error_at_the_start(tmp_path, monkeypatch):
    """Without sympy the run stops with a sentence; it does not score lower."""
    (tmp_path / "sympy").mkdir()
    (tmp_path / "sympy" / "__init__.py").write_text("raise ImportError('broken on purpose')")
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(MistralEvalError, match=r"Expected sympy, .* broken on purpose"):
        MathChecker(workers=2).__enter__()


def test_a_worker_imports_neither_torch_nor_lm_eval():
    """A worker process loads sympy and our own modules only."""
    code = (
        "import sys, mistral_eval.answers.math_worker, sympy\n"
        "from mistral_eval.answers.latex.boxed "
        "import equal; equal('x^2', 'x'); print({'torch', 'lm_eval', 'pandas'} & {*sys.modules})"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"


def test_no_answer_reaches_an_evaluator_of_code(checker, tmp_path):
    """Text that Python or sympy would execute is only compared."""
    mark = tmp_path / "mark"
    evil = [
        f"__import__('pathlib').Path('{mark}').touch()",
        f"exec(open('{mark}','w').close())",
        f"\\operatorname{{exec}}('{mark}')",
        f"x.__class__.__mro__[1].__subclasses__() + open('{mark}','w')",
        f"\\text{{lambda: open('{mark}','w')}}",
    ]

    results = checker.equal_many([(text, "1") for text in evil])

    assert ({"different"}, False) == (set(results), mark.exists())


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ANY_TEXT, ANY_TEXT)
def test_any_two_texts_are_equal_or_different(checker, a, b):
    """Whatever is compared, a worker answers, the same in both directions, and survives."""
    forth, back, same = checker.equal_many([(a, b), (b, a), (a, f"{a} ")])

    assert forth == back
    assert forth in {Equality.EQUAL, Equality.DIFFERENT}
    assert same is Equality.EQUAL


@pytest.mark.parametrize(
    "text",
    ["x" * 100_000, "{" * 100_000, "9" * 100_000, r"\sqrt{" * 1000 + "2" + "}" * 1000,
     "(" * 1900, "+".join(f"x_{{{n}}}" for n in range(199)), "2" + "!" * 1000,
     r"\frac" * 300, "-" * 1900, "|" * 700, "^".join("9" * 500), "1,2," * 300,
     r"\pm " * 300, r"1\pm 2" * 200, "\\" * 1000, r"\begin{pmatrix}" + "1&" * 300,
     r"\sin " * 300 + "x", r"\ln\arcsin 3y", r"(x+1)^{5000}", "f(" * 200 + ")" * 200],
)  # fmt: skip
def test_hostile_answers_are_different_from_one(checker, text):
    """Depth, length and size are bounded: nothing here is even slow."""
    assert checker.equal_many([(text, "1"), ("1", text)]) == [Equality.DIFFERENT] * 2


def test_golds_differ_from_golds_of_other_questions(checker, shared):
    """Of 5000 golds against another question's, at most 0.5 % are called equal."""
    files = sorted((shared / "data" / "hendrycks_math").glob("*/test.parquet"))
    golds = [boxed_answer(text) for file in files for text in pd.read_parquet(file).solution]
    others = random.Random(0).sample(golds, len(golds))
    pairs = [pair for pair in zip(golds, others, strict=True) if pair[0] != pair[1]]

    results = checker.equal_many(pairs)

    assert len(pairs) > 4900
    assert {"equal", "different"} >= set(results)
    assert results.count(Equality.EQUAL) <= 0.005 * len(pairs)
