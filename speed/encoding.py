"""Token ids of MMLU's requests: encoded in parts, and each text from its start.

    python speed/encoding.py --tokenizer FILE [--data DIR] [--limit N] [--tasks NAMES]

FILE is a tokenizer.json or a GGUF file of a byte-level BPE whose texts can be cut. The requests
are encoded twice in one process, once as a run does and once with cuts switched off, which is how
the tokenizer was used before its expressions were read (`model/tokenizers/cuts.py`). Ids must be
equal. Prints CPU seconds of this one process, then the ratio, and last one JSON document. DIR is a
folder in the hub's layout, by default `shared/data` beside the checkout.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from time import process_time

from machine import machine

from mistral_eval.data import make_source
from mistral_eval.engines.interface import EngineIdentity, Request
from mistral_eval.engines.native_encoder import NativeEncoder
from mistral_eval.model.tokenizers.tokenizer import ANY_VOCAB, load_tokenizer
from mistral_eval.model.tokenizers.tokenizer_json import JsonTokenizer
from mistral_eval.run.questions import Asking, load_benchmarks
from mistral_eval.suite.registry import parse_tasks

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
CONTEXT = 1 << 20  # nothing is truncated


def timed(tokenizer: JsonTokenizer, requests: list[Request]) -> tuple[float, list[object]]:
    """Return CPU seconds and what identifies each reply, ids included."""
    encoder = NativeEncoder(tokenizer, CONTEXT, 0, EngineIdentity("encoding"))
    start = process_time()
    parts: list[object] = [encoder.encode(request).parts for request in requests]
    return process_time() - start, parts


def main() -> None:
    """Encode both ways and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--data", default=str(BESIDE))
    parser.add_argument("--tasks", default="mmlu")
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    tokenizer = load_tokenizer(args.tokenizer, expected_vocab=ANY_VOCAB)
    if not isinstance(tokenizer, JsonTokenizer) or tokenizer.front is None:
        raise SystemExit(f"{args.tokenizer} is no byte-level BPE whose texts can be cut.")
    asking = Asking(make_source(args.data), args.limit, None, unpinned=False)
    loaded = load_benchmarks(parse_tasks(args.tasks), asking)
    requests = [request for benchmark in loaded for request in benchmark.requests]
    parted, ids = timed(tokenizer, requests)
    whole, same = timed(replace(tokenizer, front=None), requests)
    if ids != same:
        raise SystemExit("The ids differ.")
    print(f"{len(requests)} requests, CPU seconds: {parted:.2f} in parts, {whole:.2f} whole")
    print(f"ratio {whole / parted:.1f}  ({machine()})")
    print(
        json.dumps(
            {
                "machine": machine(),
                "requests": len(requests),
                "parts": parted,
                "whole": whole,
                "ratio": whole / parted,
            }
        )
    )


if __name__ == "__main__":
    main()
