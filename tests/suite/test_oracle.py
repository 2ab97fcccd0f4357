"""Gold replies are judged right and wrong ones wrong, for every question we can lay hands on.

A scorer that misreads a gold answer, a gold that a prompt's stops would cut, a wrong answer that
happens to be right: each would show here, without a model.
"""

import pytest
from make_pins import has_whole_set

from mistral_eval.data import load_benchmark_data, make_source
from mistral_eval.suite.benchmark import Benchmark
from mistral_eval.suite.registry import BENCHMARKS


def marked(benchmarks):
    return [
        pytest.param(b, id=b.id, marks=[pytest.mark.sandbox] if b.runs_programs else [])
        for b in benchmarks
    ]


def reply(benchmark: Benchmark, doc: dict, *, right: bool) -> list:
    """What the oracle engine answers: the same text each time, or one likely choice."""
    said = benchmark.oracle(doc, right)
    if benchmark.kind == "generate":
        return [said] * benchmark.samples
    times = 1 if benchmark.unconditional is None else 2
    choices = range(times * len(benchmark.gold(doc).texts))
    return [(-1.0 if n == said else -1e6, False) for n in choices]


def correct(benchmark: Benchmark, source: str, *, right: bool) -> tuple[int, int]:
    """How many of all questions the oracle's replies get right."""
    spec = benchmark.task.data
    rows = load_benchmark_data(spec, make_source(source))[spec.splits[0]]
    docs = list(filter(benchmark.is_asked, rows))
    verdicts = benchmark.judge(docs, [reply(benchmark, doc, right=right) for doc in docs])
    return sum(verdict.verdict.is_correct for verdict in verdicts), len(docs)


@pytest.mark.parametrize("benchmark", marked(BENCHMARKS))
def test_the_oracle_is_right_and_wrong_on_the_whole_sample(benchmark):
    assert correct(benchmark, "sample", right=True) == (16, 16)
    assert correct(benchmark, "sample", right=False) == (0, 16)


WHOLE = [one for one in BENCHMARKS if has_whole_set(one.id)]


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", marked(WHOLE))
def test_the_oracle_is_right_on_the_whole_test_set(benchmark, shared):
    found = correct(benchmark, str(shared / "data"), right=True)
    assert found == (benchmark.n, benchmark.n)


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", marked(WHOLE))
def test_the_oracle_is_wrong_on_the_whole_test_set(benchmark, shared):
    found = correct(benchmark, str(shared / "data"), right=False)
    assert found == (0, benchmark.n)
