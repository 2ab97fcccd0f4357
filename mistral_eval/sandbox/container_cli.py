"""Podman and docker: which works here and how, and the command line of one container.

Nothing is pulled: the root is an empty folder, in which the host's interpreter is mounted
read-only, as in the other kinds. Inside, the guest confines itself and each program as far as
that needs no privilege, for the container has none. Source: podman-run(1), docker-run(1).
"""

import hashlib
import io
import os
import secrets
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from mistral_eval.errors import SandboxError

from .interpreter import Interpreter, find_interpreter
from .outcomes import Limits

KINDS = ("docker", "podman")
CONTROL = "/control/socket"  # where, inside, the harness hands over the socket

_NOBODY = "65534:65534"
_SCRATCH = "/tmp"  # noqa: S108  the container's own
_OWN_MEMORY = 256 << 20  # bytes for the container's own processes, beside the program's
_PROCESSES = 16
PATIENCE = 60.0  # seconds for one command of the engine
# Both versions of control groups; where nothing can be read nothing is known to be limited.
_LIMITS_INSIDE = """
for name in ("memory.max", "pids.max", "memory/memory.limit_in_bytes", "pids/pids.max"):
    try:
        with open("/sys/fs/cgroup/" + name) as file:
            print(file.read())
    except OSError:
        pass
"""
_HOW_TO_INSTALL = {
    "docker": "install Docker Engine (https://docs.docker.com/engine/install)",
    "podman": "install podman (apt-get install podman)",
}


@dataclass(frozen=True, slots=True)
class Engine:
    """A container engine and the way in which it works on this machine.

    `options` go before its command. A container's memory and processes are limited through the
    kernel's control groups: `asks` says whether that is asked for, `bounded` whether it was done.
    """

    kind: str
    options: tuple[str, ...] = ()
    asks: bool = True
    bounded: bool = False


@dataclass(frozen=True, slots=True)
class Wall:
    """What one container shows of the host, and its limits."""

    interpreter: Interpreter
    files: dict[str, str]
    environment: dict[str, str]
    limits: Limits


@cache  # trying takes half a second for each way, and the answer does not change
def find_engine(kind: str) -> Engine:
    """The engine, in the first way in which a container starts.

    Raises:
        SandboxError: It is not installed, or starts none; the text says what to do.
    """
    if shutil.which(kind) is None:
        raise SandboxError(f"{kind} is not installed; {_HOW_TO_INSTALL[kind]}")
    if kind == "docker":
        try:
            _run(["docker", "version", "--format", "{{.Server.Version}}"])
        except SandboxError as error:
            raise SandboxError(
                f"{error}; start Docker's engine (systemctl start docker) and see that you may use "
                "it (group docker)"
            ) from error
    reasons = []
    for engine in _ways(kind):
        try:
            return replace(engine, bounded=_try_engine(engine))
        except SandboxError as error:
            reasons.append(str(error))
    raise SandboxError("; then ".join(dict.fromkeys(reasons)))


def run_command(engine: Engine, name: str, folder: Path, wall: Wall) -> list[str]:
    """The engine's command line for one container, up to the program that runs in it.

    Args:
        engine: What `find_engine` gave.
        name: The container's name.
        folder: Of the harness, with `root`, `control` and `empty` in it.
        wall: What is inside.
    """
    command = [engine.kind, *engine.options, "run", "--rm", "--name", name]
    command += ["--network", "none", "--ipc", "none", "--read-only", "--hostname", "sandbox"]
    command += ["--cap-drop", "all", "--security-opt", "no-new-privileges"]
    command += ["--security-opt", "label=disable"]  # SELinux would refuse the host's files
    command += ["--user", _user(engine), "--workdir", "/", "--log-driver", "none"]
    # Said even where the container is bounded: podman would set higher ones than it may.
    command += ["--ulimit", "nofile=256:256", "--ulimit", "nproc=256:256", "--ulimit", "core=0:0"]
    if engine.asks:
        memory = str(_memory(wall.limits))
        command += ["--memory", memory, "--memory-swap", memory, "--pids-limit", str(_PROCESSES)]
    else:
        command += ["--cgroups=disabled"]
    scratch = f"rw,nosuid,nodev,noexec,size={wall.limits.scratch_bytes}"
    if engine.kind == "docker":
        scratch += ",mode=0700,uid=65534,gid=65534,nr_inodes=1024"
    else:  # which has no such options, and takes the mode from the root's folder
        command += [
            "--read-only-tmpfs=false",
            "--no-hosts",
            "--systemd=false",
            "--http-proxy=false",
        ]
    command += ["--tmpfs", f"{_SCRATCH}:{scratch}"]
    for key, value in wall.environment.items():
        command += ["--env", f"{key}={value}"]
    mounts = {**wall.files, str(Path(CONTROL).parent): str(folder / "control")}
    mounts |= dict.fromkeys(wall.interpreter.hidden, str(folder / "empty"))
    for inside, host in mounts.items():
        command += ["--mount", _mount(host, inside)]
    if engine.kind == "docker":
        return [*command, "--pull", "never", image_name()]
    return [*command, "--rootfs", str(folder / "root")]


