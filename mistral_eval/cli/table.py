"""`mistral-eval table`: published numbers, and finished runs beside them."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mistral_eval.cli import options as opt
from mistral_eval.cli.output import Format, finished, print_table, put
from mistral_eval.errors import UsageError


class Layout(StrEnum):
    """Which of the paper's displays is printed."""

    TABLE2 = "table2"
    FIGURE4 = "figure4"
    FIGURE5 = "figure5"
    CHAT = "chat"
    GUARDRAILS = "guardrails"


def table(  # noqa: PLR0913 - one parameter per option of the command line
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            parser=opt.fetching("*/run.json"),
            help="Folders or URLs of finished runs; with --layout chat also FastChat's files of "
            "judgments",
        ),
    ] = None,
    *,
    baselines: opt.Baselines = None,
    list_baselines: Annotated[
        bool, typer.Option("--list-baselines", help="List the published rows and exit")
    ] = False,
    delta_to: Annotated[
        str | None, typer.Option("--delta-to", help="Add every row's difference to this row")
    ] = None,
    reproduced: Annotated[
        str | None,
        typer.Option(help="Test whether each run reproduces this published row"),
    ] = None,
    groups: Annotated[
        bool, typer.Option("--groups", help="Add the averages of the paper's figure 4")
    ] = False,
    sizes: Annotated[
        bool, typer.Option("--sizes", help="Add the equivalent Llama 2 sizes of figure 5")
    ] = False,
    layout: Annotated[
        Layout,
        typer.Option(
            help="Print the paper's Table 2, figure 4 or 5, Table 3 (chat) or 4 (guardrails)"
        ),
    ] = Layout.TABLE2,
    fmt: Annotated[Format, typer.Option("--format", help="Output format")] = Format.RICH,
    output: opt.Output = None,
) -> None:
    """Print the paper's Table 2, or its figure 4 or 5, with finished runs beside it."""
    from mistral_eval.report.table.view import TableOptions

    if list_baselines:
        _list_baselines()
        return
    runs = finished(runs or [], "table")
    if layout is not Layout.TABLE2:
        if baselines or delta_to or reproduced or groups or sizes:
            raise UsageError(
                f"--layout {layout.value} has rows of its own, and no other options but "
                "--format and --output. Leave the others out."
            )
        from mistral_eval.report.table import render_figure

        put(render_figure(runs, layout.value, fmt.value), output)
        return
    options = TableOptions(delta_to=delta_to, reproduced=reproduced, groups=groups, sizes=sizes)
    print_table(runs, opt.names(baselines, "--baselines"), fmt, output, options)


def _list_baselines() -> None:
    from mistral_eval.report.baselines import load_baselines
    from mistral_eval.report.table.rich_table import RichSections
    from mistral_eval.report.table.sections import baseline_listing

    put(RichSections(baseline_listing(load_baselines())), None)
