"""`mistral-eval compare`: runs against a reference, paired by question."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mistral_eval.cli import options as opt
from mistral_eval.cli.output import put
from mistral_eval.errors import UsageError

GATE_FAILED = 3

Runs = Annotated[
    list[Path],
    typer.Argument(
        parser=opt.fetching(*opt.RESULTS),
        help="Folders or URLs of finished runs; the first is the reference",
    ),
]


class CompareFormat(StrEnum):
    """What a comparison can be printed as."""

    RICH = "rich"
    MD = "md"
    JSON = "json"


class GateName(StrEnum):
    """What counts as worse."""

    SHOWN = "shown"
    POINT = "point"


def compare(
    runs: Runs,
    *,
    margin: Annotated[float, typer.Option(help="Points a benchmark may lose and still pass")] = 0.0,
    gate: Annotated[
        GateName,
        typer.Option(
            help="What fails: a statistically significant loss (shown), or any loss (point)"
        ),
    ] = GateName.SHOWN,
    common: Annotated[
        bool, typer.Option("--common", help="Compare the questions that both runs have")
    ] = False,
    replies: Annotated[
        bool,
        typer.Option("--replies", help="Also compare the replies: log-likelihoods, equal texts"),
    ] = False,
    fmt: Annotated[CompareFormat, typer.Option("--format", help="Output format")] = (
        CompareFormat.RICH
    ),
    output: opt.Output = None,
) -> None:
    """Test for each benchmark whether runs differ from the first one, paired by question.

    The exit code is 3 if a benchmark lost more than the margin.
    """
    from mistral_eval.record.comparison import CompareOptions, compare_against
    from mistral_eval.record.reply_differences import reply_differences
    from mistral_eval.report.table.compared import render_comparison

    if len(runs) < 2:
        raise UsageError("compare expects two runs or more, the reference first; found one.")
    options = CompareOptions(margin=margin, gate=gate.value, common=common)
    from mistral_eval.record.sample_files import load_samples

    reference, *others = load_samples(runs)
    found = compare_against(reference, others, options)
    apart = [reply_differences(runs[0], run) for run in runs[1:]] if replies else []
    put(render_comparison(found, fmt.value, apart), output)
    if any(one.failed for one in found):
        raise typer.Exit(GATE_FAILED)
