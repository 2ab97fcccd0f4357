"""Build the command of a guest process: bubblewrap, our own namespaces, a container, unguarded."""

import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from mistral_eval.sandbox import containers
from mistral_eval.sandbox.interpreter import Interpreter
from mistral_eval.sandbox.outcomes import Limits

_GUEST = Path(__file__).parent / "guest"
_INSIDE = "/mistral_eval"  # where the sandbox has the parent folder of `guest`
# A program must pass under each of these values of PYTHONHASHSEED, because the order of a set of
# strings depends on it. They are fixed, so that a verdict is always the same. Of a program that is
# right by chance, under 14 of 150 seeds for example, 1 in 100 passes two further seeds.
HASH_SEEDS = ("0", "1", "2")
_MODULES = {"program": "zygote", "checker": "checker"}  # of the guest, by role


@dataclass(frozen=True, slots=True)
class Setup:
    """How the guest processes of one run are started.

    Attributes:
        kind: 'bubblewrap', 'namespaces', 'docker', 'podman' or 'none'.
        interpreter: The Python inside.
        limits: What a program and its checker may use.
        without: Layers (seccomp, landlock) to leave out; the tests show that the others suffice.
    """

    kind: str
    interpreter: Interpreter
    limits: Limits
    without: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Start:
    """A command with its whole environment, and the container in which it runs, if any."""

    command: tuple[str, ...]
    environment: dict[str, str]
    container: containers.Container | None = None


def start_command(setup: Setup, role: str, control: int, hash_seed: str) -> Start:
    """Return the command that starts a guest process.

    Args:
        setup: How this run starts its processes.
        role: 'program' for a zygote, or 'checker'.
        control: Descriptor of the inherited socket to the host. A container inherits nothing, so
            `Container.hand_over` must follow.
        hash_seed: The value of PYTHONHASHSEED.

    Raises:
        SandboxError: The container runtime does not work here.
    """
    kind, interpreter = setup.kind, setup.interpreter
    folder = str(_GUEST.parent) if kind == "none" else _INSIDE
    contained = kind in containers.RUNTIMES
    settings = {
        "control": containers.CONTROL if contained else control,
        "world": {"none": "host"}.get(kind, "container" if contained else "namespaces"),
        # A container also shows /proc, /sys, /dev and /etc, which we did not put there.
        "readable": list(interpreter.files) if contained else ["/"],
        "limits": asdict(setup.limits),
        "without": setup.without,
        "path": folder,
    }
    python = _python(interpreter, _MODULES[role], folder, settings)
    environment = {
        "PYTHONHASHSEED": hash_seed,
        "LD_LIBRARY_PATH": interpreter.shared_libraries,
    }
    if kind == "none":
        return Start(python, environment)
    files = {**interpreter.files, f"{_INSIDE}/guest": str(_GUEST.resolve())}
    if contained:
        contents = containers.Contents(interpreter, files, environment, setup.limits)
        container = containers.Container(kind, contents)
        # The runtime's command itself runs as this user and needs the whole environment.
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
    """Return the path of bwrap, or None if it is not installed."""
    return shutil.which("bwrap")


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _python(
    interpreter: Interpreter, module: str, folder: str, argument: object
) -> tuple[str, ...]:
    """Return the command that runs a guest module; without -I, which ignores the hash seed."""
    code = f"import sys; sys.path.append({folder!r}); from guest.{module} import main; main()"
    flags = ("-S", "-s", "-P", "-B")
    return (interpreter.executable, *flags, "-c", code, json.dumps(argument))


def _bubblewrap(
    files: dict[str, str], interpreter: Interpreter, environment: dict[str, str]
) -> list[str]:
    command = [find_bubblewrap() or "bwrap", "--unshare-user", "--unshare-pid", "--unshare-net"]
    command += ["--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--new-session"]
    command += ["--die-with-parent", "--hostname", "sandbox", "--clearenv"]
    # Only the zygote keeps CAP_SYS_ADMIN, inside its own user namespace: it gives each program a
    # fresh scratch folder and process namespace. The programs' processes drop it.
    command += ["--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN"]
    for name, value in environment.items():
        command += ["--setenv", name, value]
    for inside, host in files.items():
        command += ["--ro-bind", host, inside]
    for folder in interpreter.hidden:
        command += ["--tmpfs", folder, "--remount-ro", folder]
    return [*command, "--dir", "/tmp", "--remount-ro", "/", "--chdir", "/", "--"]  # noqa: S108
