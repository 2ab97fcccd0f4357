"""Find the isolation that works on this machine by trying it, and run programs under it."""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from mistral_eval.answers.completions import Program
from mistral_eval.errors import SandboxError
from mistral_eval.sandbox.containers import RUNTIMES
from mistral_eval.sandbox.interpreter import Interpreter, find_interpreter
from mistral_eval.sandbox.launch import Setup, cores, find_bubblewrap
from mistral_eval.sandbox.outcomes import Limits, ProgramResult, Status
from mistral_eval.sandbox.pool import Pool, run_all

AUTOMATIC = ("bubblewrap", "namespaces")
CHOICES = ("auto", *AUTOMATIC, *RUNTIMES)
_DESCRIPTIONS = {
    "bubblewrap": "bubblewrap",
    "namespaces": "Linux namespaces, set up directly",
    "docker": "docker, in a container for each worker",
    "podman": "podman, in a container for each worker",
}


@dataclass(frozen=True, slots=True)
class Isolation:
    """What separates generated programs from this machine.

    Attributes:
        kind: One of `CHOICES` except 'auto', or 'none'.
        detail: A description in words.
        missing: The layers and limits that cannot be enforced.
    """

    kind: str
    detail: str
    missing: tuple[str, ...] = ()

    @property
    def available(self) -> bool:
        """Whether programs are isolated at all."""
        return self.kind != "none"


def run_programs(
    programs: Sequence[Program],
    *,
    isolation: Isolation,
    unsafe: bool,
    workers: int | None = None,
    limits: Limits | None = None,
) -> Iterator[tuple[int, ProgramResult]]:
    """Run programs and their checks, each in a fresh process with a fresh scratch folder.

    Args:
        programs: The programs.
        isolation: The result of `probe`.
        unsafe: Whether to run them without isolation if there is none.
        workers: Number of programs at a time; None means one per core.
        limits: What each program may use; None means the defaults.

    Yields:
        A program's index and its result, in the order in which they end.

    Raises:
        SandboxError: There is no isolation and `unsafe` is False (raised by the call itself,
            before anything runs), or the sandbox did not start.
    """
    if not isolation.available and not unsafe:
        raise SandboxError(
            f"generated programs cannot be isolated here: {isolation.detail}; install bubblewrap "
            "(apt-get install bubblewrap) and allow unprivileged user namespaces, or run with "
            "--unsafe-code on a machine whose loss you can accept"
        )
    setup = Setup(isolation.kind, find_interpreter(), limits or Limits())
    return run_all(programs, setup, min(workers or cores(), max(1, len(programs))))


def probe(choice: str = "auto") -> Isolation:
    """Find the isolation to use by running a small program to its end under it.

    Args:
        choice: One of `CHOICES`. 'auto' tries bubblewrap, then plain namespaces, and returns
            'none' if neither works.

    Raises:
        SandboxError: Another choice does not work here; the text says what to do.
    """
    if choice == "auto":
        return _find_any()
    try:
        return try_choice(choice)
    except SandboxError as error:
        raise SandboxError(
            f"--sandbox {choice} was asked for, but a small program could not be run under it: "
            f"{error}. Fix that, or use --sandbox auto (mistral-eval doctor shows what works "
            "here)."
        ) from error


def try_choice(kind: str) -> Isolation:
    """Return the isolation of this kind, one of `CHOICES` except 'auto', if it works.

    Raises:
        SandboxError: It does not.
    """
    assert kind in _DESCRIPTIONS, f"one of {', '.join(_DESCRIPTIONS)}, not {kind!r}"
    interpreter = find_interpreter()
    if kind == "bubblewrap" and find_bubblewrap() is None:
        raise SandboxError("bubblewrap (bwrap) is not installed (apt-get install bubblewrap)")
    missing = try_kind(kind, interpreter)
    if "seccomp" in missing and os.geteuid() == 0 and kind in AUTOMATIC:
        missing += ("limit on processes (the kernel does not apply it to root)",)
    layers = [name for name in ("seccomp", "landlock") if name not in missing]
    detail = f"programs run under {_DESCRIPTIONS[kind]}"
    return Isolation(kind, detail + (f" with {' and '.join(layers)}" if layers else ""), missing)


def try_kind(kind: str, interpreter: Interpreter) -> tuple[str, ...]:
    """Run one small program under `kind`; return what could not be enforced.

    Raises:
        SandboxError: It does not work here.
    """
    source, check = "def double(n):\n    return 2 * n\n", "assert double(2) == 4"
    trial = Program("trial", source, checks=(check,), names=("double",))
    with closing(Pool(Setup(kind, interpreter, Limits()), 1)) as pool:
        ((_, result),) = pool.run([trial])
    if result.status is not Status.PASSED:
        raise SandboxError(f"a correct program ended as '{result.status}': {result.detail}")
    return pool.missing


def _find_any() -> Isolation:
    """Return the first of `AUTOMATIC` that works, or 'none'."""
    reasons = []
    for kind in AUTOMATIC:
        try:
            return try_choice(kind)
        except SandboxError as error:
            reasons.append(f"{kind}: {error}")
    return Isolation("none", "; ".join(reasons), ("namespaces",))
