"""Finds out which isolation this machine offers, by trying it."""

import os
import selectors
from contextlib import closing
from dataclasses import dataclass

from mistral_eval.answers.completions import Program
from mistral_eval.errors import SandboxError

from .container_cli import KINDS as CONTAINERS
from .interpreter import Interpreter, find_interpreter
from .launch import Setup, find_bubblewrap
from .outcomes import Limits, Status
from .slot import Slot

AUTOMATIC = ("bubblewrap", "namespaces")
CHOICES = ("auto", *AUTOMATIC, *CONTAINERS)
_TRIAL_SECONDS = 120.0
_MEANS = {
    "bubblewrap": "bubblewrap",
    "namespaces": "Linux namespaces, set up directly",
    "docker": "docker, in a container for each worker",
    "podman": "podman, in a container for each worker",
}


@dataclass(frozen=True, slots=True)
class Isolation:
    """What keeps a generated program away from this machine.

    `kind` is one of `CHOICES` but 'auto', or 'none'; `detail` says it in a sentence; `missing`
    names what could not be enforced.
    """

    kind: str
    detail: str
    missing: tuple[str, ...] = ()

    @property
    def available(self) -> bool:
        """Whether programs are isolated at all."""
        return self.kind != "none"


def advice() -> str:
    """What to do where there is no isolation, as the end of a sentence."""
    return (
        "install bubblewrap (apt-get install bubblewrap) and allow unprivileged user namespaces, "
        "or run with --unsafe-code if the machine is one that may be lost"
    )


def probe(choice: str = "auto") -> Isolation:
    """Finds the isolation to use, by judging a small program to the end under it.

    Args:
        choice: One of `CHOICES`. 'auto' tries bubblewrap, then plain namespaces, and gives 'none'
            where neither works.

    Raises:
        SandboxError: Another choice, and it does not work here; the text says what to do.
    """
    if choice == "auto":
        return _find_any()
    try:
        return try_choice(choice)
    except SandboxError as error:
        raise SandboxError(
            f"--sandbox {choice} was asked for, but a small program could not be run under it: "
            f"{error}. Repair that, or leave the choice to --sandbox auto (mistral-eval doctor "
            "says what works here)."
        ) from error


def _find_any() -> Isolation:
    """The first of `AUTOMATIC` that works."""
    reasons = []
    for kind in AUTOMATIC:
        try:
            return try_choice(kind)
        except SandboxError as error:
            reasons.append(f"{kind}: {error}")
    return Isolation("none", "; ".join(reasons), ("namespaces",))


def try_choice(kind: str) -> Isolation:
    """That kind of `CHOICES`, if it works.

    Raises:
        SandboxError: It does not.
    """
    assert kind in _MEANS, f"one of {', '.join(_MEANS)}, not {kind!r}"
    interpreter = find_interpreter()
    if kind == "bubblewrap" and find_bubblewrap() is None:
        raise SandboxError("bubblewrap (bwrap) is not installed (apt-get install bubblewrap)")
    missing = try_kind(kind, interpreter)
    if "seccomp" in missing and os.geteuid() == 0 and kind in AUTOMATIC:
        missing += ("limit on processes (not kept by the kernel for root)",)
    return Isolation(kind, _sentence(kind, missing), missing)


def try_kind(kind: str, interpreter: Interpreter) -> tuple[str, ...]:
    """Judges one small program under `kind`; gives what that could not enforce.

    Raises:
        SandboxError: It does not work here.
    """
    source, check = "def double(n):\n    return 2 * n\n", "assert double(2) == 4"
    trial = Program("trial", source, checks=(check,), names=("double",))
    with selectors.DefaultSelector() as selector:
        slot = Slot(Setup(kind, interpreter, Limits()), selector)
        with closing(slot):
            missing = slot.wait_until_ready()
            slot.start(0, trial)
            done = None
            while done is None:
                news = selector.select(_TRIAL_SECONDS)
                if not news:
                    raise SandboxError("a small program was not judged in time")
                for key, _ in news:
                    done = done or slot.hear(key.data[1])
    _, result = done
    if result.status is not Status.PASSED:
        raise SandboxError(f"a correct program was judged '{result.status}': {result.detail}")
    return missing


def _sentence(kind: str, missing: tuple[str, ...]) -> str:
    besides = [name for name in ("seccomp", "landlock") if name not in missing]
    return f"programs run under {_MEANS[kind]}" + (
        f" with {' and '.join(besides)}" if besides else ""
    )
