"""Score with weights in memory and read a layer at a time: peak memory, time, largest difference.

    python speed/stream.py [--dim N --layers N ...] [--questions 20] [--dtype bfloat16]
                           [--rounds 2] [--only streamed] [--folder DIR] [--json FILE]

Writes a model of the given shape (default: Mistral 7B) with random weights to a folder, in shards,
and scores questions of one subject of MMLU with it, each run in a process of its own. All layers
have the same values: what a layer costs does not depend on them. The folder is a new one that is
deleted at the end, unless --folder names one, which is kept and used again. Before each run the
page cache drops the files, so both ways read them from the disk.

Peak memory is the largest RssAnon + RssShmem of /proc/self/status, sampled every 10 ms: the
process's memory without pages of files. VmHWM, the kernel's own peak, includes those. Time and CPU
seconds are those of opening the model and of scoring. Prints a line a run, then the ratios; needs
Linux.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
from machine import machine
from real_requests import DATA, questions_of
from safetensors.torch import save_file

from mistral_eval.engines.native import open_native
from mistral_eval.model.config import ModelConfig
from mistral_eval.model.load.by_layer import layer_of
from mistral_eval.model.load.layout import expected_shapes, hf_name
from mistral_eval.model.load.stored import DTYPES, HF_INDEX
from mistral_eval.model.memory import status_bytes
from mistral_eval.model.tiny import tiny_tokenizer_file

WAYS = ("resident", "streamed")
GB = 1e9


def config_of(options: argparse.Namespace) -> ModelConfig:
    """Return the shape that the options describe."""
    return ModelConfig(
        dim=options.dim,
        n_layers=options.layers,
        head_dim=options.head_dim,
        hidden_dim=options.hidden,
        n_heads=options.heads,
        n_kv_heads=options.kv_heads,
        norm_eps=1e-5,
        vocab_size=32000,
        rope_theta=10000.0,
        context_len=8192,
        sliding_window=(4096,) * options.layers,
    )


def write_model(folder: Path, config: ModelConfig, dtype: torch.dtype) -> None:
    """Write a model in Hugging Face's format, with a shard for each layer and one for the rest."""
    torch.manual_seed(0)
    shapes = expected_shapes(config)
    places: dict[str, str] = {}
    drawn: dict[str, torch.Tensor] = {}  # of the first layer
    for layer in (None, *range(config.n_layers)):
        names = [name for name in shapes if layer_of(name) == layer]
        tensors = {}
        for name in names:
            part = name if layer is None else name.split(".", 2)[2]
            if part not in drawn:
                drawn[part] = draw(shapes[name], dtype)
            tensors[hf_name(name)] = drawn[part]
        file = "rest.safetensors" if layer is None else f"layer-{layer:03d}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, file)
    fields = {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "hidden_size": config.dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.hidden_dim,
        "rms_norm_eps": config.norm_eps,
        "vocab_size": config.vocab_size,
        "rope_theta": config.rope_theta,
        "max_position_embeddings": config.context_len,
        "sliding_window": config.sliding_window[0],
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "dtype": str(dtype).removeprefix("torch."),
    }
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    shutil.copyfile(tiny_tokenizer_file(), folder / "tokenizer.model")
    # the index last: a folder that has one is complete
    index = json.dumps({"metadata": {}, "weight_map": places})
    (folder / HF_INDEX).write_text(index, encoding="utf-8")


