"""`mistral-eval bench`: the paper's efficiency claims, measured on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mistral_eval.cli.options import Adapter, AsJson, Device, Dtype, Quiet
from mistral_eval.cli.output import print_json

if TYPE_CHECKING:
    from mistral_eval.bench.measurements import Found

Shape = Annotated[
    str,
    typer.Option(
        help="tiny, mini, small or 7b (random weights), a checkpoint's folder or GGUF file"
    ),
]
Contexts = Annotated[str, typer.Option(help="Context lengths in tokens: 4096,16k,...")]
Window = Annotated[str, typer.Option(help="Size of the sliding window, in tokens")]
Chunk = Annotated[
    str | None, typer.Option(help="Tokens per prefill chunk; default: a quarter of the window")
]
Parts = Annotated[str, typer.Option(help="all, or a list of window,gqa,cache,chunk,prefix")]
Steps = Annotated[int, typer.Option("--decode-tokens", min=1, help="Decoding steps to time")]
Repeats = Annotated[int, typer.Option(min=1, help="Runs of a short case; reports the median")]
ClockName = Annotated[
    str, typer.Option(help="wall, or cpu (CPU seconds of one thread, for a shared machine)")
]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--output-path", "--output_path", "-o", help="Folder for JSON, Markdown and plots"
    ),
]


def bench(  # noqa: PLR0913 - one parameter per option of the command line
    *,
    shape: Shape = "mini",
    adapter: Adapter = None,
    contexts: Contexts = "4096,16384,32768",
    window: Window = "4096",
    chunk: Chunk = None,
    parts: Parts = "all",
    device: Device = "auto",
    dtype: Dtype = "auto",
    decode_tokens: Steps = 32,
    repeats: Repeats = 3,
    seed: Annotated[int, typer.Option(help="Random seed of weights and tokens")] = 0,
    clock: ClockName = "wall",
    output_path: Folder = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure the sliding window, GQA, the rolling buffer, chunked prefill and prefix sharing.

    Reports the speed of prefill and decoding, cache size and peak memory by context length. A case
    that does not fit into memory is refused before anything starts.
    """
    from mistral_eval.bench.cases import (
        BenchSettings,
        parse_clock,
        parse_contexts,
        parse_parts,
        parse_tokens,
    )
    from mistral_eval.bench.session import run_bench
    from mistral_eval.bench.shapes import read_subject
    from mistral_eval.console import Talk
    from mistral_eval.engines.devices import choose_device
    from mistral_eval.record.run_folder import make_folder

    where = choose_device(device)
    width = parse_tokens(window, "--window")
    settings = BenchSettings(
        contexts=parse_contexts(contexts),
        window=width,
        chunk=max(1, width // 4) if chunk is None else parse_tokens(chunk, "--chunk"),
        parts=parse_parts(parts),
        decode_tokens=decode_tokens,
        repeats=repeats,
        seed=seed,
        clock=parse_clock(clock, where.type),
    )
    subject = read_subject(shape, dtype, where, adapter)
    if output_path is not None:
        make_folder(output_path)
    talk = Talk(quiet=quiet)
    found = run_bench(subject, settings, where, talk.say)
    if output_path is not None:
        _write(found, output_path)
        talk.say(f"bench.json, bench.md and the plots are in {output_path}.")
    _print(found, as_json=as_json)


def _write(found: "Found", folder: Path) -> None:
    from mistral_eval.bench.measurements import as_json, markdown
    from mistral_eval.bench.plots import write_plots
    from mistral_eval.record.run_folder import write_json, write_lines

    write_json(folder / "bench.json", as_json(found))
    write_lines(folder / "bench.md", [markdown(found).rstrip("\n")])
    write_plots(found, folder)


def _print(found: "Found", *, as_json: bool) -> None:
    if as_json:
        from mistral_eval.bench.measurements import as_json as plain

        print_json(plain(found))
        return
    from mistral_eval.bench.measurements import about, sections
    from mistral_eval.console import show
    from mistral_eval.report.table.rich_table import RichSections

    show(RichSections(sections(found)))
    show(f"\n{about(found)}")
