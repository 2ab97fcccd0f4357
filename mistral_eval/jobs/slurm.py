"""Write the batch script of a run for Slurm: an array of parts and their merge, or Ray on nodes.

Source: sbatch(1), and what a real Slurm 22.05 did (tests/jobs/test_slurm.py).
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mistral_eval import __version__
from mistral_eval.errors import UsageError
from mistral_eval.jobs.commands import (
    check_count,
    check_name,
    start_ray,
    wait_for_nodes,
    written,
)

# minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes[:seconds]
TIME: Final = re.compile(r"(?:(\d+)-(\d{1,2})|(\d+))(?::(\d{1,2}))?(?::(\d{1,2}))?")
MEMORY: Final = re.compile(r"\d+[KMGTkmgt]?")
# -A physics, -Aphysics, --account=physics, --account physics, --exclusive: the name, then its value
OPTION: Final = re.compile(r"(-[A-Za-z] ?|--[A-Za-z][\w-]*(?:[= ]|$))(.*)")
STOP_SECONDS: Final = 300  # how long before the time limit a run is told to stop, at most
RESTARTS: Final = 5
# The last task of an array has the array's number as its SLURM_JOB_ID, by which all are requeued.
ARRAY_TASK: Final = "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
PORTS: Final = (20000, 20000)  # Ray's port is the first, and the job's number modulo the second


@dataclass(frozen=True, slots=True)
class SlurmJob:
    """What a batch script is written from.

    Attributes:
        options: The options of `mistral-eval run`, without parts and workers.
        tasks: Number of parts, or of Ray's nodes.
        name: The job's name.
        partition: Slurm's partition; None: the cluster's default.
        merge_partition: The partition of the job that merges parts; None: the same.
        time: The time limit of each task, as Slurm writes it; None: the partition's.
        gpus: GPUs of each task.
        cpus: Cores of each task; None: the cluster's default.
        memory: Memory of each task's node, as Slurm writes it; None: the cluster's default.
        setup: Shell commands before the run, e.g. to activate an environment.
        more: Further options of sbatch, e.g. --account=physics.
    """

    options: Sequence[str]
    tasks: int
    name: str = "mistral-eval"
    partition: str | None = None
    merge_partition: str | None = None
    time: str | None = None
    gpus: int = 0
    cpus: int | None = None
    memory: str | None = None
    setup: Sequence[str] = ()
    more: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            UsageError: Slurm would not take one.
        """
        check_name("--job-name", self.name)
        check_count("--parts or --nodes", self.tasks)
        check_count("--gpus-per-task", self.gpus, least=0)
        check_count("--cpus-per-task", self.cpus)
        for option, partition in (
            ("--partition", self.partition),
            ("--merge-partition", self.merge_partition),
        ):
            for name in (partition or "any").split(","):
                check_name(option, name)
        if self.time is not None:
            seconds(self.time)
        if self.memory is not None and not MEMORY.fullmatch(self.memory):
            raise UsageError(
                f"--mem should be a number with K, M, G or T, like 64G, and is {self.memory!r}. "
                "Give it so."
            )
        for option in self.more:
            if not OPTION.fullmatch(option):
                raise UsageError(
                    f"--sbatch should be an option of sbatch, like --account=physics, and is "
                    f"{option!r}. Give it with its dashes."
                )


def seconds(time: str) -> int:
    """Return the seconds of a time limit as Slurm writes it.

    Raises:
        UsageError: it is not written so, or is no time.
    """
    match = TIME.fullmatch(time)
    if match is not None:
        days, hours, first, second, third = (None if n is None else int(n) for n in match.groups())
        if days is not None:
            found = 86400 * days + 3600 * (hours or 0) + 60 * (second or 0) + (third or 0)
        elif third is not None:
            found = 3600 * (first or 0) + 60 * (second or 0) + third
        else:
            found = 60 * (first or 0) + (second or 0)
        if found > 0:
            return found
    raise UsageError(
        "--time should be a time limit as Slurm writes it, like 90 (minutes), 4:00:00 or 1-12, and "
        f"is {time!r}. Give it so."
    )


