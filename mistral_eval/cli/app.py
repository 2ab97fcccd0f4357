"""The command line: parse, call one function, print one thing.

Data goes to stdout, talk to stderr. Exit codes: 0 done, 1 the user can fix it, 2 wrong usage,
3 a gate failed; anything else is a bug with its traceback. Nothing heavy is imported before a
command runs.
"""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from mistral_eval import __version__
from mistral_eval.cli import bench as cli_bench
from mistral_eval.cli import plan as cli_plan
from mistral_eval.cli import samples as cli_samples
from mistral_eval.cli import table as cli_results
from mistral_eval.cli.options import (
    AsJson,
    BatchTokens,
    Config,
    Data,
    DataRevision,
    DataUnpinned,
    Device,
    Dtype,
    Limit,
    Model,
    ModelArgs,
    NumFewshot,
    Quiet,
    Revision,
    Tasks,
)
from mistral_eval.errors import MistralEvalError, StoppedError

INTERRUPTED = 130

app = typer.Typer(
    name="mistral-eval",
    help="The Mistral 7B paper's suite, its protocol and its table, on your own checkpoint.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


Engine = Annotated[
    str,
    typer.Option(help="auto, native, hf, oracle, oracle-wrong, random"),
]
Sandbox = Annotated[
    str, typer.Option(help="Isolates programs: auto, bubblewrap, namespaces, podman, docker")
]
Output = Annotated[
    Path, typer.Option("--output-path", "--output_path", "-o", help="Where runs are kept")
]


def _version(*, wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"mistral-eval {__version__}\n")
        raise typer.Exit


@app.callback()
def entry(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=lambda wanted: _version(wanted=wanted), is_eager=True),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks of expected errors")
    ] = False,
) -> None:
    """The Mistral 7B paper's suite, its protocol and its table, on your own checkpoint."""
    del version, debug  # `main` reads --debug: by then the command has ended


@app.command(short_help="Run benchmarks; print the table with this model's row")
def run(  # noqa: PLR0913 - one parameter per option of the command line
    *,
    tasks: Tasks,
    model: Model = "mistralai/Mistral-7B-v0.1",
    engine: Engine = "auto",
    data: Data = "hub",
    limit: Limit = None,
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    batch_tokens: BatchTokens = None,
    seed: Annotated[int, typer.Option(help="Names the samples that are drawn")] = 0,
    num_fewshot: NumFewshot = None,
    model_args: ModelArgs = None,
    output_path: Output = Path("results"),
    verify: Annotated[
        int, typer.Option(help="Answer this many requests again on the plain path, and compare")
    ] = 0,
    unsafe_code: Annotated[
        bool, typer.Option("--unsafe-code", help="Run generated programs without isolation")
    ] = False,
    sandbox: Sandbox = "auto",
    data_revision: DataRevision = None,
    data_unpinned: DataUnpinned = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start again, keeping the earlier run")
    ] = False,
    config: Config = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run benchmarks under the paper's protocol and print the paper's table with this model's row.

    The same command goes on where it stopped, and prints the table at once when it is done.
    """
    del config  # its callback has put it in the place of the defaults
    from mistral_eval.console import Talk
    from mistral_eval.settings import RunSettings, parse_limit, parse_pairs, parse_tasks

    settings = RunSettings(
        tasks=parse_tasks(tasks),
        model=model,
        revision=revision,
        engine=engine,
        data=data,
        limit=parse_limit(limit),
        device=device,
        dtype=dtype,
        batch_tokens=batch_tokens,
        seed=seed,
        model_args=parse_pairs(model_args, "--model-args"),
        num_fewshot=num_fewshot,
        unsafe_code=unsafe_code,
        sandbox=sandbox,
        data_revision=parse_pairs(data_revision, "--data-revision"),
        data_unpinned=data_unpinned,
        output_path=output_path,
        fresh=fresh,
        verify=verify,
    )
    from mistral_eval.run.run import run_suite

    folder = run_suite(settings, Talk(quiet=quiet))
    fmt = cli_results.Format.JSON if as_json else cli_results.Format.RICH
    cli_results.print_table([folder], [], fmt, None)


app.command(short_help="Say what a run would cost; runs nothing")(cli_plan.plan)
app.command(short_help="Measure the paper's efficiency claims on this machine")(cli_bench.bench)
app.command(short_help="Print the paper's Table 2, and finished runs beside it")(cli_results.table)
app.command(short_help="Show a run's questions, replies and verdicts")(cli_samples.samples)
app.command(short_help="Say where runs differ, paired by question")(cli_results.compare)
app.command(short_help="Write one HTML file to look at in a browser")(cli_results.report)


@app.command(short_help="Judge a run's replies again, without its model")
def rescore(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run")],
    *,
    unsafe_code: Annotated[
        bool, typer.Option("--unsafe-code", help="Run generated programs without isolation")
    ] = False,
    sandbox: Sandbox = "auto",
    quiet: Quiet = False,
) -> None:
    """Judge a run's replies again, from its replies log and without its model."""
    from mistral_eval.console import Talk
    from mistral_eval.run.rescoring import rescore as judge_again

    judge_again(run, Talk(quiet=quiet), unsafe_code=unsafe_code, sandbox=sandbox)
    cli_results.print_table([run], [], cli_results.Format.RICH, None)


@app.command(name="tasks", short_help="List the suite, or show one benchmark's protocol")
def list_tasks(
    name: Annotated[
        str | None, typer.Argument(help="A benchmark, for its protocol and prompt")
    ] = None,
    *,
    path: Annotated[
        bool, typer.Option("--path", help="Print the folder of the task files")
    ] = False,
) -> None:
    """List the suite; or show one benchmark's protocol and its first prompt."""
    from mistral_eval.locations import tasks_folder

    if path:
        sys.stdout.write(f"{tasks_folder()}\n")
        return
    from mistral_eval.console import show
    from mistral_eval.report.task_pages import suite_listing, task_page

    if name is None:
        show(suite_listing())
        return
    show(task_page(name))


@app.command(short_help="Say what this machine offers, and what is missing")
def doctor(
    *,
    as_json: AsJson = False,
) -> None:
    """Say what this machine offers: devices, engines, sandbox, data, and what is missing."""
    from mistral_eval.console import show
    from mistral_eval.run.diagnosis import examine, render

    findings = examine()
    if as_json:
        import json

        sys.stdout.write(json.dumps([finding.as_json() for finding in findings], indent=2) + "\n")
        return
    show(render(findings))


def main() -> None:
    """The console script: an expected error is one sentence and its exit code."""
    try:
        app()
    except MistralEvalError as error:
        if "--debug" in sys.argv[1:]:
            raise
        sys.stderr.write(f"mistral-eval: {error}\n")
        if isinstance(error, StoppedError):
            sys.stderr.write(f"  {_same_command(sys.argv[1:])}\n")
        raise SystemExit(error.exit_code) from None
    except SystemExit as end:
        if end.code == INTERRUPTED:  # Typer's answer to Ctrl-C
            rest = "; the same command goes on from here" if "run" in sys.argv[1:] else ""
            sys.stderr.write(f"mistral-eval: stopped{rest}.\n")
        raise


def _same_command(arguments: list[str]) -> str:
    """The command that goes on: this one, which must not start again a second time."""
    return shlex.join(["mistral-eval", *(one for one in arguments if one != "--fresh")])
