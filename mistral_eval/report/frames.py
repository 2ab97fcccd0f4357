"""Finished runs as pandas data frames, for notebooks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistral_eval.errors import OutputError
from mistral_eval.record.run_folder import RUN_FILE
from mistral_eval.record.run_record import read_record
from mistral_eval.record.run_scores import RunScores, run_labels, scores_of
from mistral_eval.record.sample_files import expected_of, halves_of, read_rows, sample_files
from mistral_eval.suite.registry import BY_ID

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Runs:
    """Finished runs, displayed as the paper's table in a notebook.

    `names` has a distinct label per run: the column `run` of both frames.
    """

    rows: tuple[RunScores, ...]
    names: tuple[str, ...]

    @cached_property
    def scores(self) -> "DataFrame":
        """One row per run, benchmark and metric; `cell` is true for the table's metric.

        Values and the ends of the 95 % interval (`low`, `high`; missing for other metrics) are in
        percent.
        """
        import pandas as pd

        return pd.DataFrame(
            [row for run, name in self._named() for row in _score_rows(run, name)],
            columns=list(SCORES),
        )

    @cached_property
    def samples(self) -> "DataFrame":
        """One row per run, benchmark and question; `replies` lists the texts of its samples.

        For multiple choice, `replies` is empty and `logprobs` has each choice's log-likelihood.

        Raises:
            OutputError: A run's file is missing or damaged.
        """
        import pandas as pd

        return pd.DataFrame(
            [row for run, name in self._named() for row in _sample_rows(run, name)],
            columns=list(SAMPLES),
        )

    def __repr__(self) -> str:
        return f"Runs({', '.join(self.names)}): .scores, .samples"

    def _repr_html_(self) -> str:
        """Return the paper's table with these runs below it, every text escaped."""
        from mistral_eval.report.table import build_view, published_rows
        from mistral_eval.report.table.html_table import html_fragment

        return f"<div>{html_fragment(build_view(published_rows(), self.rows))}</div>"

    def _named(self) -> Iterator[tuple[RunScores, str]]:
        return zip(self.rows, self.names, strict=True)


SCORES = (
    *("run", "model", "engine", "seed", "date", "benchmark", "metric", "cell"),
    *("value", "low", "high", "n", "n_total", "correct", "no_answer", "timeout", "limited"),
    *("data", "path"),
)
SAMPLES = (
    *("run", "benchmark", "question", "subject", "outcome", "correct", "answer", "gold"),
    *("reason", "prompt", "replies", "logprobs"),
)


def load_run(path: str | Path) -> Runs:
    """Read the folder of a finished run.

    Raises:
        OutputError: The folder holds no finished run, or one of another version.
    """
    return _runs([Path(path)])


def load_runs(folder: str | Path) -> Runs:
    """Read every finished run below a folder, oldest first.

    Raises:
        OutputError: There is none, or one was written by another version.
    """
    found = [file.parent for file in sorted(Path(folder).rglob(RUN_FILE))]
    if not found:
        raise OutputError(
            f"{folder} should hold finished runs (folders with a {RUN_FILE}), but holds none. "
            "`mistral-eval run` prints the folder it wrote."
        )
    return _runs(sorted(found, key=lambda run: read_record(run).date))


def _runs(folders: Sequence[Path]) -> Runs:
    rows = tuple(scores_of(read_record(folder), folder) for folder in folders)
    return Runs(rows, run_labels(rows))


def _score_rows(run: RunScores, name: str) -> Iterator[tuple[Any, ...]]:
    about = (name, run.model, run.engine, run.seed, run.date)
    for benchmark, cell in run.cells.items():
        known = BY_ID.get(benchmark)
        counts = (cell.n, cell.n_total, cell.correct, cell.no_answer, cell.timeout, cell.limited)
        where = (cell.data_fingerprint, run.path)
        main = (known.cell if known else "score", True, cell.value, cell.low, cell.high)
        yield (*about, benchmark, *main, *counts, *where)
        for metric, value in cell.secondary.items():
            other = (metric, False, value, None, None)
            yield (*about, benchmark, *other, *counts[:2], None, *counts[3:], *where)


def _sample_rows(run: RunScores, name: str) -> Iterator[tuple[Any, ...]]:
    folder = Path(run.path)
    for benchmark, file in sample_files(read_record(folder), folder).items():
        for row in read_rows(file):
            verdict = row["verdict"]
            choices = isinstance(row["resps"][0][0], list)
            yield (
                *(name, benchmark, row["doc_id"], row["stratum"], verdict["outcome"]),
                *(verdict["outcome"] == "correct", verdict["answer"], expected_of(benchmark, row)),
                *(verdict["reason"], row["arguments"]["gen_args_0"]["arg_0"]),
                [] if choices else [text for texts in row["resps"] for text in texts],
                [logprob for _, logprob in halves_of(benchmark, row)[0]] if choices else [],
            )
