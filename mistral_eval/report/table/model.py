"""What a table is made of: the measured runs that go in, and what the reader wants to see."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from mistral_eval.stats import wilson
from mistral_eval.suite.benchmark import Benchmark
from mistral_eval.suite.suites import paper_benchmarks

NOT_A_MODEL: Final[Mapping[str, str]] = {
    "oracle": "the oracle answers with the gold: a check of the scorers, not a model",
    "oracle-wrong": "the oracle answers wrongly on purpose: a check of the scorers, not a model",
    "random": "the random engine guesses: a check of the scorers, not a model",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One measured number: a claim with its evidence.

    Attributes:
        value: The score in percent.
        low: Lower end of the Wilson 95 % interval, in percent.
        high: Upper end, in percent.
        n: Questions asked.
        n_total: Questions in the full test set.
        correct: Questions answered correctly; a vote is one question.
        no_answer: Questions from whose reply nothing could be read.
        timeout: Questions whose checker timed out.
        data_fingerprint: Name of the test set's fingerprint, e.g. "hub" or "sample".
        secondary: Other metrics in percent, e.g. {"maj@1": 11.9} or {"acc_macro": 61.2}.
        limited: Whether fewer questions were asked than the test set has.
        notes: Further sentences for the table's notes.
    """

    value: float
    low: float
    high: float
    n: int
    n_total: int
    correct: int
    no_answer: int = 0
    timeout: int = 0
    data_fingerprint: str = ""
    secondary: Mapping[str, float] = field(default_factory=dict)
    limited: bool = False
    notes: tuple[str, ...] = ()

    @classmethod
    def counted(  # noqa: PLR0913 - one count each, all by name
        cls,
        correct: int,
        n: int,
        n_total: int,
        *,
        no_answer: int = 0,
        timeout: int = 0,
        data_fingerprint: str = "",
        secondary: Mapping[str, float] | None = None,
        notes: tuple[str, ...] = (),
    ) -> "Cell":
        """Make a cell from counts: the score, its Wilson interval, and whether it is limited."""
        share = wilson(correct, n)
        return cls(
            share.value,
            share.low,
            share.high,
            n,
            n_total,
            correct,
            no_answer,
            timeout,
            data_fingerprint,
            dict(secondary or {}),
            n < n_total,
            notes,
        )


@dataclass(frozen=True, slots=True)
class RunScores:
    """One run as the table sees it: a row.

    Attributes:
        name: The row's label.
        path: The run's folder.
        model: The checkpoint's name.
        seed: The run's seed.
        engine: What answered; "oracle" and "random" are marked as no models.
        date: Day of the run, ISO 8601.
        cells: Benchmark id -> number.
    """

    name: str
    path: str
    model: str
    seed: int
    engine: str
    date: str
    cells: Mapping[str, Cell]

    @property
    def is_model(self) -> bool:
        """Whether a model answered, and not the oracle or chance."""
        return self.engine not in NOT_A_MODEL


@dataclass(frozen=True, slots=True)
class TableOptions:
    """What the reader wants to see beside the scores.

    Attributes:
        benchmarks: The columns, in order.
        title: The table's heading; None picks one that fits the rows.
        best: Whether the best score of each column is set in bold.
        delta_to: Name or baseline id of the row whose difference each row shows; None for none.
        reproduced: Baseline id that each run is read against, cell by cell; None for none.
        groups: Whether the groups of the paper's figure 4 are added.
        sizes: Whether the Llama 2 sizes of the paper's figure 5 are added.
    """

    benchmarks: tuple[Benchmark, ...] = paper_benchmarks()
    title: str | None = None
    best: bool = True
    delta_to: str | None = None
    reproduced: str | None = None
    groups: bool = False
    sizes: bool = False
