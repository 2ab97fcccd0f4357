"""Options that several commands take, with one spelling and one help text."""

from pathlib import Path
from typing import Annotated

import typer

WHOLE_NUMBERS = ("batch_tokens", "seed", "num_fewshot", "verify")

Tasks = Annotated[
    str,
    typer.Option(
        "--tasks",
        "-t",
        help="Suite or benchmarks, separated by commas; a stock lm-eval task: lm_eval:NAME",
    ),
]
Model = Annotated[
    str,
    typer.Option("--model", "-m", help="A hub id, a folder, or tiny (random, made on the spot)"),
]
Data = Annotated[
    str, typer.Option(help="hub, sample (16 real questions each, bundled), or a folder of parquet")
]
Limit = Annotated[
    str | None,
    typer.Option("--limit", "-L", help="Questions of each benchmark in all, or a fraction"),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16")]
BatchTokens = Annotated[
    int | None,
    typer.Option("--batch-tokens", help="Tokens computed at once; default: fits memory"),
]
NumFewshot = Annotated[
    int | None,
    typer.Option("--num-fewshot", "--num_fewshot", "-f", help="Departs from the paper's shots"),
]
ModelArgs = Annotated[
    str | None,
    typer.Option(
        "--model-args", "--model_args", help="What the checkpoint leaves open: key=value,…"
    ),
]
DataRevision = Annotated[
    str | None,
    typer.Option("--data-revision", help="Branch, tag or commit of the hub's rows: NAME=SHA,…"),
]
DataUnpinned = Annotated[
    bool, typer.Option("--data-unpinned", help="Accept rows whose fingerprint is not known")
]


def _use_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Take what the file says for what the command line leaves out."""
    if path is None:
        return None
    from mistral_eval.cli.config_file import Option, read_config

    options = {}
    for param in ctx.command.params:
        names = [name[2:].replace("-", "_") for name in param.opts if name.startswith("--")]
        takes = "flag" if getattr(param, "is_flag", False) else "text"
        takes = "number" if param.name in WHOLE_NUMBERS else takes
        if param.name not in (None, "config", "help"):
            options.update(dict.fromkeys(names, Option(str(param.name), takes)))
    ctx.default_map = read_config(path, options)
    return path


Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        callback=_use_config,
        is_eager=True,
        help="Options from a YAML file or a run.json; the command line wins",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the table")]
