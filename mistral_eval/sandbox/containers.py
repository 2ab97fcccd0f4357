"""Podman and docker: detect how they work here, and run one sandboxed process in a container.

No image is pulled. The root is an empty folder in which the host's interpreter is mounted
read-only, as in the other kinds of isolation. A container has no privileges; inside it the guest
confines itself and each program as far as none are needed. Source: podman-run(1), docker-run(1).
"""

import hashlib
import io
import os
import secrets
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from mistral_eval.errors import SandboxError
from mistral_eval.sandbox.interpreter import Interpreter, find_interpreter
from mistral_eval.sandbox.outcomes import Limits

RUNTIMES = ("docker", "podman")
CONTROL = "/control/socket"  # inside: where the host hands over the control socket

_NOBODY = "65534:65534"
_SCRATCH = "/tmp"  # noqa: S108  the container's own
_OWN_MEMORY = 256 << 20  # bytes for the container's own processes, beside the program's
_PROCESSES = 16
_COMMAND_SECONDS = 60.0  # limit for one command of the runtime
_START_SECONDS = 120.0
_END_SECONDS = 5.0
# Covers both versions of control groups. If nothing can be read, no limit is known to hold.
_READ_LIMITS = """
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
class ContainerRuntime:
    """A container runtime and the way it works on this machine.

    Attributes:
        kind: One of `RUNTIMES`, which is also the command's name.
        options: Global options, before the runtime's subcommand.
        sets_limits: Whether to request limits on memory and processes through control groups.
        limited: Whether these limits were found to be in force inside a container.
    """

    kind: str
    options: tuple[str, ...] = ()
    sets_limits: bool = True
    limited: bool = False


@dataclass(frozen=True, slots=True)
class Contents:
    """What one container shows of the host, and its limits. `files` maps inside to host paths."""

    interpreter: Interpreter
    files: dict[str, str]
    environment: dict[str, str]
    limits: Limits


class Container:
    """The host's side of one container: its root folder, and the socket its process connects to."""

    def __init__(self, kind: str, contents: Contents) -> None:
        """Prepare everything without starting anything.

        Raises:
            SandboxError: The runtime does not work here.
        """
        self._runtime = find_runtime(kind)
        _import_root(self._runtime)
        self._folder = tempfile.TemporaryDirectory(prefix="mistral-eval-")
        self._name = f"mistral-eval-{secrets.token_hex(8)}"
        folder = Path(self._folder.name)
        _prepare_folder(folder)
        self.command = run_command(self._runtime, self._name, folder, contents)
        self._listener = socket.socket(socket.AF_UNIX)
        self._address = folder / "control" / Path(CONTROL).name
        _bind(self._listener, self._address)
        self._address.chmod(0o777)  # only this user can reach the folder around it
        self._listener.listen(1)
        self._listener.settimeout(0.1)

    @property
    def unenforced(self) -> tuple[str, ...]:
        """The limits that the runtime cannot enforce, in words."""
        return () if self._runtime.limited else ("the container's limits on memory and processes",)

    def hand_over(self, descriptor: int, process: subprocess.Popen[bytes]) -> bool:
        """Send the process inside its end of the control socket, then stop listening for good.

        Returns:
            Whether it connected: not if the runtime exits first, nor after the time limit.
        """
        deadline = time.monotonic() + _START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            try:
                guest, _ = self._listener.accept()
            except TimeoutError:
                continue
            with guest:
                socket.send_fds(guest, [b"\0"], [descriptor])
            self._stop_listening()
            return True
        return False

    def close(self, process: subprocess.Popen[bytes]) -> None:
        """Stop the container. Close its control socket first: the process inside then exits."""
        self._stop_listening()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            command = [self._runtime.kind, *self._runtime.options, "kill", self._name]
            subprocess.run(command, capture_output=True, check=False, timeout=_COMMAND_SECONDS)  # noqa: S603
        process.kill()
        process.wait()
        self._folder.cleanup()

    def _stop_listening(self) -> None:
        self._listener.close()
        self._address.unlink(missing_ok=True)


@cache  # each attempt takes half a second, and the result does not change
def find_runtime(kind: str) -> ContainerRuntime:
    """Return the runtime with the first options under which a container starts.

    Raises:
        SandboxError: It is not installed, or starts no container; the text says what to do.
    """
    if shutil.which(kind) is None:
        raise SandboxError(f"{kind} is not installed; {_HOW_TO_INSTALL[kind]}")
    if kind == "docker":
        try:
            _run(["docker", "version", "--format", "{{.Server.Version}}"])
        except SandboxError as error:
            raise SandboxError(
                f"{error}; start Docker's daemon (systemctl start docker) and check that you may "
                "use it (group docker)"
            ) from error
    reasons = []
    for runtime in _candidates(kind):
        try:
            return replace(runtime, limited=_are_limits_enforced(runtime))
        except SandboxError as error:
            reasons.append(str(error))
    raise SandboxError("; then ".join(dict.fromkeys(reasons)))


