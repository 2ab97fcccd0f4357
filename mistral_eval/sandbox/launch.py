"""How a zygote is started: under bubblewrap, in our own namespaces, in a container, unguarded."""

import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from . import container_cli
from .containers import Container
from .interpreter import Interpreter
from .outcomes import Limits

_GUEST = Path(__file__).parent / "guest"
_INSIDE = "/mistral_eval"  # where the sandbox holds the folder above
# Hash seeds are fixed so that a program whose answer hangs on a set's order always gets the
# same verdict.
_HASH_SEED = "0"


_MODULES = {"program": "zygote", "judge": "judge"}  # of the guest, by role


@dataclass(frozen=True, slots=True)
class Setup:
    """How sandboxed processes are started in one run.

    `kind` is 'bubblewrap', 'namespaces', 'docker', 'podman' or 'none'. `without` names layers
    (seccomp, landlock) to leave out: the tests show that the others hold alone.
    """

    kind: str
    interpreter: Interpreter
    limits: Limits
    without: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Start:
    """One command that starts a zygote, with its whole environment; `container` if it is in one."""

    command: tuple[str, ...]
    environment: dict[str, str]
    container: Container | None = None


def start_command(setup: Setup, role: str, control: int) -> Start:
    """The command for a sandboxed process.

    Args:
        setup: The run's way of starting.
        role: 'program' for a zygote, or 'judge'.
        control: The number of the inherited socket to the harness; in a container nothing is
            inherited, so `Container.hand_over` must follow.

    Raises:
        SandboxError: A container's engine does not work here.
    """
    kind, interpreter = setup.kind, setup.interpreter
    folder = str(_GUEST.parent) if kind == "none" else _INSIDE
    contained = kind in container_cli.KINDS
    settings = {
        "control": container_cli.CONTROL if contained else control,
        "world": {"none": "host"}.get(kind, "container" if contained else "namespaces"),
        # A container shows more than we put there: /proc, /sys, /dev, /etc.
        "readable": list(interpreter.files) if contained else ["/"],
        "limits": asdict(setup.limits),
        "without": setup.without,
        "path": folder,
    }
    python = _python(interpreter, _MODULES[role], folder, settings)
    environment = {
        "PYTHONHASHSEED": _HASH_SEED,
        "LD_LIBRARY_PATH": interpreter.library_path,
    }
    if kind == "none":
        return Start(python, environment)
    files = {**interpreter.files, f"{_INSIDE}/guest": str(_GUEST.resolve())}
    if contained:
        wall = container_cli.Wall(interpreter, files, environment, setup.limits)
        container = Container(kind, wall)
        # The engine's own command is this user's, and wants the whole environment.
        return Start((*container.command, *python), dict(os.environ), container)
    if kind == "bubblewrap":
        return Start((*_bubblewrap(files, interpreter, environment), *python), environment)
    plan = {
        "binds": [[host, inside] for inside, host in files.items()],
        "hidden": interpreter.hidden,
        "command": python,
        "environment": environment,
        "descriptors": [control],
    }
    return Start(_python(interpreter, "enter", str(_GUEST.parent), plan), environment)


def find_bubblewrap() -> str | None:
    """The path of bwrap, if it is installed."""
    return shutil.which("bwrap")


def _python(
    interpreter: Interpreter, module: str, folder: str, argument: object
) -> tuple[str, ...]:
    """Runs one of the guest's modules; not with -I, which would ignore the hash seed."""
    code = f"import sys; sys.path.append({folder!r}); from guest.{module} import main; main()"
    flags = ("-S", "-s", "-P", "-B")
    return (interpreter.executable, *flags, "-c", code, json.dumps(argument))


def _bubblewrap(
    files: dict[str, str], interpreter: Interpreter, environment: dict[str, str]
) -> list[str]:
    command = [find_bubblewrap() or "bwrap", "--unshare-user", "--unshare-pid", "--unshare-net"]
    command += ["--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--new-session"]
    command += ["--die-with-parent", "--hostname", "sandbox", "--clearenv"]
    # The zygote alone keeps this one, in its own user namespace, to give each program a fresh
    # scratch folder and process namespace; the programs' processes drop it.
    command += ["--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN"]
    for name, value in environment.items():
        command += ["--setenv", name, value]
    for inside, host in files.items():
        command += ["--ro-bind", host, inside]
    for folder in interpreter.hidden:
        command += ["--tmpfs", folder, "--remount-ro", folder]
    return [*command, "--dir", "/tmp", "--remount-ro", "/", "--chdir", "/", "--"]  # noqa: S108


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
