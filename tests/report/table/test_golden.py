"""Each format, character by character, against files that a person looked at.

After a change that is meant: `WRITE_GOLDEN=1 pytest tests/report/table/test_golden.py`, then look
at the difference before it is committed.
"""

import os
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from mistral_eval.record.run_record import Cell
from mistral_eval.record.run_scores import RunScores
from mistral_eval.report.baselines import load_baselines, select
from mistral_eval.report.table import _RENDERERS, figure_view, render_table
from mistral_eval.report.table.view import TableOptions
from mistral_eval.suite.registry import BY_ID, SUITES

GOLDEN = Path(__file__).parent / "golden"
ALL = TableOptions(
    delta_to="Mistral 7B",
    reproduced="mistral-paper-table2/mistral-7b",
    groups=True,
    sizes=True,
)
SUFFIX = {"rich": "txt", "latex": "tex"}


def on_console(renderable: object, width: int) -> str:
    """What a terminal without colour of that width shows, trailing spaces removed."""
    out = StringIO()
    Console(file=out, width=width, color_system=None).print(renderable)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def rendered(case: str, fmt: str, width: int, runs: list) -> str:
    names, options = (["paper"], None) if case == "paper" else (["paper", "card", "mixtral"], ALL)
    used = [] if case == "paper" else runs
    if case.startswith("figure"):
        view = figure_view([*runs, figure_run()], case)
        table = _RENDERERS[fmt](view)
        return on_console(table, width) if fmt == "rich" else table
    table = render_table(select(names, load_baselines()), used, fmt, options=options)
    return on_console(table, width) if fmt == "rich" else table


def figure_run() -> RunScores:
    """Half of the questions of each benchmark of figure 4 that is registered, but for one."""
    cells = {
        name: Cell.counted(BY_ID[name].n // 2, BY_ID[name].n, BY_ID[name].n)
        for name in SUITES["figure4"][:-1]
    }
    return RunScores("half", "results/half/d", "half", 0, "native", "2026-01-05", cells)


@pytest.mark.parametrize("case", ["paper", "runs", "figure4", "figure5"])
@pytest.mark.parametrize(
    ("fmt", "width"),
    [("rich", 120), ("rich", 80), ("md", 0), ("latex", 0), ("csv", 0), ("html", 0), ("json", 0)],
)
def test_the_format_is_as_it_was_looked_at(case, fmt, width, runs):
    text = rendered(case, fmt, width, runs)
    name = f"{case}{f'-{width}' if width else ''}.{SUFFIX.get(fmt, fmt)}"
    if os.environ.get("WRITE_GOLDEN") == "1":
        (GOLDEN / name).write_text(text, encoding="utf-8")
    assert (GOLDEN / name).read_text(encoding="utf-8") == text
