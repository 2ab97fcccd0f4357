"""How a program ended, and the limits under which it ran."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a program ended. Only `PASSED` counts, and only the checker can decide it."""

    PASSED = "passed"
    FAILED = "failed"  # a check was false
    ERROR = "error"  # an exception, or the program exited by itself
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    KILLED = "killed"  # by a signal, for example after a segmentation fault


@dataclass(frozen=True, slots=True)
class ProgramResult:
    """The result of one program.

    Attributes:
        status: How it ended.
        detail: The exception's type and message, and the first failing check.
        seconds: Wall time from start to end, of all its runs.
        cpu_seconds: CPU time of the program in its slowest run.
    """

    status: Status
    detail: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use; its checker gets the same.

    CPU time decides whether a program is too slow, because it does not depend on the machine's
    load. Three seconds are ten times what the slowest reference solution takes, except for the
    problems that set a limit of their own (`Program.cpu_seconds`). The wall time only ends programs
    that sleep; it grows with the load, up to `most_load` times.
    """

    cpu_seconds: int = 3
    wall_seconds: float = 15.0
    most_load: float = 4.0
    rerun_cpu_seconds: float = 1.0  # a program that took more is not run with other hash seeds
    grace_seconds: float = 20.0  # for the sandbox's own processes to react after a timeout
    memory_bytes: int = 1 << 30
    file_bytes: int = 8 << 20
    scratch_bytes: int = 16 << 20
    open_files: int = 64
