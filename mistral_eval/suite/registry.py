"""Every benchmark there is. Registering one puts it into no suite and no table."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from mistral_eval.suite import choice, maths, programs, spans
from mistral_eval.suite.benchmark import Benchmark, Doc

BENCHMARKS: Final[tuple[Benchmark, ...]] = (
    *choice.BENCHMARKS,
    *spans.BENCHMARKS,
    *programs.BENCHMARKS,
    *maths.BENCHMARKS,
)
BY_ID: Final[Mapping[str, Benchmark]] = MappingProxyType({one.id: one for one in BENCHMARKS})


def check_golds(name: str, splits: Mapping[str, Sequence[Doc]]) -> None:
    """Refuse a registered benchmark's rows that no reply could answer right.

    Raises:
        DataError: A row's gold is outside its choices, or a row has none.
    """
    if name in BY_ID:
        BY_ID[name].check_golds(splits)
