"""`mistral-eval report`: one HTML file."""

from pathlib import Path
from typing import Annotated

import typer

from mistral_eval.cli import options as opt
from mistral_eval.cli.compare import Runs
from mistral_eval.cli.output import check_output, finished


def report(
    runs: Runs,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file to write")],
    baselines: opt.Baselines = None,
) -> None:
    """Write one HTML file: table, figures, comparison, provenance and every question.

    The file loads nothing from the network.
    """
    from mistral_eval.console import Talk
    from mistral_eval.report.html import write_report

    check_output(output)
    write_report(finished(runs, "report"), output, opt.names(baselines, "--baselines"))
    if output.is_file():
        Talk().say(f"{output}: {output.stat().st_size / 1e6:.1f} MB")
