"""Every program in speed/ still finds what it imports from the package."""

import ast
import importlib
from pathlib import Path

import pytest

PROGRAMS = sorted(Path(__file__).resolve().parents[2].glob("speed/*.py"))


@pytest.mark.parametrize("file", PROGRAMS, ids=lambda file: file.stem)
def test_every_name_that_a_program_imports_is_there(file):
    """Read, not run: some measure as soon as they are started."""
    imports = [
        node
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("mistral_eval")
    ]
    for node in imports:
        module = importlib.import_module(str(node.module))
        for alias in node.names:
            if not hasattr(module, alias.name):
                importlib.import_module(f"{node.module}.{alias.name}")
