"""Compare two runs, paired by question, benchmark by benchmark.

McNemar's exact test, a bootstrap interval of the difference (resampled within subjects), Holm's
correction over all tests, and the smallest difference that the test would detect. Runs that differ
in questions or protocol are refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np

from mistral_eval.errors import DataError, TaskError, UsageError
from mistral_eval.stats import (
    Interval,
    holm,
    mcnemar,
    paired_bootstrap,
    smallest_detectable,
    wilson,
)
from mistral_eval.suite.registry import BY_ID

ALPHA: Final = 0.05
Gate = Literal["shown", "point"]
Reading = Literal["identical", "no difference shown", "better", "worse"]


@dataclass(frozen=True, slots=True)
class QuestionOutcome:
    """One run's result on one question; `stratum` is its subject, "" if there are none.

    `digest` is a hash of row and target, `prompt` of the prompt: equal ids must have equal ones.
    """

    correct: bool
    stratum: str = ""
    digest: str = ""
    prompt: str = ""


@dataclass(frozen=True, slots=True)
class BenchmarkSamples:
    """One benchmark of one run: its questions' outcomes by id.

    `protocol` is what decides a score besides the question, by name, e.g. {"shots": "5"} or
    {"task file": "<hash>"}; two runs must agree on every entry. `asked_as` says how questions were
    asked if not as the protocol has it, e.g. "as a conversation"; runs may differ in it, which the
    comparison then says, and prompts differ with it.
    """

    protocol: Mapping[str, str]
    questions: Mapping[str, QuestionOutcome]
    asked_as: str = ""


@dataclass(frozen=True, slots=True)
class RunSamples:
    """A run's label, and its results by benchmark."""

    name: str
    benchmarks: Mapping[str, BenchmarkSamples]


@dataclass(frozen=True, slots=True)
class Flip:
    """A question that exactly one of the two runs answered correctly."""

    id: str
    stratum: str
    now_right: bool


@dataclass(frozen=True, slots=True)
class BenchmarkComparison:
    """One benchmark, run B against run A, on the same `n` questions.

    Attributes:
        a: A's score in percent, with its own Wilson interval; `b` is B's.
        difference: B minus A in points, with its bootstrap interval.
        only_a: Questions that only A got right; `only_b` counts B's.
        p: McNemar's exact two-sided p-value.
        p_holm: The same after Holm's correction over all tests of the comparison.
        detectable: True difference in points that the test detects with 80 % power; None if the
            questions are too few for any.
    """

    id: str
    n: int
    a: Interval
    b: Interval
    difference: Interval
    only_a: int
    only_b: int
    p: float
    p_holm: float
    detectable: float | None
    flips: tuple[Flip, ...]

    @property
    def reading(self) -> Reading:
        """What the corrected test says about the difference."""
        if not self.flips:
            return "identical"
        if self.p_holm >= ALPHA:
            return "no difference shown"
        return "better" if self.only_b > self.only_a else "worse"

    def fails(self, margin: float, gate: Gate) -> bool:
        """Whether B is worse than A by more than `margin` points.

        Gate "shown" requires significance: the corrected test rejects equality, and the whole
        interval lies below -margin. Gate "point" compares the two scores, for deterministic runs.
        """
        if gate == "point":
            return self.difference.value < -margin
        return self.reading == "worse" and self.difference.high < -margin


@dataclass(frozen=True, slots=True)
class Comparison:
    """Run B against the reference run A, on their common benchmarks in the suite's order.

    `margin` is the points that B may lose; for `gate` see `BenchmarkComparison.fails`. `asked` has
    the numbers of questions of A and of B, of the benchmarks of which only some were compared.
    `asked_as` has how A and how B were asked ("" for the protocol's way), where that differs.
    """

    a: str
    b: str
    benchmarks: tuple[BenchmarkComparison, ...]
    only_in_a: tuple[str, ...] = ()
    only_in_b: tuple[str, ...] = ()
    asked: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    asked_as: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    margin: float = 0.0
    gate: Gate = "shown"

    @property
    def failed(self) -> tuple[str, ...]:
        """Benchmarks that got worse beyond the margin; any of them is exit code 3."""
        return tuple(one.id for one in self.benchmarks if one.fails(self.margin, self.gate))


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """How runs are compared.

    Attributes:
        margin: Points that a benchmark may lose.
        gate: See `BenchmarkComparison.fails`.
        resamples: Number of bootstrap resamples.
        common: Compare the questions that both runs have, instead of refusing other ones.
    """

    margin: float = 0.0
    gate: Gate = "shown"
    resamples: int = 10_000
    common: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.margin <= 100:
            raise UsageError(
                f"The margin is a number of points from 0 to 100; found {self.margin:g}."
            )
        if self.gate not in ("shown", "point"):
            raise UsageError(f"The gate is shown or point; found {self.gate!r}.")


def compare_against(
    reference: RunSamples, others: Sequence[RunSamples], options: CompareOptions | None = None
) -> tuple[Comparison, ...]:
    """Compare each run with the reference; Holm's correction covers all pairs and benchmarks.

    Raises:
        TaskError: A pair has no benchmark in common, or used different protocols.
        DataError: A pair answered different questions.
    """
    options = options or CompareOptions()
    pairs = [_pair(reference, other, options) for other in others]
    adjusted = iter(holm([one.p for pair in pairs for one in pair.benchmarks]))
    return tuple(
        replace(
            pair,
            benchmarks=tuple(replace(one, p_holm=next(adjusted)) for one in pair.benchmarks),
        )
        for pair in pairs
    )


