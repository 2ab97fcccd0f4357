"""`mistral-eval rescore`: a run's replies judged again."""

from pathlib import Path
from typing import Annotated

import typer

from mistral_eval.cli import options as opt
from mistral_eval.cli.output import print_table


def rescore(
    run: Annotated[
        Path,
        typer.Argument(parser=opt.fetching(), help="Folder or URL of a finished run"),
    ],
    *,
    unsafe_code: opt.UnsafeCode = False,
    sandbox: opt.Sandbox = "auto",
    quiet: opt.Quiet = False,
) -> None:
    """Judge a run's recorded replies again and print its table; the model is not needed."""
    from mistral_eval.console import Talk
    from mistral_eval.run.run import rescore as judge_again

    judge_again(run, Talk(quiet=quiet), unsafe_code=unsafe_code, sandbox=sandbox)
    print_table([run])
