"""The command that shows a finished run's questions: samples."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from mistral_eval.cli.options import AsJson
from mistral_eval.errors import UsageError

NOTHING = "No question of this run is such; --wrong, --no-answer and --timeout are told apart.\n"


def samples(  # noqa: PLR0913 - one parameter per option of the command line
    run: Annotated[Path, typer.Argument(help="Folder of a finished run")],
    *,
    tasks: Annotated[
        str | None, typer.Option("--tasks", "-t", help="Benchmarks, separated by commas; else all")
    ] = None,
    correct: Annotated[bool, typer.Option("--correct", help="Only what is right")] = False,
    wrong: Annotated[bool, typer.Option("--wrong", help="Only wrong answers")] = False,
    no_answer: Annotated[
        bool, typer.Option("--no-answer", help="Only replies in which no answer was found")
    ] = False,
    timeout: Annotated[
        bool, typer.Option("--timeout", help="Only programs that did not end in time")
    ] = False,
    search: Annotated[
        str, typer.Option(help="Only where prompt, reply or answer has this text")
    ] = "",
    ids: Annotated[
        str | None, typer.Option("--id", help="Only these question ids, separated by commas")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-L", help="This many at most")] = None,
    shots: Annotated[bool, typer.Option("--shots", help="Show the solved examples too")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a run's questions: prompt, replies, what was read as the answer, and the verdict.

    Filters of one kind add up: --wrong --timeout shows both.
    """
    from mistral_eval.report.sample_pages import Wanted, as_text, chosen

    if limit is not None and limit < 1:
        raise UsageError(f"--limit takes a whole number from 1 up; got {limit}.")
    flags = {"correct": correct, "wrong": wrong, "no_answer": no_answer, "timeout": timeout}
    wanted = Wanted(
        tasks=_names(tasks),
        outcomes=frozenset(name for name, is_wanted in flags.items() if is_wanted),
        search=search,
        ids=_names(ids),
        limit=limit,
    )
    found = chosen(run, wanted)
    if as_json:
        json.dump(list(found), sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    _show(as_text(question, with_shots=shots) for question in found)


def _show(pages: Iterator[str]) -> None:
    """Through the pager on a terminal, else straight out."""
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    if not console.is_terminal:
        empty = True
        for page in pages:
            sys.stdout.write(page + "\n")
            empty = False
        if empty:
            sys.stderr.write(NOTHING)
        return
    with console.pager():
        console.out("\n".join(pages) or NOTHING, highlight=False)


def _names(listed: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (listed or "").split(",") if name.strip())
