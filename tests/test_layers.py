"""Who may import whom: the architecture, held by reading every import of the package."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mistral_eval"

# Each part of the package, and the parts it may import. What is not named here may import all.
MAY_IMPORT = {
    "errors": set(),
    "suite": set(),
    "model": {"errors"},
    "engine": {"model", "errors"},
    "bench": {"engine", "errors", "model", "report", "settings"},
    "answers": {"errors"},
    "sandbox": {"answers", "errors"},
    "stats": {"errors", "suite"},
    "progress": {"errors", "stats"},
    "console": {"progress"},
    "baselines": {"errors", "suite", "json_fields"},
    "report": {"baselines", "compare", "errors", "stats", "suite"},
    "compare": {"errors", "stats", "suite"},
    "samples": {"compare", "errors", "records", "report", "runs"},
    "frames": {"baselines", "errors", "records", "report", "runs", "samples", "suite"},
    "records": {"answers", "errors"},
    "journal_pages": set(),
    "journal_file": {"errors", "journal_pages"},
    "journal": {"errors", "journal_file"},
    "other_runs": {"journal_file", "records"},
    "data": {"errors", "locations", "protocol", "suite"},
    "protocol": {"answers", "data", "errors", "sandbox", "suite"},
    "backends": {"answers", "engine", "errors", "model"},
    "adapter": {"backends", "errors", "journal", "other_runs"},
}
HEAVY = {"torch", "transformers", "lm_eval", "datasets"}
NO_TORCH = (
    *("answers", "baselines", "compare", "console", "frames", "page.document", "progress"),
    *("records", "report", "runs", "samples", "sandbox", "stats", "suite"),
)


def imports(file: Path) -> set[str]:
    """Every module a file imports, wherever in the file it does so."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_part_imports_only_what_lies_below_it(file):
    part = part_of(file)
    if part not in MAY_IMPORT:
        return
    ours = {name.split(".")[1] for name in imports(file) if name.startswith("mistral_eval.")}
    assert ours - MAY_IMPORT[part] - {part} == set()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_lm_eval_lives_in_the_harness_the_adapter_and_the_backends_alone(file):
    if part_of(file) in ("harness", "adapter", "backends"):
        return
    assert not any(name.split(".")[0] == "lm_eval" for name in imports(file))


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
        "from mistral_eval.cli import main\n"
        f"sys.argv = ['mistral-eval', *{arguments!r}]\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code\n"
        f"print('heavy:', *sorted({HEAVY | {'pandas', 'sympy', 'numpy'}!r} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "heavy:"


def test_no_file_is_longer_than_300_lines():
    long = {
        str(f.relative_to(PACKAGE)): n
        for f in FILES
        if (n := len(f.read_text().splitlines())) > 300
    }
    assert long == {}
