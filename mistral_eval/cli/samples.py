"""`mistral-eval samples`: a run's questions, replies and verdicts."""

import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from mistral_eval.cli import options as opt
from mistral_eval.cli.output import print_json
from mistral_eval.errors import UsageError

NOTHING = "No question of this run matches.\n"
OTHER_OUTCOMES = "--wrong leaves out what --no-answer and --timeout show.\n"


def samples(  # noqa: PLR0913 - one parameter per option of the command line
    run: opt.Run,
    *,
    tasks: Annotated[
        str | None,
        typer.Option("--tasks", "-t", help="Benchmark names, separated by commas"),
    ] = None,
    correct: Annotated[bool, typer.Option("--correct", help="Only correct answers")] = False,
    wrong: Annotated[bool, typer.Option("--wrong", help="Only wrong answers")] = False,
    no_answer: Annotated[
        bool, typer.Option("--no-answer", help="Only replies without an answer")
    ] = False,
    timeout: Annotated[
        bool, typer.Option("--timeout", help="Only programs that timed out")
    ] = False,
    search: Annotated[
        str | None,
        typer.Option(help="Only questions whose prompt, reply or answer contains this text"),
    ] = None,
    ids: Annotated[
        str | None, typer.Option("--id", help="Only these question ids, separated by commas")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-L", help="Questions to show")] = None,
    shots: Annotated[bool, typer.Option("--shots", help="Show the solved examples, too")] = False,
    as_json: opt.AsJson = False,
) -> None:
    """Show a run's questions: prompt, replies, extracted answer and verdict.

    --correct, --wrong, --no-answer and --timeout can be combined: --wrong --timeout shows both.
    """
    from mistral_eval.report.sample_pages import Wanted, as_text, chosen

    if limit is not None and limit < 1:
        raise UsageError(f"--limit takes a whole number from 1 up; got {limit}.")
    if search == "":
        raise UsageError("--search should be a text, and is empty. Leave it out to show all.")
    flags = {"correct": correct, "wrong": wrong, "no_answer": no_answer, "timeout": timeout}
    wanted = Wanted(
        tasks=opt.names(tasks, "--tasks"),
        outcomes=frozenset(name for name, is_wanted in flags.items() if is_wanted),
        search=search or "",
        ids=opt.names(ids, "--id"),
        limit=limit,
    )
    found = chosen(run, wanted)
    if as_json:
        print_json(list(found))
        return
    hint = OTHER_OUTCOMES if wrong and not (no_answer and timeout) else ""
    _show((as_text(question, with_shots=shots) for question in found), NOTHING + hint)


def _show(pages: Iterator[str], nothing: str) -> None:
    """Print through the pager on a terminal, directly elsewhere; `nothing` if there is no page."""
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    if not console.is_terminal:
        empty = True
        for page in pages:
            sys.stdout.write(page + "\n")
            empty = False
        if empty:
            sys.stderr.write(nothing)
        return
    with console.pager():
        console.out("\n".join(pages) or nothing, highlight=False)
