"""Pages of `mistral-eval tasks`: the list of benchmarks, or one benchmark and its prompt."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mistral_eval.data.task_file import tasks_folder
from mistral_eval.errors import UsageError, nearest
from mistral_eval.settings import STOCK_PREFIX
from mistral_eval.suite.registry import BENCHMARKS, BY_ID, SUITES

RULE = "-" * 27  # before and after a prompt, so that its last line break is visible
PROTOCOL_KEYS = (
    "dataset_path",
    "dataset_name",
    "test_split",
    "output_type",
    "num_fewshot",
    "description",
    "doc_to_text",
    "doc_to_choice",
    "doc_to_target",
    "target_delimiter",
    "fewshot_delimiter",
    "generation_kwargs",
    "repeats",
)


def suite_listing() -> RenderableType:
    """Return a table of every benchmark, one per line."""
    table = Table(title="Benchmarks", box=None, pad_edge=False, collapse_padding=True)
    for name in ("task", "column", "N", "shots", "metric", "suites"):
        is_number = name in ("N", "shots")
        table.add_column(
            name,
            justify="right" if is_number else "left",
            no_wrap=name not in ("column", "suites"),
        )
    for benchmark in BENCHMARKS:
        table.add_row(
            benchmark.id,
            benchmark.column,
            str(benchmark.n),
            str(benchmark.shots),
            benchmark.cell,
            ", ".join(name for name, members in SUITES.items() if benchmark.id in members),
        )
    return Group(table, Text("\nDetails: mistral-eval tasks NAME. Their folder: tasks --path."))


def task_page(name: str) -> str:
    """Return a benchmark's protocol, then its first prompt from the sample.

    Raises:
        UsageError: there is no benchmark of this name (the error lists the nearest names), or it
            is a stock task.
    """
    if name.startswith(STOCK_PREFIX):
        raise UsageError(
            f"{name} is a stock task, whose protocol is lm-eval's own, and `tasks` shows our "
            "benchmarks. `lm-eval ls tasks` lists stock tasks."
        )
    if name not in BY_ID:
        raise UsageError(f"Unknown task {name!r}. {nearest(name, BY_ID)}")
    from mistral_eval.data import make_source
    from mistral_eval.run.questions import Asking, load_benchmarks

    (loaded,) = load_benchmarks([name], Asking(make_source("sample"), 1, None, unpinned=False))
    config: dict[str, Any] = loaded.task.dump_config()
    lines = [f"{loaded.benchmark.column}  ({tasks_folder() / f'{name}.yaml'})", ""]
    lines += [f"{key}: {config[key]!r}" for key in PROTOCOL_KEYS if key in config]
    lines.append(f"the cell: {loaded.benchmark.cell} over {loaded.benchmark.n} questions")
    first = loaded.questions[0].requests
    lines += ["", "First prompt of the sample:", RULE, str(first[0].context), RULE]
    if loaded.kind == "score":
        lines.append("Continuations:")
        asked, alone = loaded.benchmark.halves(first)
        lines += [repr(request.continuation) for request in asked]
        if alone:
            lines.append(f"The same continuations, scored after {alone[0].context!r} alone.")
    return "\n".join(lines)
