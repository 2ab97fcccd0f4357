"""The twelve benchmarks of the Mistral 7B paper's Table 2, in its order and under its names.

N and the metric of each cell follow docs/protocol; columns and groups follow arXiv 2310.06825v1,
Table 2 and figure 4.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

Group = Literal["mmlu", "knowledge", "reasoning", "code", "maths"]
Metric = Literal["acc", "acc_norm", "exact_match", "pass@1", "maj@4", "maj@8"]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One column of the table.

    Attributes:
        id: The task's name; `tasks/<id>.yaml`.
        column: The column's name as the paper prints it.
        n: Questions in the full test set.
        group: The bar of the paper's figure 4 that the column belongs to.
        metric: The metric that is the cell.
        shots: Solved examples shown before the question.
        strata: What a bootstrap resamples within ("subject"), or None.
    """

    id: str
    column: str
    n: int
    group: Group
    metric: Metric
    shots: int
    strata: str | None = None


BENCHMARKS: Final[tuple[Benchmark, ...]] = (
    Benchmark("mmlu", "MMLU", 14042, "mmlu", "acc", 5, "subject"),
    Benchmark("hellaswag", "HellaSwag", 10042, "reasoning", "acc_norm", 0),
    Benchmark("winogrande", "WinoG", 1267, "reasoning", "acc", 0),
    Benchmark("piqa", "PIQA", 1838, "reasoning", "acc_norm", 0),
    Benchmark("arc_easy", "Arc-e", 2376, "reasoning", "acc_norm", 0),
    Benchmark("arc_challenge", "Arc-c", 1172, "reasoning", "acc_norm", 0),
    Benchmark("nq", "NQ", 3610, "knowledge", "exact_match", 5),
    Benchmark("triviaqa", "TriviaQA", 11313, "knowledge", "exact_match", 5),
    Benchmark("humaneval", "HumanEval", 164, "code", "pass@1", 0),
    Benchmark("mbpp", "MBPP", 257, "code", "pass@1", 3),
    Benchmark("math", "MATH", 5000, "maths", "maj@4", 4, "subject"),
    Benchmark("gsm8k", "GSM8K", 1319, "maths", "maj@8", 8),
)

BY_ID: Final = MappingProxyType({benchmark.id: benchmark for benchmark in BENCHMARKS})

SUITES: Final = MappingProxyType({"paper": tuple(benchmark.id for benchmark in BENCHMARKS)})
