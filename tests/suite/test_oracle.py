"""Gold replies are judged right and wrong ones wrong, for every question we can lay hands on.

A scorer that misreads a gold answer, a gold that a prompt's stops would cut, a wrong answer that
happens to be right: each would show here, without a model.
"""

import pytest

from mistral_eval.data import load_benchmark_data, make_source
from mistral_eval.data.task_file import data_spec, read_task
from mistral_eval.errors import TaskError
from mistral_eval.suite.judge import judge
from mistral_eval.suite.oracle_replies import oracle_reply
from mistral_eval.suite.registry import BENCHMARKS

GENERATED = [b for b in BENCHMARKS if not b.metric.startswith("acc")]
PROGRAMS = ("humaneval", "mbpp")


def marked(benchmarks):
    marks = {name: [pytest.mark.sandbox] for name in PROGRAMS}
    return [pytest.param(b, id=b.id, marks=marks.get(b.id, [])) for b in benchmarks]


def correct(benchmark: str, source: str, *, right: bool) -> tuple[int, int]:
    """How many of all questions the oracle's replies get right."""
    spec = data_spec(benchmark)
    docs = list(load_benchmark_data(spec, make_source(source))[spec.splits[0]])
    samples = read_task(benchmark)["repeats"]
    replies = [[oracle_reply(benchmark, doc, right)] * samples for doc in docs]
    verdicts = judge(benchmark, docs, replies)
    return sum(verdict.verdict.is_correct for verdict in verdicts), len(docs)


@pytest.mark.parametrize("benchmark", marked(GENERATED))
def test_the_oracle_is_right_and_wrong_on_the_whole_sample(benchmark):
    assert correct(benchmark.id, "sample", right=True) == (16, 16)
    assert correct(benchmark.id, "sample", right=False) == (0, 16)


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", marked(GENERATED))
def test_the_oracle_is_right_on_the_whole_test_set(benchmark, shared):
    found = correct(benchmark.id, str(shared / "data"), right=True)
    assert found == (benchmark.n, benchmark.n)


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", marked(GENERATED))
def test_the_oracle_is_wrong_on_the_whole_test_set(benchmark, shared):
    found = correct(benchmark.id, str(shared / "data"), right=False)
    assert found == (0, benchmark.n)


def test_the_oracle_has_no_text_for_a_likelihood():
    with pytest.raises(TaskError, match="not to 'mmlu'"):
        oracle_reply("mmlu", {}, right=True)
