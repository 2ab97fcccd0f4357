"""A Slurm of one node in a folder: its own munge key, sockets, ports and spool, without systemd.

Needs Debian's packages slurmctld, slurmd, slurm-client and munge, and root, as which the daemons
and the jobs run. What runs is ended by its process number when the context ends.
"""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
START_SECONDS = 60
# How long a requeued job waits before it begins again is the lifetime of a credential, by default
# 120 seconds (slurm.conf(5), AuthInfo, cred_expire).
REQUEUE_SECONDS = 5
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={daemon_port}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire={requeue_seconds}
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=2
KillWait=5
ReturnToService=2
MpiDefault=none
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Return why there can be no Slurm here; empty if there can."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    lacking = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if lacking:
        return f"needs Slurm: apt-get install slurmctld slurmd slurm-client munge ({lacking[0]})"
    return "" if os.geteuid() == 0 else "Slurm's daemons need root here"


@dataclass(frozen=True, slots=True)
class Slurm:
    """A running Slurm."""

    folder: Path
    environment: Mapping[str, str]

    def call(self, *command: str, cwd: Path | None = None) -> str:
        """Run one of Slurm's programs and return what it prints."""
        done = subprocess.run(
            command,
            check=False,
            env=self.environment,
            capture_output=True,
            text=True,
            cwd=cwd,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def job(self, number: str) -> dict[str, str]:
        """Return what Slurm knows of a job, e.g. `7` or `7_2`; empty if it knows none."""
        said = self.call("scontrol", "--oneliner", "show", "job", number)
        return dict(re.findall(r"(\S+?)=(\S*)", said))

    def wait(self, number: str, states: tuple[str, ...], seconds: float) -> dict[str, str]:
        """Wait until a job is in one of these states; return what Slurm knows of it."""
        end = time.monotonic() + seconds
        while (job := self.job(number))["JobState"] not in states:
            assert time.monotonic() < end, f"job {number} is {job}"
            time.sleep(0.5)
        return job


@contextmanager
def slurm(folder: Path, cores: int = 4) -> Iterator[Slurm]:
    """Start a Slurm of one node with so many cores, real or not; end it with the context.

    It has as many GPUs, which are empty files.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    for number in range(cores):
        (folder / f"gpu{number}").touch()
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-{cores - 1}]\n")
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    host = socket.gethostname().partition(".")[0]
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(
            folder=folder,
            host=host,
            cores=cores,
            gpus=cores,
            controller_port=free_port(),
            daemon_port=free_port(),
            requeue_seconds=REQUEUE_SECONDS,
        )
    )
    path = os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/sbin"))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    environment = {**kept, "PATH": path, "SLURM_CONF": str(configuration)}
    munged = (
        *("munged", "--foreground", "--force", f"--key-file={key}"),
        *(f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid"),
        *(f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed"),
    )
    found = Slurm(folder, environment)
    with ExitStack() as daemons:
        for command in (munged, ("slurmctld", "-D"), ("slurmd", "-D", "-N", host)):
            daemons.enter_context(_daemon(command, environment))
            if command is munged:
                _until((folder / "munge.socket").exists, "munged")
        _until(lambda: _is_idle(found), "slurmctld and slurmd")
        daemons.callback(_cancel_all, found)
        yield found


def free_port() -> int:
    """Return a port of the loopback interface that nothing uses now."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


@contextmanager
def _daemon(command: tuple[str, ...], environment: Mapping[str, str]) -> Iterator[None]:
    """Run a daemon in the foreground; end it with the context."""
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_idle(found: Slurm) -> bool:
    done = subprocess.run(
        ["sinfo", "--noheader", "--format=%T"],
        check=False, env=found.environment, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout.strip() == "idle"


def _cancel_all(found: Slurm) -> None:
    """Cancel what is left, so that no job outlives the daemons."""
    found.call("scancel", "--full", "--user=root")
    _until(lambda: not found.call("squeue", "--noheader"), "the jobs' end")


def _until(is_there, what: str) -> None:
    end = time.monotonic() + START_SECONDS
    while not is_there():
        assert time.monotonic() < end, f"waited for {what}"
        time.sleep(0.2)