def array_script(job: SlurmJob) -> str:
    """Return a script that submits an array of parts and the job that merges them."""
    return f"""\
#!/bin/bash
# Written by mistral-eval {__version__}. Submit both jobs with: bash THIS_FILE
#
# The first job is an array of {job.tasks} tasks. Each answers one part of the run's requests and
# writes its replies into the run's folder, which must lie on storage that all nodes share.
#
# The second job begins when all tasks have ended, even if some have failed. It computes nothing:
# it judges the replies and prints the table, or names the replies that are missing. In that case
# run this file again; it asks only for what is missing.
#
# Paths are relative to the folder in which this file is run.
set -euo pipefail
mkdir -p slurm-logs

array=$(sbatch --parsable <<'END_OF_PART'
#!/bin/bash
{_directives(job, f"--array=1-{job.tasks}", "--ntasks=1", "--output=slurm-logs/%x-%A_%a.log")}

{_setup(job)}\
{_restarting(written(job.options, f'--part "$SLURM_ARRAY_TASK_ID/{job.tasks}"'), ARRAY_TASK)}
END_OF_PART
)
array=${{array%%;*}}  # sbatch adds the cluster's name where there are several
# If Slurm does not accept the merge, the parts do not run either.
trap 'echo "The merge was not accepted; its parts, job $array, are cancelled." >&2
    scancel "$array"' ERR

# With afterok in place of afterany, one task that fails would leave this job pending for ever.
merge=$(sbatch --parsable --dependency="afterany:$array" <<'END_OF_MERGE'
#!/bin/bash
{_merge_directives(job)}

{_setup(job)}\
{written(job.options, "--no-compute")}
END_OF_MERGE
)
echo "Submitted the parts as job $array and their merge as job ${{merge%%;*}}."
echo "Their logs are in slurm-logs/. To see them wait and run: squeue --me"
"""


def ray_script(job: SlurmJob) -> str:
    """Return a script that submits a job which starts Ray on its nodes and runs the command."""
    first, count = PORTS
    # Ray itself would count the cores of the whole node, and srun gives a task one of the job's.
    cpus, step = ('"$SLURM_CPUS_ON_NODE"', "")
    if job.cpus is not None:
        cpus, step = str(job.cpus), f" --cpus-per-task={job.cpus}"
    resources = [f"--num-cpus={cpus}", f"--num-gpus={job.gpus}"]
    head = start_ray("head", "$head", "$port", resources)
    worker = start_ray("worker", "$head", "$port", resources, indent=" " * 8)
    return f"""\
#!/bin/bash
# Written by mistral-eval {__version__}. Submit the job with: bash THIS_FILE
#
# One job on {job.tasks} nodes: Ray starts on each, and the command runs on the first. Only that
# node writes into the run's folder. The model must be readable on all of them.
#
# Paths are relative to the folder in which this file is run.
set -euo pipefail
mkdir -p slurm-logs

job=$(sbatch --parsable <<'END_OF_JOB'
#!/bin/bash
{_directives(job, f"--nodes={job.tasks}", "--ntasks-per-node=1", "--output=slurm-logs/%x-%j.log")}
# Keep the job when a node fails: its requests go to the others.
#SBATCH --no-kill

{_setup(job)}\
# Ray lets in only what knows this job's token, since other users can reach its nodes.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(head -c 64 /dev/urandom | sha256sum | cut -d ' ' -f 1)
export head=$(hostname -I | cut -d ' ' -f 1)
export port=$(({first} + SLURM_JOB_ID % {count}))  # two jobs on one node do not meet

# One task of this step on each node; the first one is Ray's head.
srun --kill-on-bad-exit=0 --no-kill{step} --output=slurm-logs/%x-%j-ray-%n.log bash -c '
    if [ "$SLURM_PROCID" = 0 ]; then
        {head}
    else
        {worker}
    fi
' &
ray=$!
trap 'kill "$ray"; wait "$ray"' EXIT

{wait_for_nodes("$SLURM_JOB_NUM_NODES", "$head:$port")}

{_restarting(written(job.options, '--workers "ray://$head:$port"'), "$SLURM_JOB_ID")}
END_OF_JOB
)
echo "Submitted job ${{job%%;*}}."
echo "Its logs are in slurm-logs/. To see it wait and run: squeue --me"
"""


