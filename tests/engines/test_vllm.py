"""The vLLM engine on a real vLLM: scores, greedy replies, draws, and processes that are killed.

`make vllm-test` runs these in an environment of its own; elsewhere they are skipped.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from mistral_eval.bench.shapes import SHAPES
from mistral_eval.data import make_source
from mistral_eval.engines import vllm_port
from mistral_eval.engines.interface import GenerationSettings, Request
from mistral_eval.engines.native import NativeEngine, open_native
from mistral_eval.engines.vllm import VllmEngine
from mistral_eval.engines.vllm_args import DECIDED, NEUTRAL, engine_arguments
from mistral_eval.errors import UsageError
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.export import save_hf
from mistral_eval.model.load.checkpoint import Checkpoint, load_checkpoint
from mistral_eval.model.tiny import TINY_CONFIG, tiny_tokenizer_file
from mistral_eval.native.calibrate import random_weights
from mistral_eval.run.questions import Asking, load_benchmarks
from mistral_eval.settings import RunSettings
from mistral_eval.suite.registry import BY_ID
from tests.pairs import our_logits

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(vllm_port.installed() is None, reason="vLLM is not installed"),
]

SCORED = tuple(name for name, one in BY_ID.items() if one.kind == "score")
GREEDY = ("nq", "triviaqa", "humaneval", "mbpp", "bbh", "quac")
QUESTIONS, NEW = 2, 24  # of each benchmark, and tokens of each reply
# vLLM's log-softmax is in float32: on the trained model it is off by up to 2e-5 nats a token.
NATS, TOKEN_NATS = 3e-4, 3e-5
WINDOW = replace(
    TINY_CONFIG, dim=128, head_dim=32, hidden_dim=256, context_len=4096, sliding_window=(8,) * 4
)
CONFIGS = {"window of 8": WINDOW, "60 million": SHAPES["small"]}


@dataclass(frozen=True)
class Both:
    """vLLM's engine and the native one on the same files."""

    vllm: VllmEngine
    native: NativeEngine

    @property
    def is_trained(self) -> bool:
        """Whether the weights are not random."""
        return self.native.tokenizer.kind != "sentencepiece"

    def nats(self, request: Request) -> float:
        """By how much the score of a request may differ."""
        text = request.context if request.kind == "rolling" else request.continuation
        tokens = len(self.native.tokenizer.encode(text, bos=False))
        return NATS + TOKEN_NATS * tokens * self.is_trained

    def answered(self, requests, known=()) -> tuple[dict, dict]:
        """Both engines' replies."""
        found, expected = (
            dict(engine.answer([engine.encode(one) for one in requests], known))
            for engine in (self.vllm, self.native)
        )
        assert found.keys() == expected.keys() == set(range(len(requests))) - set(known)
        return found, expected


def wide(config: ModelConfig) -> dict[str, torch.Tensor]:
    """Random weights so large that logits differ by whole units."""
    weights = random_weights(config, torch.float32, torch.device("cpu"))
    return {name: tensor * (3.0 if tensor.ndim == 2 else 1.0) for name, tensor in weights.items()}


