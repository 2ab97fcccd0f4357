"""`mistral-eval cluster`: write the jobs that run benchmarks on Slurm or through SkyPilot."""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from mistral_eval.cli import options as opt
from mistral_eval.cli.output import put
from mistral_eval.cli.run import run, settings_of_each
from mistral_eval.errors import UsageError

if TYPE_CHECKING:
    from mistral_eval.settings import RunSettings

# Options of `run` that a job decides itself, or that make no sense in one.
LEFT_OUT: Final = ("part", "no_compute", "judge_only", "fresh")
GIVEN: Final = ("COMMANDLINE", "DEFAULT_MAP")  # on the command line, or in the file of --config
OF_RUN: Final = {
    name: parameter
    for name, parameter in inspect.signature(run).parameters.items()
    if name not in LEFT_OUT
}

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Write the jobs that run benchmarks on a cluster or in a cloud. They have the options of "
    "`run` but for --part, --no-compute, --judge-only and --fresh.",
)


def _with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `run` before its own; they arrive by name.

    -o is the job's file here, and the folder for runs has its long name only.
    """
    own = inspect.signature(command).parameters
    of_run = dict(OF_RUN)
    of_run["config"] = of_run["config"].replace(annotation=_Config)
    of_run["output_path"] = of_run["output_path"].replace(annotation=_RunsFolder)
    together = [one for one in own.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    together[1:1] = [one for name, one in of_run.items() if name not in own]
    signature = inspect.Signature(
        [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in together]
    )
    cast(Any, command).__signature__ = signature  # where inspect looks first
    return command


def _use_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Make the file's options of `run` the defaults of the command line."""
    return opt.use_config(ctx, path, only=OF_RUN)


_Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        callback=_use_config,
        is_eager=True,
        help="YAML file of options of `run`, or the run.json of a run to repeat; the command line "
        "wins",
    ),
]
_RunsFolder = Annotated[
    str,
    typer.Option(
        "--output-path",
        "--output_path",
        metavar="<folder or url>",
        help="Folder for runs, or its URL in a store that fsspec reaches",
    ),
]
_Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write to this file instead of the screen")
]
_JobName = Annotated[str, typer.Option("--job-name", help="The job's name")]
_Setup = Annotated[
    list[str] | None,
    typer.Option(
        "--setup",
        help="Shell command before the run, e.g. 'source ~/venv/bin/activate'; repeatable",
    ),
]


@app.command(short_help="Write a batch script for Slurm")
@_with_run_options
def slurm(  # noqa: PLR0913 - one parameter per option of the command line
    ctx: typer.Context,
    *,
    parts: Annotated[
        int | None, typer.Option(help="Tasks of an array, each of which answers one part")
    ] = None,
    ray: Annotated[
        bool, typer.Option("--ray", help="One job with Ray on --nodes nodes, in place of an array")
    ] = False,
    nodes: Annotated[
        int | None, typer.Option(help="Nodes; without --ray the same as --parts")
    ] = None,
    partition: Annotated[str | None, typer.Option(help="Slurm's partition")] = None,
    merge_partition: Annotated[
        str | None,
        typer.Option(
            "--merge-partition",
            help="Partition of the job that merges the parts, which needs no GPU",
        ),
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="Time limit of each task as Slurm writes it, e.g. 4:00:00")
    ] = None,
    gpus_per_task: Annotated[int, typer.Option("--gpus-per-task", help="GPUs of each task")] = 0,
    cpus_per_task: Annotated[
        int | None, typer.Option("--cpus-per-task", help="Cores of each task")
    ] = None,
    mem: Annotated[str | None, typer.Option(help="Memory of each task, e.g. 64G")] = None,
    setup: _Setup = None,
    sbatch: Annotated[
        list[str] | None,
        typer.Option(help="Another option of sbatch, e.g. --sbatch=--account=physics; repeatable"),
    ] = None,
    job_name: _JobName = "mistral-eval",
    output: _Output = None,
    **of_run: Any,
) -> None:
    """Write a batch script that runs benchmarks on a Slurm cluster.

    With --parts it is an array of tasks and a job that merges them, with --ray one job on several
    nodes. Submit it with `bash FILE`.
    """
    from mistral_eval.jobs.slurm import SlurmJob, array_script, ray_script

    tasks = _tasks_of(parts, nodes, ray=ray)
    workers = str(of_run.get("workers") or "")
    if ray and workers:
        raise UsageError(
            f"--ray starts a worker for each GPU or core, and --workers is {workers}. Leave one of "
            "them out."
        )
    _checked(of_run, {} if ray else {"part": f"1/{tasks}"})
    job = SlurmJob(
        options=_given(ctx),
        tasks=tasks,
        name=job_name,
        partition=partition,
        merge_partition=merge_partition,
        time=time,
        gpus=gpus_per_task,
        cpus=cpus_per_task,
        memory=mem,
        setup=setup or (),
        more=sbatch or (),
    )
    _write(ray_script(job) if ray else array_script(job), output, "bash")


