"""The process that compares answers: reads a pair a line, answers a word a line, and may be killed.

Started by `maths_pool`, which calls `main` in a fresh interpreter; it imports neither torch nor
lm-eval. The kernel ends it at its limits, whatever the comparison is doing.
"""

import importlib
import json
import os
import resource
import signal
import sys
from typing import IO

from mistral_eval.answers.latex.boxed import equal

READY = "ready"
OUT_OF_MEMORY = 3  # exit status
NEEDED = ("mpmath", "sympy", "sympy.core.evalf")


def main(seconds: float, memory_bytes: int) -> int:
    """Serve comparisons until the input ends; return the exit status.

    Args:
        seconds: Processor time of one comparison, after which SIGPROF ends the process: a slow or
            busy machine gets the same verdicts.
        memory_bytes: Address space of the process.
    """
    with os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1) as answers:
        os.dup2(2, 1)  # nothing else may write where the answers go
        for module in NEEDED:
            try:
                importlib.import_module(module)
            except ImportError as error:
                answers.write(f"missing {module}: {' '.join(str(error).split())}\n")
                return 1
        equal("x^2+\\frac{1}{2}", "\\frac{1}{2}+x\\cdot x")  # sympy's lazy parts
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        answers.write(READY + "\n")
        try:
            _serve(answers, seconds)
        except MemoryError:
            return OUT_OF_MEMORY
        return 0


def _serve(answers: IO[str], seconds: float) -> None:
    for line in sys.stdin:
        a, b = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        answer = equal(a, b)
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(answer + "\n")
