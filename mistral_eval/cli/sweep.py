"""`mistral-eval sweep`: benchmarks on the checkpoints of a training, and one table of them."""

import inspect
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from mistral_eval.cli.output import Format, check_output
from mistral_eval.cli.run import end_with_table, run, settings_of_each
from mistral_eval.errors import UsageError

OF_ONE_MODEL: Final = (
    "model",
    "name",
    "adapter",
    "judge_only",
    "judge_pairwise",
    "iterations",
)  # options of `run` only
Checkpoints = Annotated[
    list[str],
    typer.Argument(
        help="Checkpoints: folders, GGUF files or hub names (NAME@REVISION for one of its "
        "revisions), or a folder that contains checkpoints"
    ),
]
Report = Annotated[
    Path | None,
    typer.Option(help="Also write the HTML report, with curves over training steps, to this file"),
]


def sweep(checkpoints: Checkpoints, *, report: Report = None, **options: Any) -> None:
    """Run benchmarks on checkpoints, one after the other, and print a table with a row for each.

    Questions are built once, and encoded once for checkpoints with equal tokenizers. Rows are in
    order of training step, read from a checkpoint's name or its trainer_state.json. A checkpoint
    that fails is a row that says so. The options are those of `run` but for --model, --name,
    --adapter, --judge-only, --judge-pairwise and --iterations.
    """
    from mistral_eval.console import Talk
    from mistral_eval.record.run_folder import make_folder
    from mistral_eval.report.html import write_report
    from mistral_eval.run.sweep import checkpoints_of, run_sweep

    each = settings_of_each(options, checkpoints_of(checkpoints))
    if report is not None and each[0].part is not None:
        raise UsageError(
            "--report shows whole runs, and --part answers a share of one. Write the report after "
            "the merge, with `mistral-eval report`."
        )
    if report is not None:
        make_folder(report.parent)
        check_output(report)
    outcomes = run_sweep(each, Talk(quiet=options["quiet"]))
    try:
        end_with_table(outcomes, Format.JSON if options["as_json"] else Format.RICH)
    finally:  # also where a checkpoint failed
        if report is not None:
            write_report([one.folder for one in outcomes if one.folder is not None], report)


def _with_options_of_run() -> inspect.Signature:
    """Return the command's parameters: its own, then the options of `run` but `OF_ONE_MODEL`."""
    own = [
        one
        for one in inspect.signature(sweep).parameters.values()
        if one.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    shared = inspect.signature(run).parameters
    return inspect.Signature(
        [*own, *(one for name, one in shared.items() if name not in OF_ONE_MODEL)]
    )


vars(sweep)["__signature__"] = _with_options_of_run()  # which Typer reads
