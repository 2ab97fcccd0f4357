"""Every benchmark there is. Registering one puts it into no suite and no table."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from mistral_eval.suite import choice, maths, programs, spans
from mistral_eval.suite.benchmark import Benchmark

BENCHMARKS: Final[tuple[Benchmark, ...]] = (
    *choice.BENCHMARKS,
    *spans.BENCHMARKS,
    *programs.BENCHMARKS,
    *maths.BENCHMARKS,
)
BY_ID: Final[Mapping[str, Benchmark]] = MappingProxyType({one.id: one for one in BENCHMARKS})
