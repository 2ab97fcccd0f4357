"""Measure `--engine server` against vLLM's own benchmark client: the same server and prompts.

    python speed/vs_vllm_client.py [--data DIR] [--prompts 96] [--rounds 2] [--json FILE]

Needs an environment with vLLM (see docs/engines.md). The server has a Mistral with 60 million
random weights in float32, one thread and no prefix cache. Both clients send prompts of Natural
Questions, 32 in flight, for 32 greedy tokens, in turn; ours sends token ids and vLLM's text. Wall
time counts, because what a client costs is what the server waits for it, so measure on a quiet
machine. Prints generated tokens per second.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import torch
from machine import machine
from real_requests import DATA, questions_of

from mistral_eval.bench.shapes import SHAPES
from mistral_eval.engines.interface import GenerationSettings, Request
from mistral_eval.engines.server import ServerEngine
from mistral_eval.model.export import save_hf
from mistral_eval.model.load.checkpoint import Checkpoint
from mistral_eval.model.tiny import tiny_tokenizer_file
from mistral_eval.native.calibrate import random_weights
from mistral_eval.settings import RunSettings

IN_FLIGHT = 32
TOKENS = 32
START_SECONDS = 300
GREEDY = GenerationSettings(max_tokens=TOKENS)
BENCH = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve the model of a folder; yield the server's URL.

    Raises:
        SystemExit: it does not start.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        "--model": folder,
        "--dtype": "float32",
        "--max-model-len": 2048,
        "--max-num-batched-tokens": 32768,
        "--port": port,
        "--host": "127.0.0.1",
    }
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += [str(part) for pair in options.items() for part in pair]
    command += ["--no-enable-chunked-prefill", "--no-enable-prefix-caching"]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": "0", **os.environ}
    with (
        (folder / "server.log").open("wb") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log) as server,
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + START_SECONDS
            while not answers(url):
                if server.poll() is not None or time.monotonic() > deadline:
                    tail = (folder / "server.log").read_text(errors="replace")[-2000:]
                    raise SystemExit(f"vLLM's server does not start.\n{tail}")
                time.sleep(1)
            yield url
        finally:
            server.terminate()


def answers(url: str) -> bool:
    """Return whether a server lists its models."""
    try:
        with urlopen(f"{url}/v1/models", timeout=5):
            return True
    except (URLError, OSError):
        return False


def ours(engine: ServerEngine, requests: Sequence[Request]) -> float:
    """Return generated tokens per second of the server engine."""
    began = time.monotonic()
    replies = dict(engine.answer([engine.encode(request) for request in requests]))
    return sum(len(reply.ids or ()) for reply in replies.values()) / (time.monotonic() - began)


def theirs(folder: Path, url: str, requests: Sequence[Request]) -> float:
    """Return generated tokens per second of vLLM's client.

    Raises:
        SystemExit: it fails.
    """
    prompts = folder / "prompts.jsonl"
    lines = [json.dumps({"prompt": request.text}) for request in requests]
    prompts.write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = {
        "--backend": "openai",
        "--base-url": url,
        "--endpoint": "/v1/completions",
        "--model": folder,
        "--dataset-name": "custom",
        "--dataset-path": prompts,
        "--custom-output-len": TOKENS,
        "--num-prompts": len(requests),
        "--max-concurrency": IN_FLIGHT,
        "--temperature": 0,
        "--result-dir": folder,
        "--result-filename": "bench.json",
    }
    command = [sys.executable, "-c", BENCH]
    command += [str(part) for pair in options.items() for part in pair]
    command += ["--skip-chat-template", "--disable-shuffle", "--disable-tqdm", "--save-result"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"vLLM's client failed.\n{(done.stdout + done.stderr)[-2000:]}")
    found = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
    return float(found["total_output_tokens"]) / float(found["duration"])


def main() -> None:
    """Parse the arguments, measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", default=DATA)
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    questions = questions_of("nq", options.data, options.prompts)
    requests = [replace(one, settings=GREEDY) for question in questions for one in question]
    print(machine())
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = random_weights(SHAPES["small"], torch.float32, torch.device("cpu"))
        checkpoint = Checkpoint(SHAPES["small"], weights, "vs_vllm_client")
        save_hf(checkpoint, folder, tokenizer_file=tiny_tokenizer_file())
        with serving(folder) as url:
            settings = RunSettings(
                tasks=("nq",),
                model=str(folder),
                engine="server",
                base_url=f"{url}/v1",
                model_args={"num_concurrent": str(IN_FLIGHT)},
            )
            engine = ServerEngine.open(settings, lambda *_: 0, print)
            for _ in range(options.rounds):
                line = {"ours": ours(engine, requests), "theirs": theirs(folder, url, requests)}
                lines.append(line)
                share = line["ours"] / line["theirs"]
                print(
                    f"{line['ours']:7.1f} {line['theirs']:7.1f} tokens/s  {share:.2f}", flush=True
                )
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "lines": lines}, indent=2))


if __name__ == "__main__":
    main()
