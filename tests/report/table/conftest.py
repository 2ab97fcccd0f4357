"""Runs to show: a limited one with every kind of remark, a whole one, the oracle."""

import pytest

from mistral_eval.record.run_record import Cell
from mistral_eval.record.run_scores import RunScores
from mistral_eval.suite.registry import paper_benchmarks

RIGHT = {
    "mmlu": 8700, "hellaswag": 8134, "winogrande": 940, "piqa": 1511, "arc_easy": 1912,
    "arc_challenge": 633, "nq": 1040, "triviaqa": 7900, "humaneval": 49, "mbpp": 125, "math": 640,
    "gsm8k": 690,
}  # fmt: skip


def limited_run() -> RunScores:
    """16 questions of each benchmark; unread replies, a timeout and single-sample means."""
    cells = {}
    for i, b in enumerate(paper_benchmarks()):
        votes = b.cell.startswith("maj")
        cells[b.id] = Cell.counted(
            i % 7,
            16,
            b.n,
            no_answer=3 if votes else 0,
            timeout=1 if b.id == "mbpp" else 0,
            data_fingerprint="sample",
            secondary={"maj@1": 1.5625} if votes else {},
        )
    return RunScores("tiny", "results/tiny/a", "tiny", 0, "native", "2026-01-02", cells)


def whole_run(name: str = "mistralai/Mistral-7B-v0.1", **changes: object) -> RunScores:
    """The full test sets at made-up scores near the paper's."""
    cells = {
        b.id: Cell.counted(
            RIGHT[b.id],
            b.n,
            b.n,
            data_fingerprint="hellaswag-reconstructed" if b.id == "hellaswag" else "hub",
            secondary={"acc_macro": 62.75} if b.id == "mmlu" else {},
            notes=("never checked against the hub",) if b.id == "hellaswag" else (),
        )
        for b in paper_benchmarks()
    }
    about = {"path": "results/m/b", "model": name, "seed": 0, "engine": "native"}
    return RunScores(name=name, date="2026-01-03", cells=cells, **(about | changes))


def oracle_run() -> RunScores:
    cells = {b.id: Cell.counted(b.n, b.n, b.n, data_fingerprint="hub") for b in paper_benchmarks()}
    return RunScores("oracle", "results/o/c", "oracle", 0, "oracle", "2026-01-04", cells)


@pytest.fixture
def runs() -> list[RunScores]:
    return [limited_run(), whole_run()]
