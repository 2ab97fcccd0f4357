"""What 200,000 requests cost in the journal: `python benchmarks/journal.py`.

Replies are those of a run: mostly scores, some texts with their ids. Prints one line a figure, and
last one JSON document.
"""

import json
import tempfile
import time
from pathlib import Path

from mistral_eval.journal import Journal, request_key

REQUESTS = 200_000
CONTEXT = list(range(200))  # token ids of a prompt, which the key holds


def reply(number: int) -> dict[str, object]:
    """A score; every tenth a text of 60 tokens."""
    if number % 10:
        return {"logprob": -number / 7, "is_greedy": False}
    return {"text": "a word " * 60, "ids": list(range(number, number + 60)), "finish": "stop"}


def main() -> None:
    """Key, put, look up, open again."""
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.sqlite"
        start = time.perf_counter()
        keys = [request_key("model", "score", CONTEXT, [n]) for n in range(REQUESTS)]
        seconds["keys"] = time.perf_counter() - start
        replies = [reply(n) for n in range(REQUESTS)]
        start = time.perf_counter()
        with Journal(path) as journal:
            for key, one in zip(keys, replies, strict=True):
                journal.put(key, one)
        seconds["put and close"] = time.perf_counter() - start
        start = time.perf_counter()
        with Journal(path) as journal:
            seconds["open and check"] = time.perf_counter() - start
            start = time.perf_counter()
            found = journal.lookup(keys)
            seconds["look up all"] = time.perf_counter() - start
        if len(found) != REQUESTS:
            raise SystemExit(f"only {len(found)} of {REQUESTS} replies came back")
        megabytes = path.stat().st_size / 1e6
    for name, value in seconds.items():
        print(f"{name:15} {value:7.2f} s")
    print(f"{'size':15} {megabytes:7.1f} MB")
    figures = {"requests": REQUESTS, "megabytes": round(megabytes, 1)}
    print(json.dumps({**figures, "seconds": {k: round(v, 3) for k, v in seconds.items()}}))


if __name__ == "__main__":
    main()
