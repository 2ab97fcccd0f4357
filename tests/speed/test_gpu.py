"""speed/gpu.py on the CPU: the tiny model on the bundled questions, from end to end."""

import json
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import torch

from mistral_eval.bench.shapes import SHAPES

FOLDER = Path(__file__).resolve().parents[2] / "speed"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The program as a user starts it, on one thread and without a GPU."""
    return subprocess.run(
        [sys.executable, FOLDER / "gpu.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        check=False,
    )


@pytest.mark.slow
def test_it_compares_both_engines_on_every_benchmark(tmp_path):
    file = tmp_path / "gpu.json"
    small = ("--questions", 2, "--new-tokens", 4, "--batches", 16, "--data", "sample")
    done = run("--device", "cpu", "--shape", "tiny", *small, "--json", file)
    assert done.returncode == 0, done.stderr
    lines = {line["benchmark"]: line for line in json.loads(file.read_text())["lines"]}
    rows = [row for row in done.stdout.splitlines() if row.startswith("| ")]
    assert len(rows) == 2 + len(lines)
    assert list(lines) == ["mmlu", "hellaswag", "gsm8k"]
    assert [line["requests"] for line in lines.values()] == [8, 8, 16]
    for name in ("mmlu", "hellaswag"):
        # the same weights, or the answers would be nats apart
        assert lines[name]["apart"]["request"] < 1e-3
        assert lines[name]["apart"]["token"] <= lines[name]["apart"]["request"]
        assert lines[name]["exact"]["request"] < 1e-3
    assert lines["gsm8k"]["apart"] is None
    assert 0 < lines["gsm8k"]["decoded"] <= lines["gsm8k"]["decoded_most"] == 2 * 8 * 4
    for line in lines.values():
        assert 0 < line["unique"] < line["fed"]
        assert line["flop"] > 2 * line["unique"] * 4 * 64 * (2 * 64 + 2 * 32 + 3 * 192)
        assert line["sheet_rate"] is None
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_without_a_gpu_it_says_what_it_needs():
    done = run()
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "needs a CUDA device" in done.stderr
    assert "--device cpu" in done.stderr


def test_the_batch_is_halved_when_memory_runs_out(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    from both_engines import open_both
    from real_requests import questions_of

    both = open_both(SHAPES["tiny"], torch.float32, torch.device("cpu"))
    instances = list(chain(*questions_of("hellaswag", "sample", 2)))
    refused = []

    def refuse(_, arguments):
        if len(arguments[0]) > 2:
            refused.append(len(arguments[0]))
            raise torch.OutOfMemoryError("CUDA out of memory.")

    whole, size = both.hf_asked(instances, 8)
    assert size == 8
    with both.hf.model.register_forward_pre_hook(refuse):
        found, size = both.hf_asked(instances, 8)
    assert (size, refused) == (2, [8, 4])
    assert both.apart(instances, found.answers, whole.answers).request < 1e-4
    full = both.hf.model.register_forward_pre_hook(lambda *_: refuse(None, [range(3)]))
    with full, pytest.raises(torch.OutOfMemoryError):
        both.hf_asked(instances, 4)


def test_both_engines_hold_the_same_tensors(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    from both_engines import open_both

    both = open_both(SHAPES["tiny"], torch.bfloat16, torch.device("cpu"))
    ours = both.native.runner.model
    theirs = dict(both.hf.model.named_parameters())
    rows = theirs["lm_head.weight"].detach()  # packed here or not, the head gives them back
    same = ours.logits(torch.eye(rows.shape[1], dtype=rows.dtype))
    assert torch.equal(same, rows[: same.shape[1]].t().float())
    for n, layer in enumerate(ours.layers):
        part = f"model.layers.{n}.mlp.down_proj.weight"
        w2 = layer.experts[0].w2
        assert w2.is_packed or w2.weight.data_ptr() == theirs[part].data_ptr()
    assert {one.dtype for one in theirs.values()} == {torch.bfloat16}
