"""The worker process that compares answers: it reads one pair and writes one result per line.

`math_checker` calls `main` in a fresh interpreter, without torch or lm-eval. The kernel kills the
process at its limits, whatever the comparison is doing.
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
    """Compare pairs until the input ends; return the exit status.

    Args:
        seconds: CPU time of one comparison, after which SIGPROF ends the process. A slow or busy
            machine gets the same verdicts.
        memory_bytes: Address space of the process.
    """
    with os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1) as results:
        os.dup2(2, 1)  # nothing else may write to the results' pipe
        for module in NEEDED:
            try:
                importlib.import_module(module)
            except ImportError as error:
                results.write(f"missing {module}: {' '.join(str(error).split())}\n")
                return 1
        equal("x^2+\\frac{1}{2}", "\\frac{1}{2}+x\\cdot x")  # loads sympy's lazy parts
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        results.write(READY + "\n")
        try:
            _serve(results, seconds)
        except MemoryError:
            return OUT_OF_MEMORY
        return 0


def _serve(results: IO[str], seconds: float) -> None:
    for line in sys.stdin:
        a, b = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        result = equal(a, b)
        signal.setitimer(signal.ITIMER_PROF, 0)
        results.write(result + "\n")
