"""The command line: parse, call one function, print one thing.

Data goes to stdout, messages go to stderr. Exit codes: 0 done, 1 the user can fix it, 2 wrong
usage, 3 a gate failed; anything else is a bug with its traceback. Nothing heavy is imported before
a command runs.
"""

import errno
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from mistral_eval import __version__
from mistral_eval.cli.bench import bench
from mistral_eval.cli.cluster import app as cluster
from mistral_eval.cli.compare import compare
from mistral_eval.cli.doctor import doctor
from mistral_eval.cli.lm_eval_habits import translated
from mistral_eval.cli.output import write_nearest
from mistral_eval.cli.plan import plan
from mistral_eval.cli.report import report
from mistral_eval.cli.rescore import rescore
from mistral_eval.cli.run import run
from mistral_eval.cli.samples import samples
from mistral_eval.cli.sweep import sweep
from mistral_eval.cli.table import table
from mistral_eval.cli.tasks import tasks
from mistral_eval.errors import MistralEvalError, StoppedError

INTERRUPTED = 130
# How threads wait for each other, read when torch is loaded. By default they spin, which on cores
# that other processes use costs twice the processor time of one thread.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
# Where every thread has a core for itself, waking up costs more than a short spin: two threads that
# sleep at once generate more slowly than one. For libgomp, which torch brings; a fraction of a ms.
SPINS = {"GOMP_SPINCOUNT": "30000"}
# With --quiet: neither retries nor progress of downloads.
QUIET_HUB = {"HF_HUB_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
LOAD_FILE = Path("/proc/loadavg")

app = typer.Typer(
    name="mistral-eval",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS: dict[Callable[..., None], str] = {
    run: "Run benchmarks and print the table with this model's row",
    sweep: "Run benchmarks on a training's checkpoints, with a row for each",
    plan: "Estimate the cost of a run without running it",
    table: "Print the published table, with finished runs beside it",
    tasks: "List the benchmarks, or show one's protocol and first prompt",
    samples: "Show a run's questions, replies and verdicts",
    compare: "Test whether runs differ, paired by question",
    report: "Write a run's report as one HTML file",
    rescore: "Judge a run's replies again, without its model",
    bench: "Measure the paper's efficiency claims on this machine",
    doctor: "Show what this machine offers, and what is missing",
}
for command, summary in COMMANDS.items():
    app.command(short_help=summary)(command)
app.add_typer(cluster, name="cluster", short_help="Write jobs for Slurm or SkyPilot")


def _print_version(*, wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"mistral-eval {__version__}\n")
        raise typer.Exit


@app.callback()
def entry(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=lambda wanted: _print_version(wanted=wanted),
            is_eager=True,
            help="Print the version and exit",
        ),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error")] = False,
) -> None:
    """Run the Mistral 7B paper's benchmarks on a checkpoint, under the paper's protocol."""
    del version, debug  # `main` reads --debug, after the command has ended


def main() -> None:
    """Run the command line; an expected error is one sentence and its exit code."""
    _open_streams()
    write_nearest()
    _unset_zero_size()
    _set_waiting()
    _set_quiet(sys.argv[1:])
    try:
        app(args=translated(sys.argv[1:]))
    except MistralEvalError as error:
        if "--debug" in sys.argv[1:]:
            raise
        sys.stderr.write(f"mistral-eval: {error}\n")
        if isinstance(error, StoppedError):
            sys.stderr.write(f"  {_same_command(sys.argv[1:])}\n")
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        _no_room()
    except SystemExit as end:
        try:
            sys.stdout.flush()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            _no_room()
        if end.code == INTERRUPTED:  # Typer's answer to Ctrl-C
            same = "command without --fresh" if "--fresh" in sys.argv else "command"
            rest = (
                f"; the same {same} resumes the run" if {"run", "sweep"} & {*sys.argv[1:]} else ""
            )
            sys.stderr.write(f"mistral-eval: stopped{rest}.\n")
        raise


def _open_streams() -> None:
    """Discard what goes to a standard stream that the caller has closed, as in `>&-`.

    Otherwise the next file that is opened takes its number, and a library's messages go into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115


def _unset_zero_size() -> None:
    """Unset COLUMNS and LINES where they are 0 or empty: with 0 columns rich prints nothing."""
    for name in ("COLUMNS", "LINES"):
        if os.environ.get(name, "").strip("0 ") == "":
            os.environ.pop(name, None)


def _set_quiet(arguments: Sequence[str]) -> None:
    """With --quiet, let the hub's library say only errors; it reads the settings when imported."""
    if {"-q", "--quiet"} & {*arguments}:
        for name, value in QUIET_HUB.items():
            os.environ.setdefault(name, value)


def _set_waiting() -> None:
    """Let threads sleep while they wait, after a short spin if the cores are idle now."""
    spins = SPINS if "OMP_WAIT_POLICY" not in os.environ and _are_cores_idle() else {}
    for name, value in {**WAITING, **spins}.items():
        os.environ.setdefault(name, value)


def _are_cores_idle() -> bool:
    """Return whether each thread would have an idle core; False where that cannot be told."""
    cores = os.cpu_count() or 1
    told = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(told) if told.isdecimal() else cores
    running = []
    try:
        for _ in range(5):  # a daemon that runs for a moment does not count
            running.append(int(LOAD_FILE.read_text(encoding="ascii").split()[3].partition("/")[0]))
            time.sleep(0.001)
    except (OSError, ValueError, IndexError):
        return False
    others = sorted(running)[2] - 1  # this process is one
    return others + threads <= cores


def _no_room() -> NoReturn:
    """End because what the command prints cannot be written, e.g. to a file on a full disk."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes at its end
    sys.stderr.write(
        "mistral-eval: the output could not be written: no space is left on the device. Results "
        "of runs are kept: write elsewhere, e.g. with `mistral-eval table RUN`.\n"
    )
    raise SystemExit(1)


def _same_command(arguments: list[str]) -> str:
    """Return the command that resumes this run: without --fresh, which would start another."""
    return shlex.join(["mistral-eval", *(one for one in arguments if one != "--fresh")])
