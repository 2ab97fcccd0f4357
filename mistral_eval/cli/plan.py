"""`mistral-eval plan`: what a run would cost, before it is started."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mistral_eval.cli.options import (
    AsJson,
    BatchTokens,
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

if TYPE_CHECKING:
    from rich.table import Table

    from mistral_eval.run.planning import Plan

MIB = 1 << 20


def plan(  # noqa: PLR0913 - one parameter per option of the command line
    *,
    tasks: Tasks,
    model: Model = "mistralai/Mistral-7B-v0.1",
    data: Data = "hub",
    limit: Limit = None,
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    batch_tokens: BatchTokens = None,
    num_fewshot: NumFewshot = None,
    model_args: ModelArgs = None,
    data_revision: DataRevision = None,
    data_unpinned: DataUnpinned = False,
    calibrate: Annotated[
        bool, typer.Option(help="Time a few of the requests, for an estimate of the whole")
    ] = True,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Count a run's requests, tokens and memory and estimate its time; runs nothing.

    Of the model only configuration and tokenizer are read.
    """
    from mistral_eval.console import Talk, show
    from mistral_eval.settings import RunSettings, parse_limit, parse_pairs, parse_tasks

    settings = RunSettings(
        tasks=parse_tasks(tasks),
        model=model,
        revision=revision,
        engine="native",
        data=data,
        limit=parse_limit(limit),
        device=device,
        dtype=dtype,
        batch_tokens=batch_tokens,
        model_args=parse_pairs(model_args, "--model-args"),
        num_fewshot=num_fewshot,
        data_revision=parse_pairs(data_revision, "--data-revision"),
        data_unpinned=data_unpinned,
    )
    from mistral_eval.run.planning import plan_run

    found = plan_run(settings, Talk(quiet=quiet), calibrated=calibrate)
    if as_json:
        import json

        sys.stdout.write(json.dumps(found.as_json(), indent=2) + "\n")
        return
    show(table_of(found))
    show(foot_of(found))


def table_of(found: "Plan") -> "Table":
    """A line for each benchmark alone, and one for all together."""
    from rich.table import Table

    columns = ("", "requests", "hf feeds", "unique", "ratio", "decode ≤", "K/V MiB", "time ≤")
    table = Table(title="What the run computes", box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name else "left")
    for name, work in [*found.benchmarks.items(), ("together", found.together)]:
        seconds = None if found.rates is None else found.rates.seconds(work)
        table.add_row(
            name,
            f"{work.score_requests + work.generate_requests:,}",
            f"{work.naive:,}",
            f"{work.unique:,}",
            f"{work.naive / work.unique:.2f}" if work.unique else "",
            f"{work.decode_most:,}" if work.decode_most else "",
            f"{work.cache_bytes / MIB:,.1f}",
            "" if seconds is None else duration(seconds),
        )
    return table


def foot_of(found: "Plan") -> str:
    """What the columns mean here: engine, budget, and what is an upper bound."""
    place = found.place
    text = (
        f"\nOn {place.device} in {str(place.dtype).removeprefix('torch.')}, "
        f"{place.budget.tokens} tokens at once. Tokens are those of prompts and choices; "
        "decode and time assume that every reply goes on to its limit."
    )
    if found.truncated:
        text += f"\n{found.truncated} requests exceed the context and lose their left end."
    return text


def duration(seconds: float) -> str:
    """Two figures of a time: 12 s, 3.5 min, 2.1 h, 4.0 days."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
