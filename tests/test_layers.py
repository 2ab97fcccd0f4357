"""Who may import whom: the rooms of the package, held by reading every import."""

import ast
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mistral_eval"

# What every room may use: modules at the top of the package, each with those it may use itself.
SHARED = {
    "errors": set(),
    "lfs": set(),
    "stats": {"errors"},
    "settings": {"errors"},
    "console": {"errors"},
}
# Every room, and the rooms it may import. A test fails on one that is not named, and on a cycle.
ROOMS = {
    "model": set(),
    "native": {"model"},
    "answers": set(),
    "data": set(),
    "sandbox": {"answers"},
    "suite": {"answers", "data", "sandbox"},
    "engines": {"native", "model", "answers"},
    "record": {"answers", "suite"},
    "report": {"record", "suite", "answers", "data"},
    "run": {
        "record",
        "engines",
        "suite",
        "native",
        "answers",
        "data",
        "sandbox",
        "model",
        "report",
    },
    "bench": {"report", "native", "model"},
    "jobs": set(),
    "cli": {"jobs", "run", "report", "bench", "record", "engines", "suite", "data", "sandbox"},
}
TOP = {"__init__", "__main__", *SHARED}
HEAVY = {"torch", "transformers", "lm_eval", "datasets"}
NO_TORCH = (
    *("answers", "record.comparison", "record.sample_files", "console", "stats"),
    *("report.baselines", "report.frames", "report.html.document", "report.table", "sandbox"),
)
LM_EVAL = ("engines", "run/questions.py")


def imports(file: Path) -> set[str]:
    """Every module a file imports, wherever in the file it does so."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
            if node.module == "mistral_eval":
                found |= {f"mistral_eval.{alias.name}" for alias in node.names}
    return found


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(file: Path) -> str:
    return str(file.relative_to(PACKAGE))


def test_every_file_is_in_a_room():
    assert {room_of(file) for file in FILES} == {*ROOMS, *TOP}


def test_rooms_have_no_cycle():
    assert list(TopologicalSorter(ROOMS).static_order())
    assert list(TopologicalSorter(SHARED).static_order())


def test_few_modules_lie_at_the_top():
    assert len(list(PACKAGE.glob("*.py"))) <= 8


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_room_imports_only_what_lies_below_it(file):
    room = room_of(file)
    if room in ("__init__", "__main__"):
        return
    allowed = SHARED[room] if room in SHARED else {*SHARED, *ROOMS[room]}
    ours = {name.split(".")[1] for name in imports(file) if name.startswith("mistral_eval.")}
    assert ours - allowed - {room, "__version__"} == set()


def test_no_two_modules_share_a_name():
    """A command may be called like what it starts; nothing else is called twice."""
    names = Counter(file.name for file in FILES if room_of(file) != "cli")
    assert {name for name, count in names.items() if count > 1} <= {"__init__.py"}


def test_lm_eval_is_imported_by_engines_and_by_one_module_of_run():
    users = {name_of(f) for f in FILES if any(n.split(".")[0] == "lm_eval" for n in imports(f))}
    assert len(users) <= 7
    assert {name for name in users if not name.startswith(LM_EVAL)} == set()


@pytest.mark.parametrize("part", NO_TORCH)
def test_what_reads_results_imports_no_torch(part):
    program = f"import sys, mistral_eval.{part}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["bench", "--help"], ["--version"]]
)
def test_help_imports_nothing_heavy(arguments):
    program = (
        "import sys\n"
        "from mistral_eval.cli.app import main\n"
        f"sys.argv = ['mistral-eval', *{arguments!r}]\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code\n"
        f"print('heavy:', *sorted({HEAVY | {'pandas', 'sympy', 'numpy'}!r} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "heavy:"