def image_name() -> str:
    """The name under which docker keeps the empty root: the same for the same content."""
    return f"mistral-eval-sandbox:{hashlib.sha256(_empty_root()).hexdigest()[:12]}"


def prepare_root(folder: Path) -> None:
    """Makes what `run_command` refers to, in a new folder."""
    for name in ("root", "control", "empty", "root/tmp"):
        (folder / name).mkdir()
        (folder / name).chmod(0o755)
    (folder / "root/tmp").chmod(0o1777)


def _ways(kind: str) -> list[Engine]:
    """The ways to try, best first."""
    if kind == "docker":
        return [Engine(kind)]
    # crun 1.8 refuses a machine with both versions of control groups; runc does not mind.
    runtimes = [name for name in ("crun", "runc") if shutil.which(name)]
    ways = [Engine(kind), *(Engine(kind, ("--runtime", name)) for name in runtimes)]
    return [*ways, Engine(kind, asks=False)]


def _try_engine(engine: Engine) -> bool:
    """Starts a container that looks at its limits; gives whether they are those asked for.

    Where control groups are not the engine's to use, it may well ignore what is asked for.

    Raises:
        SandboxError: It did not come to its end.
    """
    interpreter = find_interpreter()
    wall = Wall(interpreter, interpreter.files, {}, Limits())
    import_root(engine)
    with tempfile.TemporaryDirectory(prefix="mistral-eval-") as name:
        prepare_root(Path(name))
        command = run_command(engine, f"mistral-eval-{secrets.token_hex(8)}", Path(name), wall)
        said = _run([*command, interpreter.executable, "-I", "-S", "-c", _LIMITS_INSIDE]).split()
    return {str(_memory(wall.limits)), str(_PROCESSES)} <= {word.decode() for word in said}


def _memory(limits: Limits) -> int:
    """Bytes that a container may use: its program's, its scratch folder's and its own."""
    return limits.memory_bytes + limits.scratch_bytes + _OWN_MEMORY


def import_root(engine: Engine) -> None:
    """Gives docker the empty root, once for all runs on this machine; podman takes a folder."""
    if engine.kind != "docker":
        return
    known = subprocess.run(  # noqa: S603  our own command
        [engine.kind, "image", "inspect", image_name()],
        capture_output=True,
        check=False,
        timeout=PATIENCE,
    )
    if known.returncode != 0:
        _run([engine.kind, "import", "-", image_name()], _empty_root())


def _empty_root() -> bytes:
    """A tar archive of the root: one empty folder, and no time of its own."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        entry = tarfile.TarInfo("tmp")
        entry.type, entry.mode = tarfile.DIRTYPE, 0o1777
        archive.addfile(entry)
    return data.getvalue()


def _user(engine: Engine) -> str:
    """Nobody; where podman runs without root, root is the user, in a namespace of theirs."""
    return "0:0" if engine.kind == "podman" and os.geteuid() != 0 else _NOBODY


def _mount(host: str, inside: str) -> str:
    """A read-only bind mount; the engines read it as a line of CSV."""
    fields = ("type=bind", f"source={host}", f"target={inside}", "readonly")
    return ",".join(
        '"' + field.replace('"', '""') + '"' if set(field) & set(',"\n') else field
        for field in fields
    )


def _run(command: list[str], given: bytes = b"") -> bytes:
    """Runs one command of the engine to its end; gives what it wrote.

    Raises:
        SandboxError: It failed; the text holds the last line that it wrote.
    """
    try:
        done = subprocess.run(  # noqa: S603  our own command
            command, input=given, capture_output=True, check=False, timeout=PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SandboxError(f"{command[0]} did not answer: {error}") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise SandboxError(f"{command[0]} failed: {lines[-1]}")
    return done.stdout