@pytest.fixture(
    scope="module",
    params=[*CONFIGS, pytest.param("trained", marks=pytest.mark.trained)],
)
def model(request, tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A folder in Hugging Face's format, and what `--model-args` says about its tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    if request.param == "trained":
        file = request.getfixturevalue("trained")
        return save_hf(load_checkpoint(file, dtype="float32"), folder), {"tokenizer": str(file)}
    config = CONFIGS[request.param]
    checkpoint = Checkpoint(config, wide(config), "random")
    return save_hf(checkpoint, folder, tokenizer_file=tiny_tokenizer_file()), {}


def settings(model, **changed) -> RunSettings:
    folder, args = model
    args = {**args, "max_model_len": "4096", "enforce_eager": "true"}
    chosen = {"tasks": ("piqa",), "engine": "vllm", "dtype": "float32", "model_args": args}
    return RunSettings(**{**chosen, "model": str(folder), **changed})


@pytest.fixture(scope="module")
def both(model) -> Iterator[Both]:
    folder, args = model
    native = open_native(str(folder), dtype="float32", device="cpu", model_args=args)
    engine = VllmEngine.open(settings(model), None, lambda _: None)
    yield Both(engine, native)
    engine.port.close()


def questions(*names: str, count: int = QUESTIONS) -> list[Request]:
    asking = Asking(make_source("sample"), count, None, unpinned=False)
    loaded = load_benchmarks(names, asking)
    requests = [one for benchmark in loaded for one in benchmark.requests]
    return [
        one
        if one.settings is None
        else replace(one, settings=replace(one.settings, max_tokens=NEW))
        for one in requests
    ]


def test_it_computes_in_the_dtype_that_is_asked_for(both):
    assert both.vllm.identity.dtype == "float32"
    assert both.vllm.identity.weights == both.native.identity.weights
    assert both.vllm.port._engine.model_config.dtype == torch.float32


def test_scores_of_every_benchmark_are_the_native_engines(both):
    requests = questions(*SCORED)
    found, expected = both.answered(requests)
    for n, request in enumerate(requests):
        assert found[n].logprob == pytest.approx(expected[n].logprob, abs=both.nats(request)), (
            request
        )
        assert found[n].is_greedy == expected[n].is_greedy, request


def test_greedy_replies_are_the_native_engines_or_part_at_a_tie(both):
    requests = questions(*GREEDY)
    found, expected = both.answered(requests)
    for n, request in enumerate(requests):
        check = both.native.compare(both.native.encode(request), found[n], is_other=True)
        assert not check.fault, f"{request} {check.fault}"
        if found[n].ids == expected[n].ids:
            assert found[n] == expected[n]
    assert sum(found[n].ids == expected[n].ids for n in found) >= 0.8 * len(requests)


def test_a_greedy_reply_is_a_greedy_continuation(both):
    """In both ways of asking: the last token among given ids, the others at the prompt's end."""
    greedy = GenerationSettings(max_tokens=4)
    prompts = ("Once upon a time", "Q: What is six times seven?\nA:", "The capital of France is")
    asks = [
        Request("g", n, 0, 0, "generate", one, settings=greedy) for n, one in enumerate(prompts)
    ]
    replies, _ = both.answered(asks)
    scores = [
        Request("s", n, length, 0, "score", prompts[n], both.vllm.tokenizer.decode(ids[:length]))
        for n, ids in ((n, replies[n].ids) for n in replies)
        for length in (1, 2, 4)
    ]
    found, expected = both.answered(scores)
    assert [found[n].is_greedy for n in found] == [expected[n].is_greedy for n in found]


def test_eight_samples_are_eight_draws_that_depend_on_nothing_else(both):
    """Not on their order, nor on what is asked beside them; the prompt is over a step long."""
    asked = questions("gsm8k")
    assert len(asked) == 8 * QUESTIONS
    requests = [replace(one, settings=replace(one.settings, temperature=1.5)) for one in asked]
    found = dict(both.vllm.answer([both.vllm.encode(one) for one in requests]))
    first = {found[n].ids for n in range(8)}
    assert len(first) == 8  # so hot that a trained model does not say the same twice
    turned = [both.vllm.encode(one) for one in requests[::-1]]
    again = dict(both.vllm.answer(turned, known=range(3, 9)))
    assert again.keys() == set(range(len(requests))) - set(range(3, 9))
    last = len(requests) - 1
    assert sum(again[n] == found[last - n] for n in again) >= len(again) - 1  # a tie may part one


def test_whole_texts_are_scored_in_windows(both):
    texts = ("", "One short line.", "indented = [1, 2, 3]  # and é, 漢, 😀\n" * 30)
    asks = [Request("r", n, 0, 0, "rolling", text) for n, text in enumerate(texts)]
    found, expected = both.answered(asks)
    for n in expected:
        wanted = expected[n].logprob
        if both.is_trained and texts[n]:  # vLLM's softmax is in float32, and counts on a long text
            wanted = in_float32(both.native, texts[n])
            assert wanted == pytest.approx(expected[n].logprob, abs=both.nats(asks[n]))
        assert found[n].logprob == pytest.approx(wanted, abs=NATS, rel=1e-6)


def in_float32(native: NativeEngine, text: str) -> float:
    """A text's log-likelihood by native's logits and a log-softmax in float32, in one window."""
    tokenizer, model = native.tokenizer, native.runner.model
    ids = torch.tensor([tokenizer.bos_id, *tokenizer.encode(text, bos=False)])
    assert len(ids) <= native.context_len
    with torch.inference_mode():
        logprobs = our_logits(model, ids)[:-1].log_softmax(dim=-1)
    return float(logprobs.gather(1, ids[1:, None]).double().sum())


def test_what_we_know_of_vllms_arguments_is_true_of_this_version(both):
    types = vllm_port.argument_types()
    assert set(DECIDED) - {"hf_overrides"} <= set(types)
    assert len(NEUTRAL - set(types)) <= 2  # of older versions
    given = {
        "max_model_len": "512",
        "gpu_memory_utilization": "0.5",
        "enforce_eager": "true",
        "tensor_parallel_size": "2",
        "pipeline_parallel_size": "2",
        "quantization": "fp8",
        "kv_cache_dtype": "auto",
        "block_size": "32",
    }
    assert engine_arguments(given, types)["max_model_len"] == 512
    for name in ("max_model_len", "enforce_eager", "tensor_parallel_size", "block_size"):
        with pytest.raises(UsageError, match=f"--model-args {name}=often: expected"):
            engine_arguments({name: "often"}, types)


def processes() -> set[str]:
    """The ids of vLLM's processes that are alive."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if b"VLLM::" in title and state != "Z":
            found.add(folder.name)
    return found


def lines(folder: Path) -> int:
    return sum(len(file.read_text().splitlines()) for file in folder.rglob("replies/*.jsonl"))


@pytest.mark.parametrize("victim", ["main", "worker"])
def test_a_killed_run_leaves_no_process_and_asks_nothing_twice(tmp_path, victim):
    folder = tmp_path / "model"
    save_hf(
        Checkpoint(WINDOW, wide(WINDOW), "random"), folder, tokenizer_file=tiny_tokenizer_file()
    )
    before = processes()
    command = [
        *(sys.executable, "-m", "mistral_eval", "run", "--tasks", "piqa,triviaqa"),
        *("--data", "sample", "--model", str(folder), "--engine", "vllm", "--dtype", "float32"),
        *("--model-args", "enforce_eager=true,max_model_len=2048,max_num_seqs=2"),
        *("--output-path", str(tmp_path / "results"), "--quiet"),
    ]
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    results = tmp_path / "results"
    until(lambda: lines(results) >= 33 or started.poll() is not None, 900)
    assert started.poll() is None, started.communicate()
    mine = processes() - before
    assert len(mine) >= 2
    titles = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in mine}
    worker = next(int(pid) for pid, title in titles.items() if b"Worker" in title)
    os.kill(started.pid if victim == "main" else worker, signal.SIGKILL)
    _, said = started.communicate(timeout=300)
    until(lambda: not processes() & mine, 60)
    if victim == "worker":
        assert started.returncode == 1, said
        assert "vLLM failed (" in said
        assert "Earlier replies are kept" in said
        assert "Traceback" not in said
    kept = lines(results)
    assert kept >= 33
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    (record,) = results.rglob("run.json")
    counts = json.loads(record.read_text())["counts"]
    assert counts["from_log"] == kept
    assert counts["from_log"] + counts["computed"] == lines(results) == 16 * 2 + 16
    assert not processes() - before


def until(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)
