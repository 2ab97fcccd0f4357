"""The example of docs/adding-an-engine.md runs, as somebody who follows the page would run it."""

import re
from pathlib import Path
from types import MappingProxyType, ModuleType

import pytest

from mistral_eval import settings
from mistral_eval.engines import interface as registry
from mistral_eval.record.run_record import read_run

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adding-an-engine.md"


@pytest.fixture
def shortest(monkeypatch) -> ModuleType:
    """The page's module, registered under the name `shortest`."""
    _, _, example = PAGE.read_text(encoding="utf-8").partition("## Example")
    (code,) = re.findall(r"```python\n(.*?)```", example, flags=re.DOTALL)
    module = ModuleType("shortest_engine")
    exec(code, module.__dict__)
    monkeypatch.setitem(__import__("sys").modules, module.__name__, module)
    known = {**registry.ENGINES, "shortest": (module.__name__, "Shortest")}
    monkeypatch.setattr(registry, "ENGINES", MappingProxyType(known))
    monkeypatch.setattr(settings, "ENGINES", (*settings.ENGINES, "shortest"))
    monkeypatch.setattr(settings, "MODEL_FREE", (*settings.MODEL_FREE, "shortest"))
    return module


def test_the_example_runs_benchmarks_and_is_resumed_and_rescored(cli, shortest, tmp_path):
    asked = ("run", "-t", "piqa,nq", "--engine", "shortest", "--data", "sample", "-o", tmp_path)
    code, out, err = cli(*asked)
    assert (code, "PIQA" in out) == (0, True), err
    (folder,) = (path.parent for path in tmp_path.rglob("run.json"))
    first = read_run(folder)
    assert first["engine"] == "shortest"
    assert first["counts"]["computed"] == 3 * 16
    assert cli("rescore", folder)[0] == 0
    assert read_run(folder)["scores"] == first["scores"]


def test_what_it_cannot_do_is_refused_before_anything_is_read(cli, shortest, tmp_path):
    code, _, err = cli("run", "-t", "gsm8k", "--engine", "shortest", "-o", tmp_path / "results")
    assert code == 2
    assert "independent samples that gsm8k needs" in err
    assert not (tmp_path / "results").exists()


def test_every_engine_has_a_class_under_its_name():
    assert {*registry.ENGINES, "auto"} == set(settings.ENGINES)
    for name in ("oracle", "oracle-wrong", "random"):
        assert registry.engine_class(name).__module__ == registry.ENGINES[name][0]
