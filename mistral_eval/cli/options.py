"""Options that several commands take: one spelling and one help text each."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mistral_eval.errors import UsageError

if TYPE_CHECKING:
    from mistral_eval.settings import RunSettings


def fetching(*patterns: str) -> Callable[[str], Path]:
    """Return a parser of runs' folders: of a URL it fetches the files that match the patterns.

    Raises:
        StoreError: the store cannot be read, or holds no run there.
    """

    def parse(place: str) -> Path:
        from mistral_eval.record.remote import fetched
        from mistral_eval.settings import is_url

        return fetched(place, *patterns) if is_url(place) else Path(place)

    return parse


# Of other options an empty value is a variable that a script has not set: as a path it would be the
# current folder.
MAY_BE_EMPTY = ("tasks", "model", "model_args", "data_revision", "system_instruction")
RESULTS = ("*/run.json", "*/*.json", "*/samples_*.jsonl")  # what commands that show runs read
Run = Annotated[
    Path,
    typer.Argument(parser=fetching(*RESULTS), help="Folder or URL of a finished run"),
]
Tasks = Annotated[
    str,
    typer.Option(
        "--tasks",
        "-t",
        help="Suites (paper, figure4) or benchmarks separated by commas; see `mistral-eval tasks`. "
        "lm_eval:NAME is a stock lm-eval task",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="Hugging Face hub name, folder, GGUF file, or tiny (random weights, for tests)",
    ),
]
Adapter = Annotated[
    str | None,
    typer.Option(help="LoRA adapter to merge into the model: a folder or a hub name"),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        help="Hugging Face hub name, folder, GGUF file, or tiny (random weights, for tests); "
        "several -m run one after the other into one table; default: mistralai/Mistral-7B-v0.1",
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Option(
        "--name",
        help="The run's name in tables, once per -m; default: its earlier name, or the model's",
    ),
]
BatchSize = Annotated[
    str | None,
    typer.Option(
        "--batch-size", "--batch_size", help="Requests per forward pass, for --engine hf only"
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        help="auto (native, or hf where native cannot run the model), native, hf, vllm, server; "
        "without a model: oracle, oracle-wrong, random"
    ),
]
BaseUrl = Annotated[
    str | None,
    typer.Option(
        "--base-url",
        "--base_url",
        help="URL of an OpenAI-compatible server, for --engine server: http://HOST:PORT/v1",
    ),
]
Data = Annotated[
    str,
    typer.Option(
        help="hub, sample (16 bundled questions per benchmark), or a folder of parquet files"
    ),
]
Limit = Annotated[
    str | None,
    typer.Option("--limit", "-L", help="Questions per benchmark: a number, or a fraction like 0.1"),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a model on the hub")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Dtype = Annotated[str, typer.Option(help="auto (as stored), float32, bfloat16, float16")]
BatchTokens = Annotated[
    int | None,
    typer.Option("--batch-tokens", help="Tokens per forward pass; default: what fits into memory"),
]
Workers = Annotated[
    str | None,
    typer.Option(
        "--workers",
        help="Processes that answer, each with the engine: a number, auto (one per GPU, or per "
        "core), or ray://ADDRESS for all of a Ray cluster (ray://auto: the one of this machine)",
    ),
]
StreamLayers = Annotated[
    bool | None,
    typer.Option(
        "--stream-layers/--no-stream-layers",
        help="Read the weights from the files a layer at a time; default: only where they do not "
        "fit into memory",
    ),
]
Seed = Annotated[int, typer.Option(help="Random seed for sampling")]
NumFewshot = Annotated[
    int | None,
    typer.Option(
        "--num-fewshot",
        "--num_fewshot",
        "-f",
        help="Solved examples per prompt; default: the paper's number",
    ),
]
ApplyChatTemplate = Annotated[
    bool,
    typer.Option(
        "--apply-chat-template/--no-apply-chat-template",
        "--apply_chat_template",
        help="Ask every benchmark as a conversation; another protocol than the paper's",
    ),
]
ChatTemplate = Annotated[
    str,
    typer.Option(
        "--chat-template",
        help="How conversations become tokens: auto, mistral (mistral-common), folder (the "
        "checkpoint's own template), or a Jinja file",
    ),
]
SystemInstruction = Annotated[
    str | None,
    typer.Option(
        "--system-instruction",
        "--system_instruction",
        help="System prompt before every question",
    ),
]
SystemPrompt = Annotated[
    str | None,
    typer.Option(
        "--system-prompt", help="System prompt of conversations: none, mistral, llama2, or a file"
    ),
]
FewshotAsMultiturn = Annotated[
    bool | None,
    typer.Option(
        "--fewshot-as-multiturn/--no-fewshot-as-multiturn",
        "--fewshot_as_multiturn",
        help="Solved examples as messages of their own; default: with --apply-chat-template",
    ),
]
JudgeUrl = Annotated[
    str | None,
    typer.Option(
        "--judge-url",
        help="URL of an OpenAI-compatible chat server that judges answers: "
        "https://HOST/v1; its key is in MISTRAL_EVAL_JUDGE_API_KEY or OPENAI_API_KEY",
    ),
]
JudgeModel = Annotated[
    str | None,
    typer.Option(
        "--judge-model",
        help="Model that judges, by its server's name; with --judge-engine a folder, GGUF file or "
        "hub name",
    ),
]
JudgeEngine = Annotated[
    str | None,
    typer.Option(
        "--judge-engine",
        help="Run --judge-model in this process in place of a server: native, hf or vllm",
    ),
]
RefusalJudge = Annotated[
    str,
    typer.Option(
        "--refusal-judge",
        help="Judge of refusals: cues (without a model), or llm (--judge-model)",
    ),
]
JudgeOnly = Annotated[
    Path | None,
    typer.Option(
        "--judge-only",
        help="Judge the answers of a FastChat file (model_answer) or of a run's folder, and run "
        "no model",
    ),
]
JudgePairwise = Annotated[
    Path | None,
    typer.Option(
        "--judge-pairwise",
        help="Compare the answers with those of another run's folder or FastChat file, pair by "
        "pair and in both orders",
    ),
]
Iterations = Annotated[
    int,
    typer.Option(
        min=1,
        help="Answer and judge conversations several times, for the standard deviation over runs",
    ),
]
ModelArgs = Annotated[
    str | None,
    typer.Option(
        "--model-args",
        "--model_args",
        help="What the checkpoint's files leave open (rope_theta=10000), tokenizer=, "
        "add_bos_token=, or arguments of the hf, vllm or server engine: key=value,key=value",
    ),
]
DataRevision = Annotated[
    str | None,
    typer.Option(
        "--data-revision", help="Branch, tag or commit of the hub's rows: benchmark=revision,..."
    ),
]
DataUnpinned = Annotated[
    bool, typer.Option("--data-unpinned", help="Accept rows whose fingerprint is not known")
]
RunsFolder = Annotated[
    str,
    typer.Option(
        "--output-path",
        "--output_path",
        "-o",
        metavar="<folder or url>",
        help="Folder for runs, or its URL in a store that fsspec reaches: s3://BUCKET/PREFIX",
    ),
]
Part = Annotated[
    str | None,
    typer.Option(
        help="Answer one part of the requests, e.g. 2/4, and stop before judging; other parts may "
        "run at the same time, on this machine or others"
    ),
]
NoCompute = Annotated[
    bool,
    typer.Option(
        "--no-compute",
        help="Judge what the parts of the run have answered; if replies are missing, name them and "
        "compute nothing",
    ),
]
Verify = Annotated[
    int,
    typer.Option(
        help="Number of requests to compute again, one at a time without the fast paths, and "
        "compare"
    ),
]
UnsafeCode = Annotated[
    bool,
    typer.Option(
        "--unsafe-code", help="Run generated programs even if this machine cannot isolate them"
    ),
]
Sandbox = Annotated[
    str,
    typer.Option(
        help="Isolation of generated programs: auto, bubblewrap, namespaces, podman, docker"
    ),
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Run again from the start; the earlier run is kept")
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write to this file instead of the screen")
]
Baselines = Annotated[
    str | None, typer.Option(help="Published rows, by name or group, separated by commas")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print only the result: no messages, no progress")
]


def use_config(
    ctx: typer.Context, path: Path | None, only: Collection[str] | None = None
) -> Path | None:
    """Make the file's options the defaults of the command line.

    Args:
        ctx: The command's context.
        path: The file; None for none.
        only: Names of the parameters that a file may set; None: all.
    """
    if path is None:
        return None
    from mistral_eval.cli.config_file import read_config

    spellings = {
        name.removeprefix("--").replace("-", "_"): str(param.name)
        for param in ctx.command.params
        for name in param.opts
        if name.startswith("--") and param.name not in ("config", "help")
        if only is None or param.name in only
    }
    repeated = {str(p.name) for p in ctx.command.params if getattr(p, "multiple", False)}
    ctx.default_map = read_config(path, spellings, repeated)
    return path


def _use_config(ctx: typer.Context, path: Path | None) -> Path | None:
    return use_config(ctx, path)


Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        callback=_use_config,
        is_eager=True,
        help="YAML file of options, or the run.json of a run to repeat; the command line wins",
    ),
]


def settings_of(options: Mapping[str, Any], **chosen: object) -> "RunSettings":
    """Build a run's settings from a command's options; options that are not settings are ignored.

    Args:
        options: The command's parameters by name.
        chosen: Settings that the command itself decides.

    Raises:
        UsageError: a value that cannot be, or a task that does not exist.
    """
    from mistral_eval.cli.lm_eval_habits import in_our_words
    from mistral_eval.settings import RunSettings
    from mistral_eval.suite.registry import check_shots, only_in_suites, parse_tasks

    given = {**options, **chosen}
    for name, value in given.items():
        if value == "" and name not in MAY_BE_EMPTY:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option}: expected a value, found ''. Give one, or leave it out.")
    meant = in_our_words(given)
    known = {name: value for name, value in meant.items() if name in RunSettings.model_fields}
    settings = RunSettings(**{**known, "tasks": parse_tasks(options["tasks"])})
    check_shots(settings)
    optional = only_in_suites(options["tasks"])
    if not optional:
        return settings
    from mistral_eval.run.absent import leave_out_absent

    return leave_out_absent(settings, optional)


def names(listed: str | None, option: str) -> tuple[str, ...]:
    """Split a list that is separated by commas; empty if the option was not given.

    Raises:
        UsageError: it was given, and names nothing.
    """
    found = tuple(name.strip() for name in (listed or "").split(",") if name.strip())
    if listed is not None and not found:
        raise UsageError(
            f"{option} should name something, and is {listed!r}. Name it, or leave the option out."
        )
    return found
