"""Speed of comparing answers of MATH: gold answers against the golds of other questions, and worse.

    python speed/maths.py SHARED [--comparisons 20000] [--workers 2]

Compares gold answers with golds of other questions; every pair is different and none is cached.
SHARED is the folder with `data/hendrycks_math/`. The last line is one JSON document. The goal is
20,000 comparisons in under five minutes on two cores.
"""

import argparse
import json
import random
import time
from collections import Counter
from pathlib import Path

import pandas as pd

from mistral_eval.answers.latex.boxed import boxed_answer
from mistral_eval.answers.math_checker import MathChecker

HOSTILE = (
    "9^{9^{9^{9}}}",
    "(10^9)!",
    r"\sqrt{2+" * 30 + "2" + "}" * 30,
    "x" * 100_000,
    "{" * 100_000,
    "((x^{5000})^{5000})^{5000}",
    r"\sqrt{" + "7" * 1900 + "}",
    r"\lfloor 10^{5000}\pi\rfloor",
)


def different_pairs(golds: list[str], count: int) -> list[tuple[str, str]]:
    """Return `count` pairs of different answers, not both of them plain integers."""
    draw = random.Random(0)
    pairs: dict[tuple[str, str], None] = {}
    while len(pairs) < count:
        a, b = draw.choice(golds), draw.choice(golds)
        if a != b and not (a.isdecimal() and b.isdecimal()):
            pairs[a, b] = None
    return list(pairs)


def main() -> None:
    """Measure the golds, then the hostile answers."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=True)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--comparisons", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    settings = parser.parse_args()
    files = sorted((settings.shared / "data" / "hendrycks_math").glob("*/test.parquet"))
    golds = [boxed_answer(text) or "" for file in files for text in pd.read_parquet(file).solution]
    pairs = different_pairs(golds, settings.comparisons)

    begin = time.perf_counter()
    with MathChecker(workers=settings.workers) as checker:
        started = time.perf_counter()
        results = checker.equal_many(pairs)
        compared = time.perf_counter()
        hostile = checker.equal_many([(text, "1") for text in HOSTILE])
        end = time.perf_counter()

    counts = {str(kind): count for kind, count in Counter(results).items()}
    print(f"start of {settings.workers} workers: {started - begin:.2f} s")
    print(f"{len(pairs)} comparisons: {compared - started:.1f} s, {counts}")
    print(f"{len(HOSTILE)} hostile answers: {end - compared:.1f} s")
    for text, result in zip(HOSTILE, hostile, strict=True):
        print(f"  {result:9} {text[:50]}")
    summary = {
        "workers": settings.workers,
        "comparisons": len(pairs),
        "start_seconds": round(started - begin, 3),
        "seconds": round(compared - started, 3),
        "per_second": round(len(pairs) / (compared - started)),
        "results": counts,
        "hostile_seconds": round(end - compared, 3),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
