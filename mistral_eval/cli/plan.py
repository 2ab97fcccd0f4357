"""`mistral-eval plan`: what a run would cost."""

from typing import TYPE_CHECKING, Annotated

import typer

from mistral_eval.cli import options as opt
from mistral_eval.cli.output import print_json

if TYPE_CHECKING:
    from rich.table import Table

    from mistral_eval.run.planning import Plan, Spread

MIB, GIB = 1 << 20, 1 << 30


def plan(  # noqa: PLR0913 - one parameter per option of the command line
    *,
    tasks: opt.Tasks,
    model: opt.Model = "mistralai/Mistral-7B-v0.1",
    adapter: opt.Adapter = None,
    data: opt.Data = "hub",
    limit: opt.Limit = None,
    revision: opt.Revision = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    batch_tokens: opt.BatchTokens = None,
    stream_layers: opt.StreamLayers = None,
    workers: opt.Workers = None,
    num_fewshot: opt.NumFewshot = None,
    output_path: opt.RunsFolder = "results",
    apply_chat_template: opt.ApplyChatTemplate = False,
    chat_template: opt.ChatTemplate = "auto",
    system_instruction: opt.SystemInstruction = None,
    system_prompt: opt.SystemPrompt = None,
    fewshot_as_multiturn: opt.FewshotAsMultiturn = None,
    iterations: opt.Iterations = 1,
    model_args: opt.ModelArgs = None,
    data_revision: opt.DataRevision = None,
    data_unpinned: opt.DataUnpinned = False,
    calibrate: Annotated[
        bool, typer.Option(help="Time layers of the model's shape to estimate the run's time")
    ] = True,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """Count a run's requests, tokens and memory and estimate its time.

    Only the model's configuration and tokenizer are read. No request is answered.
    """
    options = dict(locals())
    settings = opt.settings_of(options, engine="native")
    from mistral_eval.console import Talk, show
    from mistral_eval.run.planning import plan_run

    talk = Talk(quiet=quiet)
    found = plan_run(settings, talk, calibrated=calibrate, iterations=iterations)
    if as_json:
        print_json(found.as_json())
        return
    show(table_of(found))
    show(foot_of(found))


def table_of(found: "Plan") -> "Table":
    """Return a table with a row for each benchmark, and one for all together."""
    from rich.table import Table

    from mistral_eval.console import duration

    columns = ("", "requests", "hf feeds", "unique", "ratio", "decode", "K/V MiB", "time")
    table = Table(title="What the run computes", box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name else "left")
    for name, work in [*found.benchmarks.items(), ("together", found.together)]:
        seconds = found.estimate(name)
        bound = "" if found.is_measured(name) else "≤ "
        table.add_row(
            name,
            f"{work.score_requests + work.generate_requests:,}",
            f"{work.naive:,}",
            f"{work.unique:,}",
            f"{work.naive / work.unique:.2f}" if work.unique else "",
            f"{bound}{found.decoded(name):,.0f}" if work.decode_most else "",
            f"{work.cache_bytes / MIB:,.1f}",
            "" if seconds is None else bound + duration(seconds),
        )
    return table


def foot_of(found: "Plan") -> str:
    """Return what the numbers assume: device, dtype, tokens per forward pass, reply lengths."""
    from mistral_eval.console import counted

    place = found.place
    text = (
        f"\nOn {place.device} in {str(place.dtype).removeprefix('torch.')}, "
        f"{place.budget.tokens} tokens per forward pass. Tokens are those of prompts and choices; "
        "decode is the tokens generated, by the mean reply of this model's earlier runs; with ≤, "
        "where there are none, by the longest replies allowed, which is usually many times more."
    )
    text += f"\nThe weights take {place.weight_bytes / GIB:.2f} GiB of memory"
    if place.is_streamed:
        states = found.together.states_bytes / MIB
        text += (
            f", since their layers are read one at a time; hidden states and masks up to "
            f"{states:,.0f} MiB. A decoding step reads all layers, which takes longer than its "
            "time above; the run says how long before it generates"
        )
    text += f". The run's peak is at most {found.peak_bytes / GIB:.2f} GiB"
    text += "."
    ways = sorted({way.words for pair in place.ways.values() for way in pair})
    if ways:
        text += f"\nMatrix products: {', '.join(ways)}, by what is fastest here for each shape."
    if found.iterations > 1:
        text += (
            f"\nAll figures are of {found.iterations} runs together. A greedy reply is equal in "
            "all of them and is computed once."
        )
    if found.judgments:
        text += f"\nA judge, if one is given, is asked for {found.judgments:,} ratings."
    if found.spread is not None:
        text += f"\n{_workers_of(found.spread)}"
    text += "".join(f"\n{sentence}" for sentence in found.left_out)
    if found.truncated:
        text += (
            f"\nLonger than the context, cut on the left: {counted(found.truncated, 'request')}."
        )
    return text


def _workers_of(spread: "Spread") -> str:
    """Return what a run with workers would cost, in a sentence or two."""
    from mistral_eval.console import counted, duration

    text = (
        f"With {spread.workers} workers: {counted(sum(spread.shards), 'shard')}, "
        f"{spread.computed:,} tokens of prompts and choices computed, {100 * spread.excess:.1f} % "
        "more than one process."
    )
    if spread.seconds is not None:
        text += (
            f" The last worker is done after {duration(spread.seconds)}, if each is as fast as one "
            "process alone here."
        )
    return text
