"""The commands that read finished runs: table, compare and report.

Each parses, calls one function and prints one thing; `cli.py` gives them their names.
"""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mistral_eval.errors import UsageError

if TYPE_CHECKING:
    from mistral_eval.report.table.view import TableOptions

GATE_FAILED = 3


class Format(StrEnum):
    """What a table can be printed as."""

    RICH = "rich"
    MD = "md"
    LATEX = "latex"
    CSV = "csv"
    HTML = "html"
    JSON = "json"


class CompareFormat(StrEnum):
    """What a comparison can be printed as."""

    RICH = "rich"
    MD = "md"
    JSON = "json"


class GateName(StrEnum):
    """What counts as worse."""

    SHOWN = "shown"
    POINT = "point"


Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file")]


def table(  # noqa: PLR0913 - one parameter per option of the command line
    runs: Annotated[list[Path] | None, typer.Argument(help="Folders of finished runs")] = None,
    *,
    baselines: Annotated[
        str | None, typer.Option(help="Names or groups of published rows, separated by commas")
    ] = None,
    list_baselines: Annotated[
        bool, typer.Option("--list-baselines", help="List the published rows and stop")
    ] = False,
    delta_to: Annotated[
        str | None, typer.Option("--delta-to", help="Add each row's difference to this row")
    ] = None,
    reproduced: Annotated[
        str | None,
        typer.Option(help="Read each run against this published row, e.g. 'Mistral 7B'"),
    ] = None,
    groups: Annotated[bool, typer.Option("--groups", help="Add the paper's figure 4")] = False,
    sizes: Annotated[bool, typer.Option("--sizes", help="Add the paper's figure 5")] = False,
    fmt: Annotated[Format, typer.Option("--format", help="How to print it")] = Format.RICH,
    output: Output = None,
) -> None:
    """Print the paper's Table 2, with the rows of finished runs beside it."""
    from mistral_eval.report.table.view import TableOptions

    if list_baselines:
        _list_baselines()
        return
    options = TableOptions(delta_to=delta_to, reproduced=reproduced, groups=groups, sizes=sizes)
    print_table(runs or [], _names(baselines), fmt, output, options)


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of finished runs; the first is the reference")
    ],
    *,
    margin: Annotated[float, typer.Option(help="Points that a benchmark may lose")] = 0.0,
    gate: Annotated[
        GateName,
        typer.Option(help="Lost beyond chance (shown), or as the two scores stand (point)"),
    ] = GateName.SHOWN,
    fmt: Annotated[
        CompareFormat, typer.Option("--format", help="How to print it")
    ] = CompareFormat.RICH,
    output: Output = None,
) -> None:
    """Say per benchmark whether runs differ from the first one, paired by question.

    Exit code 3 when a benchmark got worse by more than the margin.
    """
    from mistral_eval.record.comparison import CompareOptions, compare_against
    from mistral_eval.report.table.compared import render_comparison

    if len(runs) < 2:
        raise UsageError("compare takes two runs or more, the reference first; found one.")
    options = CompareOptions(margin=margin, gate=gate.value)
    from mistral_eval.record.sample_files import load_samples

    reference, *others = load_samples(runs)
    found = compare_against(reference, others, options)
    put(render_comparison(found, fmt.value), output)
    if any(one.failed for one in found):
        raise typer.Exit(GATE_FAILED)


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of finished runs; the first is the reference")
    ],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file to write")],
    baselines: Annotated[
        str | None, typer.Option(help="Names or groups of published rows, separated by commas")
    ] = None,
) -> None:
    """Write one HTML file: table, figures, comparison, provenance, and every question.

    It needs no network and can be mailed or kept; open it in a browser.
    """
    from mistral_eval.console import Talk
    from mistral_eval.report.html import write_report

    write_report(runs, output, _names(baselines))
    size = output.stat().st_size / 1e6
    Talk().say(f"{output}: {size:.1f} MB")


def print_table(
    runs: list[Path],
    baselines: list[str],
    fmt: Format,
    output: Path | None,
    options: "TableOptions | None" = None,
) -> None:
    """Print or write the table."""
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
            "--output takes a file format, and rich is for the screen; add --format md."
        )
    from mistral_eval.record.run_folder import write_lines

    write_lines(output, [rendered.rstrip("\n")])


def _names(listed: str | None) -> list[str]:
    return [name.strip() for name in (listed or "").split(",") if name.strip()]


def _list_baselines() -> None:
    from mistral_eval.report.baselines import load_baselines
    from mistral_eval.report.table.rich_table import RichSections
    from mistral_eval.report.table.sections import baseline_listing

    put(RichSections(baseline_listing(load_baselines())), None)
