"""Podman and docker: a container as the outer wall of one sandboxed process.

Nothing is pulled: the root is an empty folder, in which the host's interpreter is mounted
read-only, as in the other kinds. Inside, the guest confines itself and each program as far as
that needs no privilege, for the container has none. Source: podman-run(1), docker-run(1).
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
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mistral_eval.errors import SandboxError

from .interpreter import Interpreter, find_interpreter
from .results import Limits

KINDS = ("docker", "podman")
CONTROL = "/control/socket"  # where, inside, the harness hands over the socket

_NOBODY = "65534:65534"
_SCRATCH = "/tmp"  # noqa: S108  the container's own
_OWN_MEMORY = 256 << 20  # bytes for the container's own processes, beside the program's
_PROCESSES = 16
_PATIENCE = 60.0  # seconds for one command of the engine
_START_SECONDS = 120.0
_END_SECONDS = 5.0
_HOW_TO_INSTALL = {
    "docker": "install Docker Engine (https://docs.docker.com/engine/install)",
    "podman": "install podman (apt-get install podman)",
}


@dataclass(frozen=True, slots=True)
class Engine:
    """A container engine and the way in which it works on this machine.

    `options` go before its command; `bounded` says whether it can limit a container's memory and
    processes, for which the kernel's control groups must be its to use.
    """

    kind: str
    options: tuple[str, ...] = ()
    bounded: bool = True


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
        return Engine(kind)
    reasons = []
    for engine in _ways_of_podman():
        try:
            _try_engine(engine)
        except SandboxError as error:
            reasons.append(str(error))
            continue
        return engine
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
    if engine.bounded:
        memory = str(wall.limits.memory_bytes + wall.limits.scratch_bytes + _OWN_MEMORY)
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


class Container:
    """The host's side of one container: its root, and the door where its process is met."""

    def __init__(self, kind: str, wall: Wall) -> None:
        """Prepares everything; nothing runs yet.

        Raises:
            SandboxError: The engine does not work here.
        """
        self._engine = find_engine(kind)
        if kind == "docker":
            _import_root(self._engine)
        self._folder = tempfile.TemporaryDirectory(prefix="mistral-eval-")
        self._name = f"mistral-eval-{secrets.token_hex(8)}"
        folder = Path(self._folder.name)
        prepare_root(folder)
        self.command = run_command(self._engine, self._name, folder, wall)
        self._door = socket.socket(socket.AF_UNIX)
        self._door_path = folder / "control" / Path(CONTROL).name
        _bind(self._door, self._door_path)
        self._door_path.chmod(0o777)  # the folder around it is this user's alone
        self._door.listen(1)
        self._door.settimeout(0.1)

    @property
    def unbounded(self) -> tuple[str, ...]:
        """What the engine cannot limit, in words."""
        return () if self._engine.bounded else ("the container's limits on memory and processes",)

    def hand_over(self, descriptor: int, process: subprocess.Popen[bytes]) -> bool:
        """Gives the process inside its end of the control socket, then closes the door for good.

        Returns:
            Whether it came; it does not if the engine ends before, or if time is up.
        """
        deadline = time.monotonic() + _START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            try:
                guest, _ = self._door.accept()
            except TimeoutError:
                continue
            with guest:
                socket.send_fds(guest, [b"\0"], [descriptor])
            self._close_door()
            return True
        return False

    def close(self, process: subprocess.Popen[bytes]) -> None:
        """Ends the container; its control socket must be closed, on which it ends by itself."""
        self._close_door()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            command = [self._engine.kind, *self._engine.options, "kill", self._name]
            subprocess.run(command, capture_output=True, check=False, timeout=_PATIENCE)  # noqa: S603
        process.kill()
        process.wait()
        self._folder.cleanup()

    def _close_door(self) -> None:
        self._door.close()
        self._door_path.unlink(missing_ok=True)


def prepare_root(folder: Path) -> None:
    """Makes what `run_command` refers to, in a new folder."""
    for name in ("root", "control", "empty", "root/tmp"):
        (folder / name).mkdir()
        (folder / name).chmod(0o755)
    (folder / "root/tmp").chmod(0o1777)


def _ways_of_podman() -> list[Engine]:
    ways = [Engine("podman")]
    # crun 1.8 refuses a machine with both versions of control groups; runc does not mind.
    ways += [
        Engine("podman", ("--runtime", name)) for name in ("crun", "runc") if shutil.which(name)
    ]
    return [*ways, Engine("podman", bounded=False)]


def _try_engine(engine: Engine) -> None:
    """Starts a container that does nothing.

    Raises:
        SandboxError: It did not come to its end.
    """
    interpreter = find_interpreter()
    wall = Wall(interpreter, interpreter.files, {}, Limits())
    with tempfile.TemporaryDirectory(prefix="mistral-eval-") as name:
        prepare_root(Path(name))
        command = run_command(engine, f"mistral-eval-{secrets.token_hex(8)}", Path(name), wall)
        _run([*command, interpreter.executable, "-I", "-S", "-c", "pass"])


def _import_root(engine: Engine) -> None:
    """Gives docker the empty root, once for all runs on this machine."""
    known = subprocess.run(  # noqa: S603  our own command
        [engine.kind, "image", "inspect", image_name()],
        capture_output=True,
        check=False,
        timeout=_PATIENCE,
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


def _bind(door: socket.socket, path: Path) -> None:
    """Binds to a path of any length: a socket's own address has room for 107 bytes."""
    folder = os.open(path.parent, os.O_PATH)
    door.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)


def _mount(host: str, inside: str) -> str:
    """A read-only bind mount; the engines read it as a line of CSV."""
    fields = ("type=bind", f"source={host}", f"target={inside}", "readonly")
    return ",".join(
        '"' + field.replace('"', '""') + '"' if set(field) & set(',"\n') else field
        for field in fields
    )


def _run(command: list[str], given: bytes = b"") -> None:
    """Runs one command of the engine to its end.

    Raises:
        SandboxError: It failed; the text holds the last line that it wrote.
    """
    try:
        done = subprocess.run(  # noqa: S603  our own command
            command, input=given, capture_output=True, check=False, timeout=_PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SandboxError(f"{command[0]} did not answer: {error}") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise SandboxError(f"{command[0]} failed: {lines[-1]}")
