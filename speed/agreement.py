"""Measure how often the scorers agree with published verdicts on real model outputs.

    python speed/agreement.py SHARED

SHARED is the folder with `transcripts/` and `data/hendrycks_math/`. Prints the table that is kept
in docs/scoring.md, then every difference; the last line is one JSON document.
"""

import json
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from mistral_eval.answers import exact_match as spans
from mistral_eval.answers import numbers
from mistral_eval.answers.latex.boxed import Equality, boxed_answer, final_answer
from mistral_eval.answers.math_checker import MathChecker


@dataclass(frozen=True, slots=True)
class Agreement:
    """One line of the table; `differences` holds (gold, reply, published verdict)."""

    scorer: str
    against: str
    agree: int
    total: int
    differences: list[tuple[str, str, bool]] = field(default_factory=list)


def gsm8k(folder: Path, _: MathChecker) -> Agreement:
    """Compare the last number with the verdicts of openai/grade-school-math."""
    rows = _transcript(folder, "gsm8k")
    off = [
        (row["gold"], row["output"][-60:], row["verdict"])
        for row in rows
        if numbers.match_number(row["output"], row["gold"], "flexible").is_correct != row["verdict"]
    ]
    agree = len(rows) - len(off)
    return Agreement("numbers, flexible", "GSM8K, openai's verdicts", agree, len(rows), off)


def nq(folder: Path, _: MathChecker) -> Agreement:
    """Compare exact match of the uncut text with the published exact match."""
    rows = _transcript(folder, "nq")
    off = [
        (", ".join(row["gold"]), row["output"], row["em_squad"])
        for row in rows
        if spans.match_any(row["output"], list(row["gold"])).is_correct != row["em_squad"]
    ]
    agree = len(rows) - len(off)
    return Agreement("spans, exact match", "NQ, SQuAD's exact match", agree, len(rows), off)


def math_samples(folder: Path, checker: MathChecker) -> Agreement:
    """Compare the final answers of 8 samples of 100 questions with the Qwen2.5-Math grader."""
    rows = _transcript(folder, "math_8_samples")
    said = [final_answer(row["output"]) or "" for row in rows]
    against = "MATH, 8 samples, Qwen2.5-Math's grader"
    return _compared("maths, whole replies", against, rows, said, checker)


def math_unit_tests(folder: Path, checker: MathChecker) -> Agreement:
    """Compare pairs of answers with the unit tests of hendrycks/math and inspect_ai."""
    rows = _transcript(folder, "math_equivalence")
    said = [
        (final_answer(row["output"]) if row["suite"].startswith("inspect") else None)
        or row["output"]
        for row in rows
    ]
    against = "unit tests of hendrycks/math and inspect_ai"
    return _compared("maths, pairs", against, rows, said, checker)


def _compared(
    scorer: str,
    against: str,
    rows: list[dict[str, Any]],
    said: list[str],
    checker: MathChecker,
) -> Agreement:
    golds = [row["gold"] for row in rows]
    results = checker.equal_many(list(zip(golds, said, strict=True)))
    off = [
        (row["gold"], answer, row["verdict"])
        for row, answer, result in zip(rows, said, results, strict=True)
        if (result is Equality.EQUAL) != row["verdict"]
    ]
    return Agreement(scorer, against, len(rows) - len(off), len(rows), off)


def golds_themselves(folder: Path, checker: MathChecker) -> Agreement:
    """Compare each gold with the answer extracted from its own solution in the prompt's format."""
    solutions = list(_solutions(folder))
    golds = [boxed_answer(solution) or "" for solution in solutions]
    replies = [
        f"{solution}\nFinal Answer: The final answer is $ {gold} $. I hope it is correct."
        for solution, gold in zip(solutions, golds, strict=True)
    ]
    said = [final_answer(reply) or "" for reply in replies]
    results = checker.equal_many(list(zip(golds, said, strict=True)))
    off = [
        (gold, answer, True)
        for gold, answer, result in zip(golds, said, results, strict=True)
        if result is not Equality.EQUAL
    ]
    agree = len(golds) - len(off)
    return Agreement("maths, golds", "MATH's solutions equal themselves", agree, len(golds), off)


def golds_of_others(folder: Path, checker: MathChecker) -> Agreement:
    """Compare each gold with the gold of another question; equal ones are coincidences."""
    golds = [boxed_answer(solution) or "" for solution in _solutions(folder)]
    others = random.Random(0).sample(golds, len(golds))
    pairs = [pair for pair in zip(golds, others, strict=True) if pair[0] != pair[1]]
    results = checker.equal_many(pairs)
    off = [
        (*pair, False)
        for pair, result in zip(pairs, results, strict=True)
        if result is not Equality.DIFFERENT
    ]
    against = "golds of other questions are different"
    return Agreement("maths, golds", against, len(pairs) - len(off), len(pairs), off)


def _transcript(folder: Path, name: str) -> list[dict[str, Any]]:
    table = pd.read_parquet(folder / "transcripts" / f"{name}.parquet")
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _solutions(folder: Path) -> Iterator[str]:
    for file in sorted((folder / "data" / "hendrycks_math").glob("*/test.parquet")):
        yield from pd.read_parquet(file).solution


MEASURES: tuple[Callable[[Path, MathChecker], Agreement], ...] = (
    gsm8k,
    nq,
    math_samples,
    math_unit_tests,
    golds_themselves,
    golds_of_others,
)


def main() -> None:
    """Print the table, the differences and the JSON line."""
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} SHARED   (the folder with transcripts/ and data/)")
    with MathChecker() as checker:
        lines = [measure(Path(sys.argv[1]), checker) for measure in MEASURES]
    print("| scorer | against | agree | of |\n|---|---|--:|--:|")
    for line in lines:
        print(f"| {line.scorer} | {line.against} | {line.agree} | {line.total} |")
    print("\n| scorer | gold | reply | their verdict |\n|---|---|---|---|")
    for line in lines:
        for gold, said, theirs in line.differences:
            print(f"| {line.scorer} | `{gold}` | `{said}` | {'right' if theirs else 'wrong'} |")
    print(json.dumps([asdict(line) for line in lines]))


if __name__ == "__main__":
    main()
