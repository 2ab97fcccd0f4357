"""The agreement table of docs/scoring.md is the one that the benchmark prints."""

import runpy
from pathlib import Path

from mistral_eval.answers.math_checker import MathChecker

ROOT = Path(__file__).resolve().parents[2]


def test_the_documented_table_is_measured(shared):
    """Every line of the table is measured again and stands in the page as it came out."""
    program = runpy.run_path(str(ROOT / "speed" / "agreement.py"))
    with MathChecker(workers=2) as checker:
        lines = [measure(shared, checker) for measure in program["MEASURES"]]

    page = (ROOT / "docs" / "scoring.md").read_text("utf-8")
    rows = [f"| {a.scorer} | {a.against} | {a.agree} | {a.total} |" for a in lines]

    assert [row for row in rows if row not in page] == []
    assert [
        said
        for line in lines
        for gold, said, _ in line.differences
        if f"| `{gold}` | `{said}` |" not in page
    ] == []