def run_command(
    runtime: ContainerRuntime, name: str, folder: Path, contents: Contents
) -> list[str]:
    """Return the runtime's command line for one container, without the program to run in it.

    Args:
        runtime: The result of `find_runtime`.
        name: The container's name.
        folder: A folder of the host with `root`, `control` and `empty` in it.
        contents: What is inside.
    """
    command = [runtime.kind, *runtime.options, "run", "--rm", "--name", name]
    command += ["--network", "none", "--ipc", "none", "--read-only", "--hostname", "sandbox"]
    command += ["--cap-drop", "all", "--security-opt", "no-new-privileges"]
    command += ["--security-opt", "label=disable"]  # SELinux would deny access to the host's files
    command += ["--user", _user(runtime), "--workdir", "/", "--log-driver", "none"]
    # Explicit even where control groups limit the container: podman's defaults may be higher than
    # it is allowed to set.
    command += ["--ulimit", "nofile=256:256", "--ulimit", "nproc=256:256", "--ulimit", "core=0:0"]
    if runtime.sets_limits:
        memory = str(_memory(contents.limits))
        command += ["--memory", memory, "--memory-swap", memory, "--pids-limit", str(_PROCESSES)]
    else:
        command += ["--cgroups=disabled"]
    scratch = f"rw,nosuid,nodev,noexec,size={contents.limits.scratch_bytes}"
    if runtime.kind == "docker":
        scratch += ",mode=0700,uid=65534,gid=65534,nr_inodes=1024"
    else:  # podman has no such options and takes the mode from the root's folder
        command += ["--read-only-tmpfs=false", "--no-hosts", "--systemd=false"]
        command += ["--http-proxy=false"]
    command += ["--tmpfs", f"{_SCRATCH}:{scratch}"]
    for key, value in contents.environment.items():
        command += ["--env", f"{key}={value}"]
    mounts = {**contents.files, str(Path(CONTROL).parent): str(folder / "control")}
    mounts |= dict.fromkeys(contents.interpreter.hidden, str(folder / "empty"))
    for inside, host in mounts.items():
        command += ["--mount", _mount(host, inside)]
    if runtime.kind == "docker":
        return [*command, "--pull", "never", image_name()]
    return [*command, "--rootfs", str(folder / "root")]


def image_name() -> str:
    """Return the name of docker's image of the empty root, derived from its content."""
    return f"mistral-eval-sandbox:{hashlib.sha256(_empty_root()).hexdigest()[:12]}"


def _prepare_folder(folder: Path) -> None:
    """Create what `run_command` refers to in a new folder."""
    for name in ("root", "control", "empty", "root/tmp"):
        (folder / name).mkdir()
        (folder / name).chmod(0o755)
    (folder / "root/tmp").chmod(0o1777)


def _candidates(kind: str) -> list[ContainerRuntime]:
    """Return the configurations to try, best first."""
    if kind == "docker":
        return [ContainerRuntime(kind)]
    # crun 1.8 refuses a machine with both versions of control groups; runc accepts it.
    known = [name for name in ("crun", "runc") if shutil.which(name)]
    chosen = [ContainerRuntime(kind, ("--runtime", name)) for name in known]
    return [ContainerRuntime(kind), *chosen, ContainerRuntime(kind, sets_limits=False)]


def _are_limits_enforced(runtime: ContainerRuntime) -> bool:
    """Start a container that reads its own limits; return whether they are those requested.

    A runtime that may not use control groups can ignore the request silently.

    Raises:
        SandboxError: The container did not run to its end.
    """
    interpreter = find_interpreter()
    contents = Contents(interpreter, interpreter.files, {}, Limits())
    _import_root(runtime)
    with tempfile.TemporaryDirectory(prefix="mistral-eval-") as name:
        _prepare_folder(Path(name))
        unique = f"mistral-eval-{secrets.token_hex(8)}"
        command = run_command(runtime, unique, Path(name), contents)
        output = _run([*command, interpreter.executable, "-I", "-S", "-c", _READ_LIMITS]).split()
    return {str(_memory(contents.limits)), str(_PROCESSES)} <= {word.decode() for word in output}


def _memory(limits: Limits) -> int:
    """Return the container's memory limit in bytes: program, scratch folder and its own share."""
    return limits.memory_bytes + limits.scratch_bytes + _OWN_MEMORY


def _import_root(runtime: ContainerRuntime) -> None:
    """Import the empty root into docker, once per machine; podman takes a folder instead."""
    if runtime.kind != "docker":
        return
    known = subprocess.run(  # noqa: S603  our own command
        [runtime.kind, "image", "inspect", image_name()],
        capture_output=True,
        check=False,
        timeout=_COMMAND_SECONDS,
    )
    if known.returncode != 0:
        _run([runtime.kind, "import", "-", image_name()], _empty_root())


def _empty_root() -> bytes:
    """Return a reproducible tar archive of the root: one empty folder, without a timestamp."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        entry = tarfile.TarInfo("tmp")
        entry.type, entry.mode = tarfile.DIRTYPE, 0o1777
        archive.addfile(entry)
    return data.getvalue()


def _user(runtime: ContainerRuntime) -> str:
    """Return the user inside: nobody, or root if podman runs rootless (this user, mapped)."""
    return "0:0" if runtime.kind == "podman" and os.geteuid() != 0 else _NOBODY


def _mount(host: str, inside: str) -> str:
    """Return the option of a read-only bind mount, which the runtimes parse as a line of CSV."""
    fields = ("type=bind", f"source={host}", f"target={inside}", "readonly")
    return ",".join(
        '"' + field.replace('"', '""') + '"' if set(field) & set(',"\n') else field
        for field in fields
    )


def _run(command: list[str], given: bytes = b"") -> bytes:
    """Run one command of the runtime to its end and return its output.

    Raises:
        SandboxError: It failed; the text holds the last line of its standard error.
    """
    try:
        done = subprocess.run(  # noqa: S603  our own command
            command, input=given, capture_output=True, check=False, timeout=_COMMAND_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SandboxError(f"{command[0]} did not answer: {error}") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no error output"]
        raise SandboxError(f"{command[0]} failed: {lines[-1]}")
    return done.stdout


def _bind(listener: socket.socket, path: Path) -> None:
    """Bind to a path of any length; a socket address itself holds only 107 bytes."""
    folder = os.open(path.parent, os.O_PATH)
    listener.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)