@app.command(short_help="Write a task for SkyPilot")
@_with_run_options
def sky(  # noqa: PLR0913 - one parameter per option of the command line
    ctx: typer.Context,
    *,
    nodes: Annotated[int, typer.Option(help="Machines; with several, Ray connects them")] = 1,
    bucket: Annotated[
        str | None,
        typer.Option(
            help="Bucket for runs, s3://NAME or gs://NAME/FOLDER; machines see it as /bucket"
        ),
    ] = None,
    infra: Annotated[
        str | None,
        typer.Option(
            help="Where machines are started: aws, gcp/us-central1, k8s/CONTEXT, slurm/CLUSTER, "
            "...; default: where they cost least"
        ),
    ] = None,
    accelerators: Annotated[
        str | None, typer.Option(help="Accelerators of each machine, e.g. A100:1")
    ] = None,
    cpus: Annotated[str | None, typer.Option(help="Cores of each machine, e.g. 8 or 8+")] = None,
    spot: Annotated[
        bool, typer.Option("--spot", help="Cheaper machines that may be taken away at any time")
    ] = False,
    recovery: Annotated[
        str, typer.Option(help="What SkyPilot does then: EAGER_NEXT_REGION or FAILOVER")
    ] = "EAGER_NEXT_REGION",
    workdir: Annotated[
        Path | None,
        typer.Option(help="Checkout to install mistral-eval from; default: the release"),
    ] = None,
    setup: _Setup = None,
    job_name: _JobName = "mistral-eval",
    output: _Output = None,
    **of_run: Any,
) -> None:
    """Write a SkyPilot managed job that runs benchmarks in a cloud, on Kubernetes or on Slurm.

    Submit it with `sky jobs launch FILE`.
    """
    from mistral_eval.jobs.sky import SkyTask, task_yaml
    from mistral_eval.settings import RAY_PREFIX

    without = []
    if bucket is not None:
        without = ["output_path"]
        if _is_given(ctx, "output_path"):
            raise UsageError(
                f"--bucket {bucket} is where runs go, and --output-path names another place. Leave "
                "out one of the two, or give the bucket with a folder."
            )
    elif not _is_given(ctx, "output_path"):
        raise UsageError(
            "The machines are deleted when the job ends, and so are runs on them. Give --bucket, "
            "or --output-path with a folder on storage that outlives them."
        )
    if nodes > 1 and of_run.get("workers"):
        raise UsageError(
            f"With --nodes {nodes} a worker starts for each GPU or core, and --workers is "
            f"{of_run['workers']}. Leave one of them out."
        )
    if str(of_run.get("workers") or "").startswith(RAY_PREFIX):
        raise UsageError(
            f"--workers {of_run['workers']} is a Ray cluster, and the job's one machine is in "
            "none. Give a number or auto, or several --nodes, which Ray connects."
        )
    each = _checked(of_run, {})
    task = SkyTask(
        options=_given(ctx, without),
        nodes=nodes,
        bucket=bucket,
        name=job_name,
        infra=infra,
        accelerators=accelerators,
        cpus=cpus,
        is_spot=spot,
        recovery=recovery.upper(),
        extras=["vllm"] if "vllm" in (of_run["engine"], of_run["judge_engine"]) else [],
        workdir=None if workdir is None else workdir.expanduser().absolute(),
        setup=setup or (),
    )
    if task.cloud != "slurm":
        for settings in each:
            _check_paths(settings)
    _write(task_yaml(task), output, "sky jobs launch")


