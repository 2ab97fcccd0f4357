"""Printing a result, or writing it to a file."""

import codecs
import json
import os
import sys
import unicodedata
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mistral_eval.errors import UsageError

if TYPE_CHECKING:
    from mistral_eval.record.run_scores import RunScores
    from mistral_eval.report.table.view import TableOptions

NEAREST: Final = "mistral_eval.nearest"  # name of the error handler `write_nearest` registers
_TYPOGRAPHY: Final = {
    **dict.fromkeys((0x2013, 0x2014, 0x2212, 0x2500), "-"),  # dashes, minus, a table's line
    **dict.fromkeys((0x2018, 0x2019), "'"),
    **dict.fromkeys((0x201C, 0x201D), '"'),
    0xD7: "x",
    0xB7: ".",
    0xB1: "+/-",
    0x2264: "<=",
    0x2020: "+",
    0x2026: "...",
}


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
    runs: "Sequence[Path | RunScores]",
    baselines: Sequence[str] = (),
    fmt: Format = Format.RICH,
    output: Path | None = None,
    options: "TableOptions | None" = None,
) -> None:
    """Print or write the table of published rows and runs; see `render_runs`."""
    from mistral_eval.report.table import render_runs

    put(render_runs(runs, baselines, fmt.value, options), output)


def finished(runs: Sequence[Path], what: str) -> list[Path]:
    """Return the runs that have finished; say which others are left out of a table or report.

    Raises:
        UnfinishedError: None has finished.
    """
    from mistral_eval.console import Talk
    from mistral_eval.record.run_scores import unfinished_runs

    left_out = unfinished_runs(runs)
    for error in left_out.values():
        Talk().say(f"Left out of the {what}: {error}")
    return [folder for folder in runs if folder not in left_out]


def check_output(path: Path) -> None:
    """Check that a file can be written where the user asks, and replaces nothing of a run's record.

    Raises:
        UsageError: The path is a folder, its folder does not exist, or a run's record needs it.
    """
    from mistral_eval.record.run_folder import is_of_run

    is_folder = os.path.isdir(path)  # noqa: PTH112  False also where it cannot be looked at
    if is_folder or not os.path.isdir(path.parent):  # noqa: PTH112
        what = "is a folder" if is_folder else "is in a folder that does not exist"
        raise UsageError(f"{path} should be a file to write, and {what}. Name a file.")
    if is_of_run(path):
        raise UsageError(
            f"{path} belongs to the record of the run in that folder, which would be lost. Name "
            "another file."
        )


def put(rendered: object, output: Path | None) -> None:
    """Print on stdout, or write text to a file.

    Raises:
        UsageError: a file was named, and the format is for the screen, or see `check_output`.
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

    check_output(output)
    write_lines(output, [rendered.rstrip("\n")])


def write_nearest() -> None:
    r"""Let stdout and stderr write any character, whatever their encoding.

    A character that the encoding lacks is written as the nearest ASCII characters, or else as its
    escape, e.g. `\u4e2d`, so that a terminal's encoding cannot make a finished run fail.
    """
    codecs.register_error(NEAREST, _nearest)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not where a caller replaced it
            stream.reconfigure(errors=NEAREST)


def _nearest(error: UnicodeError) -> tuple[str, int]:
    """Replace the characters that an encoding lacks; see `codecs.register_error`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(map(_ascii, missing)), error.end


def _ascii(character: str) -> str:
    plain = unicodedata.normalize("NFKD", character.translate(_TYPOGRAPHY))
    bare = "".join(c for c in plain if not unicodedata.combining(c))
    if bare and bare.isascii():
        return bare
    return character.encode("ascii", "backslashreplace").decode("ascii")
