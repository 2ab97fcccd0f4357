"""Write the task of a SkyPilot managed job: one machine, or several with Ray across them.

Source: SkyPilot 0.14's YAML reference and its code; `sky.Task.from_yaml_config` reads what is
written (tests/jobs/test_sky.py). What it lets pass, and fails after machines were paid for, is
checked here.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mistral_eval import __version__
from mistral_eval.errors import UsageError, nearest
from mistral_eval.jobs.commands import (
    check_count,
    check_name,
    start_ray,
    wait_for_nodes,
    written,
)

MOUNT: Final = "/bucket"  # where the bucket is mounted
OUTPUT: Final = "--output-path="
RUNS: Final = "results"  # the folder for runs in a bucket that is given without one
STRATEGIES: Final = ("EAGER_NEXT_REGION", "FAILOVER")
CLOUDS: Final = (
    *("aws", "azure", "cudo", "do", "fluidstack", "gcp", "hyperbolic", "ibm", "k8s", "kubernetes"),
    *("lambda", "mithril", "nebius", "oci", "paperspace", "primeintellect", "runpod", "scp"),
    *("seeweb", "shadeform", "slurm", "ssh", "vast", "verda", "vsphere", "yotta"),
)
ACCELERATORS: Final = re.compile(r"[A-Za-z0-9][\w.-]*(?::\d+)?")
CORES: Final = re.compile(r"\d+\+?")
BUCKET: Final = re.compile(r"(s3|gs)://([a-z0-9][a-z0-9._-]{1,61}[a-z0-9])(?:/(.+?))?/*")
ENVIRONMENT: Final = "~/mistral-eval-env"
RESTARTS: Final = 3
PORT: Final = "6379"  # SkyPilot's own Ray has 6380
RAY_OPTIONS: Final = (
    '--num-gpus="$SKYPILOT_NUM_GPUS_PER_NODE"',
    "--dashboard-agent-listen-port=52366",  # SkyPilot's own Ray has the usual one
)
COMMENTS: Final[Mapping[str, str]] = {
    "resources": "The machines. After a preemption, or when a machine is lost, SkyPilot starts "
    "others by this strategy and runs the same command, which goes on where it stopped. "
    f"A command that fails, e.g. for lack of memory, is run again at most {RESTARTS} times.",
    "num_nodes": "Machines of this kind. Ray connects them; the command runs on the first.",
    "file_mounts": "The bucket. Runs are in it, and models and data that the command names by "
    f"{MOUNT}/... are read from here.",
    "workdir": "This folder is copied to the machines, and mistral-eval is installed from it.",
    "setup": "Runs once on each new machine.",
    "run": "Runs on each machine.",
}


@dataclass(frozen=True, slots=True)
class SkyTask:
    """What a task is written from.

    Attributes:
        options: The options of `mistral-eval run`, without workers and, if there is a bucket,
            without the folder for runs.
        nodes: Number of machines.
        bucket: Bucket for runs as a URL, with a folder in it or without; None: the options name a
            folder that the machines share.
        name: The job's name.
        infra: Where machines are started, as SkyPilot writes it; None: where it is cheapest.
        accelerators: Accelerators of each machine, e.g. A100:1; None: none.
        cpus: Cores of each machine, e.g. 8 or 8+.
        is_spot: Whether machines may be taken away at any time, for a lower price.
        recovery: SkyPilot's strategy after that.
        extras: Extras of the package that the run needs, beside those of bucket and Ray.
        workdir: Folder to install the package from; None: the package index.
        setup: Further shell commands on each new machine.
    """

    options: Sequence[str]
    nodes: int = 1
    bucket: str | None = None
    name: str = "mistral-eval"
    infra: str | None = None
    accelerators: str | None = None
    cpus: str | None = None
    is_spot: bool = False
    recovery: str = STRATEGIES[0]
    extras: Sequence[str] = ()
    workdir: Path | None = None
    setup: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Check what SkyPilot would find out after it has started machines, or never.

        Raises:
            UsageError: it cannot be.
        """
        check_name("--job-name", self.name)
        check_count("--nodes", self.nodes)
        if self.recovery not in STRATEGIES:
            raise UsageError(
                f"--recovery {self.recovery} is no strategy of SkyPilot, which would find that out "
                f"at the first preemption. {nearest(self.recovery, STRATEGIES)}"
            )
        if self.infra is not None and self.cloud not in CLOUDS:
            raise UsageError(
                f"--infra should begin with a cloud that SkyPilot knows, like aws or k8s/CONTEXT, "
                f"and is {self.infra}. {nearest(self.cloud, CLOUDS)}"
            )
        if self.is_spot and self.cloud == "slurm":
            raise UsageError(
                "--spot is for clouds, and --infra is slurm. Leave out one of the two."
            )
        if self.accelerators is not None and not ACCELERATORS.fullmatch(self.accelerators):
            raise UsageError(
                f"--accelerators should be a name and a number, like A100:1, and is "
                f"{self.accelerators!r}. `sky gpus list` prints the names."
            )
        if self.cpus is not None and not CORES.fullmatch(self.cpus):
            raise UsageError(
                f"--cpus should be a number, or a least number like 8+, and is {self.cpus!r}. Give "
                "it so."
            )
        if self.workdir is not None and not (self.workdir / "pyproject.toml").is_file():
            raise UsageError(
                f"--workdir should be a folder with mistral-eval's pyproject.toml, and "
                f"{self.workdir} is not. Name the checkout, or leave it out to install the release."
            )
        if self.bucket is not None:
            self.places()

    @property
    def cloud(self) -> str:
        """The kind of place where machines are started, e.g. aws; empty if that is left open."""
        return (self.infra or "").partition("/")[0].lower()

    def places(self) -> tuple[str, str]:
        """Return the bucket's URL, and that of the folder for runs in it.

        Raises:
            UsageError: it is no URL of a bucket.
        """
        match = BUCKET.fullmatch(self.bucket or "")
        if match is None:
            raise UsageError(
                "--bucket should be a URL like s3://NAME or gs://NAME/FOLDER, with a name of 3 to "
                "63 small letters, digits, dots, hyphens and underscores, and is "
                f"{self.bucket!r}. Give it so."
            )
        scheme, name, folder = match.groups()
        return f"{scheme}://{name}", f"{scheme}://{name}/{folder or RUNS}"

    @property
    def runs(self) -> str | None:
        """The URL of the folder for runs; None if there is no bucket."""
        return None if self.bucket is None else self.places()[1]


