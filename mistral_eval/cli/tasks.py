"""`mistral-eval tasks`: the benchmarks and their protocols."""

import sys
from typing import Annotated

import typer


def tasks(
    name: Annotated[str | None, typer.Argument(help="Benchmark to show; default: list all")] = None,
    *,
    path: Annotated[
        bool, typer.Option("--path", help="Print the folder of the benchmarks' YAML files")
    ] = False,
) -> None:
    """List the benchmarks, or show one benchmark's protocol and its first prompt."""
    from mistral_eval.data.task_file import tasks_folder

    if path:
        sys.stdout.write(f"{tasks_folder()}\n")
        return
    from mistral_eval.console import show
    from mistral_eval.run.task_pages import suite_listing, task_page

    show(suite_listing() if name is None else task_page(name))