def _is_given(ctx: typer.Context, name: str) -> bool:
    """Return whether an option was given, on the command line or in a file."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name in GIVEN


def _check_paths(settings: "RunSettings") -> None:
    """Check that the run names nothing that is only on this machine.

    Raises:
        UsageError: it does.
    """
    from mistral_eval.jobs.sky import MOUNT
    from mistral_eval.run.stamps import named_files

    named = [(option, path) for _, option, path in named_files(settings)]
    if settings.data not in ("hub", "sample"):
        named.append((f"--data {settings.data}", Path(settings.data).expanduser()))
    for option, path in named:
        if path.exists() and not path.is_relative_to(MOUNT):
            raise UsageError(
                f"{option} is on this machine, and the job runs on others. Copy it into the bucket "
                f"and give its path below {MOUNT}/, or a name on the hub."
            )


def _tasks_of(parts: int | None, nodes: int | None, *, ray: bool) -> int:
    """Return the number of parts, or of Ray's nodes.

    Raises:
        UsageError: neither is given, or the one that is not meant, or it is below 1.
    """
    from mistral_eval.jobs.commands import check_count

    if ray and parts is not None:
        raise UsageError(
            "--parts are the tasks of an array, and --ray starts one job. Give --nodes instead."
        )
    if parts is not None and nodes is not None:
        raise UsageError("--parts and --nodes are the same without --ray. Leave out one of them.")
    found = parts if parts is not None else nodes
    if found is None:
        raise UsageError(
            "Expected the number of tasks that the work is divided into, found none. Give --parts, "
            "or --ray with --nodes."
        )
    check_count("--nodes" if parts is None else "--parts", found)
    return found


def _checked(options: Mapping[str, Any], chosen: Mapping[str, str]) -> list["RunSettings"]:
    """Return the settings of each model's run, checked as `run` does, where the job is written.

    Raises:
        UsageError: `run` would refuse them.
    """
    from mistral_eval.settings import DEFAULT_MODEL

    models = [(model, options["revision"]) for model in options["model"] or [DEFAULT_MODEL]]
    others = {**dict.fromkeys(LEFT_OUT), "fresh": False, "no_compute": False}
    return settings_of_each({**others, **options, **chosen}, models)


def _given(ctx: typer.Context, without: Sequence[str] = ()) -> list[str]:
    """Return the options of `run` that were given, by their long names."""
    words = []
    for parameter in ctx.command.params:
        name = str(parameter.name)
        if name not in OF_RUN or name in ("config", *without) or not _is_given(ctx, name):
            continue
        value = ctx.params[name]
        long = next(one for one in parameter.opts if one.startswith("--"))
        if isinstance(value, bool):
            words.append(long if value else parameter.secondary_opts[0])
        else:
            values = value if isinstance(value, list | tuple) else [value]
            words += [f"{long}={one}" for one in values]
    return words


def _write(text: str, output: Path | None, program: str) -> None:
    """Print a job, or write it to a file and say how it is submitted."""
    import shlex

    put(text, output)
    if output is not None:
        sys.stderr.write(f"Submit it with: {program} {shlex.quote(str(output))}\n")