def task_yaml(task: SkyTask) -> str:
    """Return the task as YAML with comments."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes texts of several lines as blocks."""

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    head = (
        f"# Written by mistral-eval {__version__}. Submit with: sky jobs launch THIS_FILE\n"
        "# For a model or data that need a token: sky jobs launch --secret HF_TOKEN THIS_FILE\n"
    )
    parts = [head]
    for key, value in task_config(task).items():
        comment = "".join(f"# {line}\n" for line in _wrapped(COMMENTS.get(key, "")))
        parts.append(comment + yaml.dump({key: value}, Dumper=Dumper, sort_keys=False, width=1000))
    return "\n".join(parts)


def task_config(task: SkyTask) -> dict[str, Any]:
    """Return the task as SkyPilot's mapping."""
    resources: dict[str, Any] = {
        **({} if task.infra is None else {"infra": task.infra}),
        **({} if task.accelerators is None else {"accelerators": task.accelerators}),
        **({} if task.cpus is None else {"cpus": task.cpus}),
        "use_spot": task.is_spot,
        "job_recovery": {"strategy": task.recovery, "max_restarts_on_errors": RESTARTS},
    }
    config: dict[str, Any] = {"name": task.name, "resources": resources}
    if task.nodes > 1:
        config["num_nodes"] = task.nodes
    if task.workdir is not None:
        config["workdir"] = str(task.workdir)
    if task.bucket is not None:
        config["file_mounts"] = {MOUNT: {"source": task.places()[0], "mode": "MOUNT"}}
    config["setup"] = _setup(task)
    config["run"] = _run(task)
    return config


def _setup(task: SkyTask) -> str:
    """Return shell text that installs mistral-eval in an environment of its own."""
    places = [one.removeprefix(OUTPUT) for one in task.options if one.startswith(OUTPUT)]
    scheme = (task.bucket or "".join(places)).partition("://")[0]
    names = [
        *task.extras,
        *(["ray"] if task.nodes > 1 else []),
        *(["s3"] if scheme == "s3" else []),
    ]
    extras = f"[{','.join(names)}]" if names else ""
    package = f"mistral-eval{extras}=={__version__}" if task.workdir is None else f".{extras}"
    lines = [
        "set -e",
        f"[ -d {ENVIRONMENT} ] || uv venv --seed --python 3.12 {ENVIRONMENT}",
        f"source {ENVIRONMENT}/bin/activate",
        f"uv pip install '{package}'{' gcsfs' if scheme == 'gs' else ''}",
        "# isolates programs that the model writes",
        "command -v bwrap || { sudo apt-get update && sudo apt-get install -y bubblewrap; }",
        *task.setup,
    ]
    return "\n".join(lines) + "\n"


def _run(task: SkyTask) -> str:
    """Return shell text that runs the command, on several machines with Ray."""
    options = [*task.options]
    if task.runs is not None:
        options.append(f"{OUTPUT}{task.runs}")
    if task.nodes == 1:
        return f"source {ENVIRONMENT}/bin/activate\n{written(options)}\n"
    return f"""\
source {ENVIRONMENT}/bin/activate
head=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)
port={PORT}
# Ray lets in only what knows this task's token.
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN=$(echo "$SKYPILOT_TASK_ID" | sha256sum | cut -d ' ' -f 1)
if [ "$SKYPILOT_NODE_RANK" != 0 ]; then
    {start_ray("worker", "$head", "$port", RAY_OPTIONS, indent=" " * 4)}
    exit 0  # Ray ends here when it ends on the first machine; the others go on without this one
fi
{start_ray("head", "$head", "$port", RAY_OPTIONS)} &
trap 'kill %1' EXIT

{wait_for_nodes("$SKYPILOT_NUM_NODES", "$head:$port")}

{written(options, '--workers "ray://$head:$port"')}
"""


def _wrapped(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, 96)
