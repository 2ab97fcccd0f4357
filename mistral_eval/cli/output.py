"""Printing a result, or writing it to a file."""

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from mistral_eval.errors import UsageError

if TYPE_CHECKING:
    from mistral_eval.report.table.view import TableOptions


class Format(StrEnum):
    """What a table can be printed as."""

    RICH = "rich"
    MD = "md"
    LATEX = "latex"
    CSV = "csv"
    HTML = "html"
    JSON = "json"


def print_json(value: object) -> None:
    """Print one JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def print_table(
    runs: Sequence[Path],
    baselines: Sequence[str] = (),
    fmt: Format = Format.RICH,
    output: Path | None = None,
    options: "TableOptions | None" = None,
) -> None:
    """Print or write the table of published rows and finished runs."""
    from mistral_eval.report.table import render_runs

    put(render_runs(runs, baselines, fmt.value, options), output)


def put(rendered: object, output: Path | None) -> None:
    """Print on stdout, or write text to a file.

    Raises:
        UsageError: a file was named, and the format is for the screen.
        OutputError: the file cannot be written.
    """
    from mistral_eval.console import show

    if output is None:
        show(rendered)
        return
    if not isinstance(rendered, str):
        raise UsageError(
            "--output needs a file format, and rich is for the screen. Add --format md."
        )
    from mistral_eval.record.run_folder import write_lines

    write_lines(output, [rendered.rstrip("\n")])