def draw(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Return ones for a norm, else normal deviates that keep a unit variance."""
    if len(shape) == 1:
        return torch.ones(shape, dtype=dtype)
    return (torch.randn(shape) * shape[1] ** -0.5).to(dtype)


def own_bytes() -> int:
    """Return this process's memory without pages of files."""
    return status_bytes("RssAnon") + status_bytes("RssShmem")


@contextmanager
def sampled() -> Iterator[list[int]]:
    """Keep the largest `own_bytes` while the block runs as the list's one item."""
    largest, ends = [own_bytes()], threading.Event()

    def sample() -> None:
        while not ends.wait(0.01):
            largest[0] = max(largest[0], own_bytes())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield largest
    finally:
        ends.set()
        thread.join()


def score(way: str, options: argparse.Namespace) -> dict[str, Any]:
    """Open the model, score the questions, and return what it cost."""
    if options.threads:
        torch.set_num_threads(options.threads)
    requests = [r for q in questions_of("mmlu", options.data, options.questions) for r in q]
    before, spent = own_bytes(), process_time()
    with sampled() as largest:
        started = perf_counter()
        engine = open_native(
            str(options.folder),
            dtype=options.dtype,
            device="cpu",
            stream_layers=way == "streamed",
            say=lambda _: None,
        )
        opened = perf_counter() - started
        replies = dict(engine.answer([engine.encode(request) for request in requests]))
        seconds = perf_counter() - started
        spent = process_time() - spent
    stats = engine.runner.stats
    return {
        "way": way,
        "open_seconds": opened,
        "seconds": seconds,
        "cpu_seconds": spent,
        "before_bytes": before,
        "peak_bytes": largest[0],
        "peak_with_files_bytes": status_bytes("VmHWM"),
        "tokens": stats.score_computed,
        "unique": stats.score_unique,
        "logprobs": [replies[n].logprob for n in range(len(requests))],
    }


def in_a_process(way: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run one way in a process of its own, with none of the files in the page cache."""
    for file in folder.glob("*.safetensors"):
        drop_from_cache(file)
    given = ["--folder", folder, "--data", options.data, "--questions", options.questions]
    given += ["--dtype", options.dtype, "--threads", options.threads]
    command = [sys.executable, __file__, "--score", way, *map(str, given)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{way}: the run failed.\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def drop_from_cache(file: Path) -> None:
    """Write a file's pages to the disk and drop them from the page cache."""
    number = os.open(file, os.O_RDONLY)
    try:
        os.fsync(number)
        os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(number)


def compare(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run both ways by turns; print and return what they cost."""
    config, dtype = config_of(options), DTYPES[options.dtype]
    weights = sum(map(prod, expected_shapes(config).values())) * dtype.itemsize
    if not (folder / HF_INDEX).is_file():
        write_model(folder, config, dtype)
    print(f"{machine()}, {options.threads} threads; weights {weights / GB:.2f} GB {options.dtype}")
    ways = [options.only] if options.only else list(WAYS)
    runs = []
    for _ in range(options.rounds):
        for way in ways:
            one = in_a_process(way, folder, options)
            runs.append(one)
            print(
                f"{way:>8}: {one['seconds']:.1f} s ({one['open_seconds']:.1f} to open), "
                f"{one['cpu_seconds']:.1f} CPU s, peak {one['peak_bytes'] / GB:.2f} GB "
                f"({one['before_bytes'] / GB:.2f} before the model; with files "
                f"{one['peak_with_files_bytes'] / GB:.2f}), {one['tokens']} tokens computed, "
                f"{one['unique']} unique",
                flush=True,
            )
        ways.reverse()
    found: dict[str, Any] = {"weights": weights, "runs": runs}
    peaks = [one["peak_bytes"] for one in runs if one["way"] == "streamed"]
    if peaks:
        found["peak_over_weights"] = max(peaks) / weights
        print(f"peak of the streamed run over the weights: {found['peak_over_weights']:.3f}")
    if not options.only:
        found |= ratios(runs)
        print(
            f"streamed over resident: {found['time']:.3f} in time, {found['cpu']:.3f} in CPU "
            f"seconds; largest difference of a log-likelihood {found['difference']:.2e}"
        )
    return found


def ratios(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Return time and CPU seconds of the streamed runs over the others', and how replies differ."""
    resident, streamed = ([one for one in runs if one["way"] == way] for way in WAYS)

    def ratio(name: str) -> float:
        return sum(one[name] for one in streamed) / sum(one[name] for one in resident)

    pairs = zip(resident[0]["logprobs"], streamed[0]["logprobs"], strict=True)
    return {
        "time": ratio("seconds"),
        "cpu": ratio("cpu_seconds"),
        "difference": max(abs(left - right) for left, right in pairs),
    }


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = {"dim": 4096, "layers": 32, "hidden": 14336, "heads": 32, "kv-heads": 8}
    for name, size in {**sizes, "head-dim": 128}.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--dtype", choices=list(DTYPES), default="bfloat16")
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--data", default=DATA)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="0: torch's own choice")
    parser.add_argument("--only", choices=WAYS)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--score", choices=WAYS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run one way, or compare both."""
    options = parse()
    if options.score:
        print(json.dumps(score(options.score, options)))
        return
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        found = compare(folder, options)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
