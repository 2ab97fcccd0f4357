"""Fixtures of the sandbox's tests: the isolation that works here, and a way to run programs."""

import fcntl
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from mistral_eval.answers.completions import Program
from mistral_eval.errors import SandboxError
from mistral_eval.sandbox import Isolation, Limits, ProgramResult, probe, run_programs
from mistral_eval.sandbox.interpreter import Interpreter, find_interpreter
from mistral_eval.sandbox.isolation import try_kind

RunUnder = Callable[..., list[ProgramResult]]


@pytest.fixture(scope="session")
def interpreter() -> Interpreter:
    """The Python that runs programs."""
    return find_interpreter()


@pytest.fixture(scope="session", params=["bubblewrap", "namespaces", "podman"])
def isolation(request, interpreter) -> Isolation:
    """Each kind of isolation in turn; skips where this machine lacks it.

    With MISTRAL_EVAL_REQUIRE_SANDBOX=1 a machine that lacks one of the two kinds which need
    nothing but the kernel and bubblewrap fails instead.
    """
    try:
        return Isolation(request.param, "", try_kind(request.param, interpreter))
    except SandboxError as error:
        required = os.environ.get("MISTRAL_EVAL_REQUIRE_SANDBOX") == "1"
        if required and request.param != "podman":
            pytest.fail(f"{request.param} is required here: {error}")
        pytest.skip(f"no {request.param} here: {error}")


@pytest.fixture(scope="session")
def best_isolation() -> Isolation:
    """What `probe` finds; skips (or fails, as above) where that is nothing."""
    found = probe()
    if not found.available:
        if os.environ.get("MISTRAL_EVAL_REQUIRE_SANDBOX") == "1":
            pytest.fail(f"a sandbox is required here: {found.detail}")
        pytest.skip(f"no sandbox here: {found.detail}")
    return found


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[], object]], Any]:
    """Computes something once for all of pytest-xdist's processes: (name, how) to plain JSON.

    Marks of xdist_group would do, but pytest-xdist 3.8 does not heed them under pytest 9.2.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # the session's own, which all its processes share

    def get(name: str, compute: Callable[[], object]) -> Any:
        file = folder / f"{name}.json"
        with (folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not file.exists():
                file.write_text(json.dumps(compute()))
        return json.loads(file.read_text())

    return get


@pytest.fixture(scope="session")
def run_under() -> RunUnder:
    """Run programs and return their results in order."""

    def run(
        programs: Sequence[Program],
        isolation: Isolation,
        limits: Limits | None = None,
        workers: int | None = None,
    ) -> list[ProgramResult]:
        results = run_programs(
            programs, isolation=isolation, unsafe=False, limits=limits, workers=workers
        )
        return [result for _, result in sorted(results, key=lambda pair: pair[0])]

    return run


@pytest.fixture(scope="session")
def living() -> Callable[[int], list[str]]:
    """The processes of the sandbox with a given scratch size that do not end.

    The size stands on the command line of all of them.
    """

    def find(size: int) -> list[str]:
        deadline = time.monotonic() + 60
        while True:
            found = []
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = path.read_bytes()
                except OSError:
                    continue
                if f'"scratch_bytes": {size}'.encode() in line:
                    found.append(line.decode(errors="replace"))
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(0.1)

    return find
