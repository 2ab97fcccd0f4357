"""Suites: named lists of benchmarks. The paper's table has the columns of the suite `paper`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from mistral_eval.suite.benchmark import Benchmark, Group
from mistral_eval.suite.choice import ARC_CHALLENGE, ARC_EASY, HELLASWAG, MMLU, PIQA, WINOGRANDE
from mistral_eval.suite.maths import GSM8K, MATH
from mistral_eval.suite.programs import HUMANEVAL, MBPP
from mistral_eval.suite.spans import NQ, TRIVIAQA

_PAPER: Final = (
    MMLU,
    HELLASWAG,
    WINOGRANDE,
    PIQA,
    ARC_EASY,
    ARC_CHALLENGE,
    NQ,
    TRIVIAQA,
    HUMANEVAL,
    MBPP,
    MATH,
    GSM8K,
)  # arXiv 2310.06825v1, Table 2, in its order
PAPER: Final = tuple(benchmark.id for benchmark in _PAPER)
SUITES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({"paper": PAPER})

# The bars of the paper's figure 4 that the suite has the benchmarks of, in the figure's order.
FIGURE_4: Final[Mapping[Group, str]] = MappingProxyType(
    {
        MMLU.group: MMLU.column,
        "knowledge": "Knowledge",
        "reasoning": "Reasoning (5 of 8)",
        "code": "Code",
        "maths": "Math",
    }
)
FIGURE_5: Final[tuple[Group, ...]] = (MMLU.group, "reasoning", "knowledge")

# Cells of the paper's table that contradict its text or Mistral's later papers: the benchmark, the
# rows that must be shown, and the sentence for the table's notes.
CONTRADICTIONS: Final = (
    (
        NQ,
        ("mistral-7b", "llama2-13b"),
        (
            "the paper's caption says that Mistral 7B beats LLaMA 2 13B on all metrics; its table "
            "has 28.8 against 29.0."
        ),
    ),
    (
        MMLU,
        ("mistral-7b",),
        (
            "a standard 5-shot run gives about 62.5 for Mistral 7B, above the paper's 60.1; "
            "Mistral's later papers print 62.5 themselves."
        ),
    ),
)


def paper_benchmarks() -> tuple[Benchmark, ...]:
    """Return the columns of the paper's table, in its order."""
    return _PAPER


def columns_of(group: Group) -> tuple[Benchmark, ...]:
    """Return the paper's benchmarks whose mean is a bar of its figure 4."""
    return tuple(benchmark for benchmark in _PAPER if benchmark.group == group)
