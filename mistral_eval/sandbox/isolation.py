"""Finds out which isolation this machine offers, by trying it."""

import os
import selectors
from contextlib import closing
from dataclasses import dataclass

from mistral_eval.answers.programs import Program
from mistral_eval.errors import SandboxError

from .backends import Setup, find_bubblewrap
from .interpreter import Interpreter, find_interpreter
from .results import Limits, Status
from .slot import Slot

_TRIAL_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Isolation:
    """What keeps a generated program away from this machine.

    `kind` is 'bubblewrap', 'namespaces' or 'none'; `detail` says it in a sentence; `missing`
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


def probe() -> Isolation:
    """Tries bubblewrap, then plain namespaces, each with a small program judged to the end."""
    reasons = []
    if find_bubblewrap() is None:
        reasons.append("bubblewrap (bwrap) is not installed")
    try:
        interpreter = find_interpreter()
    except SandboxError as error:
        return Isolation("none", str(error), ("namespaces",))
    for kind in ("bubblewrap", "namespaces"):
        if kind == "bubblewrap" and find_bubblewrap() is None:
            continue
        try:
            missing = try_kind(kind, interpreter)
        except SandboxError as error:
            reasons.append(f"{kind}: {error}")
            continue
        if "seccomp" in missing and os.geteuid() == 0:
            missing += ("limit on processes (not kept by the kernel for root)",)
        return Isolation(kind, _sentence(kind, missing), missing)
    return Isolation("none", "; ".join(reasons), ("namespaces",))


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
    means = "bubblewrap" if kind == "bubblewrap" else "Linux namespaces, set up directly"
    besides = [name for name in ("seccomp", "landlock") if name not in missing]
    return f"programs run under {means}" + (f" with {' and '.join(besides)}" if besides else "")