def _pair(a: RunSamples, b: RunSamples, options: CompareOptions) -> Comparison:
    every = tuple(dict.fromkeys((*BY_ID, *a.benchmarks, *b.benchmarks)))
    common = [name for name in every if name in a.benchmarks and name in b.benchmarks]
    if not common:
        raise TaskError(
            f"{a.name} and {b.name} have no benchmark in common: {a.name} has "
            f"{', '.join(a.benchmarks) or 'none'}, {b.name} has {', '.join(b.benchmarks) or 'none'}"
            ". Run both with the same --tasks."
        )
    asked = {}
    if options.common:
        sizes = {name: _sizes(name, a, b) for name in common}
        a, b = _common_questions(a, b), _common_questions(b, a)
        asked = {name: size for name, size in sizes.items() if size != _sizes(name, a, b)}
    for name in common:
        _check(name, a, b)
    return Comparison(
        a.name,
        b.name,
        tuple(
            _compare_benchmark(name, a.benchmarks[name], b.benchmarks[name], options)
            for name in common
        ),
        tuple(name for name in every if name in a.benchmarks and name not in b.benchmarks),
        tuple(name for name in every if name in b.benchmarks and name not in a.benchmarks),
        asked,
        {name: both for name in common if len(set(both := _ways(name, a, b))) > 1},
        options.margin,
        options.gate,
    )


def _sizes(name: str, a: RunSamples, b: RunSamples) -> tuple[int, int]:
    return len(a.benchmarks[name].questions), len(b.benchmarks[name].questions)


def _ways(name: str, a: RunSamples, b: RunSamples) -> tuple[str, str]:
    return a.benchmarks[name].asked_as, b.benchmarks[name].asked_as


def _common_questions(run: RunSamples, other: RunSamples) -> RunSamples:
    """Return the run with the questions that the other run has too, in benchmarks of both."""
    kept = {}
    for name, benchmark in run.benchmarks.items():
        there = other.benchmarks.get(name)
        questions = {
            key: outcome
            for key, outcome in benchmark.questions.items()
            if there is None or key in there.questions
        }
        kept[name] = replace(benchmark, questions=questions)
    return replace(run, benchmarks=kept)


def _check(name: str, a: RunSamples, b: RunSamples) -> None:
    """Raise if a benchmark's protocol or questions differ; the sentence says where."""
    left, right = a.benchmarks[name], b.benchmarks[name]
    for part in sorted(left.protocol.keys() | right.protocol.keys()):
        in_a, in_b = left.protocol.get(part, "nothing"), right.protocol.get(part, "nothing")
        if in_a != in_b:
            raise TaskError(
                f"{name} was not run under the same protocol: {part} is {in_a} in {a.name} and "
                f"{in_b} in {b.name}. Run one of them again with the settings of the other."
            )
    missing = [key for key in left.questions if key not in right.questions]
    surplus = [key for key in right.questions if key not in left.questions]
    if missing or surplus:
        example, where = (missing[0], a.name) if missing else (surplus[0], b.name)
        raise DataError(
            f"{name} was not run on the same questions: {len(missing)} are only in {a.name}, "
            f"{len(surplus)} only in {b.name} (question {example} is only in {where}). "
            "Run both with the same --data and --limit, or compare with --common."
        )
    if not left.questions:
        raise DataError(f"{name} has no question in {a.name} and {b.name}: nothing to compare.")
    is_asked_alike = left.asked_as == right.asked_as
    for key, outcome in left.questions.items():
        other = right.questions[key]
        if outcome.digest != other.digest or (is_asked_alike and outcome.prompt != other.prompt):
            raise DataError(
                f"{name}: question {key} is not the same text in {a.name} and {b.name}. "
                "Run both with the same --data."
            )


def _compare_benchmark(
    name: str, a: BenchmarkSamples, b: BenchmarkSamples, options: CompareOptions
) -> BenchmarkComparison:
    ids = tuple(a.questions)
    n = len(ids)
    right_a = np.array([a.questions[key].correct for key in ids], np.int8)  # (n,)
    right_b = np.array([b.questions[key].correct for key in ids], np.int8)  # (n,)
    step = right_b - right_a
    strata = [a.questions[key].stratum for key in ids]
    only_a, only_b = int((step < 0).sum()), int((step > 0).sum())
    p = mcnemar(only_a, only_b)
    return BenchmarkComparison(
        id=name,
        n=n,
        a=wilson(int(right_a.sum()), n),
        b=wilson(int(right_b.sum()), n),
        difference=paired_bootstrap(step, strata, resamples=options.resamples),
        only_a=only_a,
        only_b=only_b,
        p=p,
        p_holm=p,
        detectable=smallest_detectable(n, (only_a + only_b) / n, alpha=ALPHA),
        flips=tuple(
            Flip(key, strata[i], bool(step[i] > 0)) for i, key in enumerate(ids) if step[i] != 0
        ),
    )