def _directives(job: SlurmJob, *own: str) -> str:
    """Return the lines that tell Slurm what the tasks of a run need."""
    lines = [
        f"--job-name={job.name}",
        *own,
        *([] if job.partition is None else [f"--partition={job.partition}"]),
        *([] if job.time is None else [f"--time={job.time}"]),
        *([] if job.cpus is None else [f"--cpus-per-task={job.cpus}"]),
        *([f"--gpus-per-task={job.gpus}"] if job.gpus else []),
        *([] if job.memory is None else [f"--mem={job.memory}"]),
        *map(_as_given, job.more),
    ]
    limit = STOP_SECONDS if job.time is None else min(STOP_SECONDS, seconds(job.time) // 5)
    return "\n".join(
        [
            *_sbatch(lines),
            "# After a node failure or a preemption, begin again. The log is appended to.",
            *_sbatch(["--requeue", "--open-mode=append"]),
            f"# Tell this script {limit} seconds before the time limit; see below.",
            *_sbatch([f"--signal=B:USR1@{limit}"]),
        ]
    )


def _merge_directives(job: SlurmJob) -> str:
    """Return the lines that tell Slurm what the merge needs: no GPU."""
    partition = job.merge_partition or job.partition
    lines = [
        f"--job-name={job.name}-merge",
        "--output=slurm-logs/%x-%j.log",
        *([] if partition is None else [f"--partition={partition}"]),
        *([] if job.time is None else [f"--time={job.time}"]),
        *([] if job.cpus is None else [f"--cpus-per-task={job.cpus}"]),
        *([] if job.memory is None else [f"--mem={job.memory}"]),
        *map(_as_given, job.more),
        "--requeue",
        "--open-mode=append",
    ]
    return "\n".join(_sbatch(lines))


def _sbatch(options: Sequence[str]) -> list[str]:
    return [f"#SBATCH {option}" for option in options]


def _as_given(option: str) -> str:
    """Return an option of sbatch for its line in a script, which sbatch splits as a shell does."""
    match = OPTION.fullmatch(option)
    assert match is not None, option
    name, value = match.groups()
    return f"{name}{shlex.quote(value)}" if value else name


def _setup(job: SlurmJob) -> str:
    return "".join(f"{line}\n" for line in (*job.setup, *([""] if job.setup else [])))


def _restarting(command: str, job: str) -> str:
    """Return shell text that runs a command, and requeues the job if that is worth it.

    Args:
        command: Shell text.
        job: The job's number, as shell text.
    """
    return f"""\
# Each reply is logged when it is computed, so another attempt goes on where this one stopped.
# A run that is killed (by a lack of memory, for example) or out of time goes back into the queue,
# at most {RESTARTS} times. One that ends with an error does not: the error would come again.
again=
trap 'again=1; kill -TERM "$run"' USR1
{command} &
run=$!
wait "$run"
code=$?
if [ -n "$again" ]; then  # the signal ended the first wait; the run saves its replies and ends
    wait "$run"
    code=$?
fi
[ "$code" != 137 ] || again=1  # 128 and SIGKILL
if [ -n "$again" ] && [ "$code" != 0 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {RESTARTS} ]; then
    scontrol requeue "{job}"
fi
exit "$code"\
"""
