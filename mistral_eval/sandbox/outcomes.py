"""What a program came to, and the limits it ran under."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a program ended. Only `PASSED` counts; the judge alone can say it."""

    PASSED = "passed"
    FAILED = "failed"  # a check was false
    ERROR = "error"  # an exception, or the program ended by itself
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    KILLED = "killed"  # by a signal, such as a segmentation fault's


@dataclass(frozen=True, slots=True)
class ProgramResult:
    """One program's verdict.

    `detail` holds the exception's type and message and the first failing check, `seconds` the
    wall time from start to end.
    """

    status: Status
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use; its judge gets the same.

    CPU time decides whether a program is too slow, because it does not depend on the machine's
    load. The wall time only ends programs that sleep; it grows with the load.
    """

    cpu_seconds: int = 10
    wall_seconds: float = 30.0
    grace_seconds: float = 20.0  # for the sandbox's own processes to obey, once time is up
    memory_bytes: int = 1 << 30
    file_bytes: int = 8 << 20
    scratch_bytes: int = 16 << 20
    open_files: int = 64
