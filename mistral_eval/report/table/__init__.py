"""What the numbers mean: one table, six formats."""

from collections.abc import Callable, Sequence
from typing import Final, Literal, overload

from rich.console import RenderableType

from mistral_eval.errors import UsageError
from mistral_eval.report.baselines import Baseline
from mistral_eval.report.table.build import build_view
from mistral_eval.report.table.csv_table import csv_table
from mistral_eval.report.table.html_table import html_page
from mistral_eval.report.table.json_table import json_table
from mistral_eval.report.table.latex_table import latex_table
from mistral_eval.report.table.markdown_table import markdown_table
from mistral_eval.report.table.model import Cell, RunScores, TableOptions
from mistral_eval.report.table.rich_table import RichTable
from mistral_eval.report.table.view import TableView

__all__ = ["FORMATS", "Cell", "RunScores", "TableOptions", "render_table"]

TextFormat = Literal["md", "latex", "csv", "html", "json"]
_TEXT: Final[dict[str, Callable[[TableView], str]]] = {
    "md": markdown_table,
    "latex": latex_table,
    "csv": csv_table,
    "html": html_page,
    "json": json_table,
}
FORMATS: Final = ("rich", *_TEXT)


@overload
def render_table(
    baselines: Sequence[Baseline],
    runs: Sequence[RunScores],
    fmt: TextFormat,
    *,
    options: TableOptions | None = None,
) -> str: ...
@overload
def render_table(
    baselines: Sequence[Baseline],
    runs: Sequence[RunScores],
    fmt: str,
    *,
    options: TableOptions | None = None,
) -> RenderableType: ...
def render_table(
    baselines: Sequence[Baseline],
    runs: Sequence[RunScores],
    fmt: str,
    *,
    options: TableOptions | None = None,
) -> RenderableType:
    """Return the table of the published rows and the runs below them.

    Args:
        baselines: Published rows, in the order to show them.
        runs: Measured rows.
        fmt: "rich" gives something for rich to print, every other format text that ends in a
            line break.
        options: Which columns and which further sections; the default is the paper's twelve.

    Raises:
        UsageError: The format is unknown, or an option names a row that does not exist.
    """
    if fmt not in FORMATS:
        raise UsageError(f"A table can be printed as {', '.join(FORMATS)}; found {fmt!r}.")
    view = build_view(baselines, runs, options or TableOptions())
    return RichTable(view) if fmt == "rich" else _TEXT[fmt](view)
