"""Each format, character by character, against files that a person looked at.

After a change that is meant: `WRITE_GOLDEN=1 pytest tests/report/test_golden.py`, then look at the
difference before it is committed.
"""

import os
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from mistral_eval.report.baselines import load_baselines, select
from mistral_eval.report.table import render_table
from mistral_eval.report.table.view import TableOptions

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
    table = render_table(select(names, load_baselines()), used, fmt, options=options)
    return on_console(table, width) if fmt == "rich" else table


@pytest.mark.parametrize("case", ["paper", "runs"])
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
