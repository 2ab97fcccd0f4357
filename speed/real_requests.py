"""Load the real requests that the programs of this folder measure: test sets and instances.

The test sets are in the hub's layout, by default in `shared/data` beside the checkout. Where that
folder is missing, the bundled sample is used.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mistral_eval.data import make_source
from mistral_eval.engines.interface import Request
from mistral_eval.run.questions import Asking, load_benchmarks

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
DATA = str(BESIDE) if BESIDE.is_dir() else "sample"
NEW_TOKENS = 64
# One subject whose few-shot block and questions are about as long as the benchmark's mean.
SUBJECTS = {"mmlu": "anatomy", "bbh": "object_counting", "agieval": "aqua-rat"}


def questions_of(
    name: str,
    data: str,
    count: int | None,
    *,
    subjects: Mapping[str, str] = SUBJECTS,
    new_tokens: int = NEW_TOKENS,
) -> list[list[Request]]:
    """Return the requests of `count` questions.

    Args:
        name: The benchmark.
        data: Folder of the test sets, or `sample`.
        count: Largest number of questions; None for all.
        subjects: The subject to take of a benchmark, if the data has it. Without an entry, all
            subjects are taken in the test set's order.
        new_tokens: Largest number of tokens per generation.
    """
    subject = subjects.get(name)
    limit = None if name in SUBJECTS else count
    (loaded,) = load_benchmarks((name,), Asking(make_source(data), limit, None, unpinned=False))
    wanted = [q for q in loaded.questions if loaded.stratum(q.doc) == subject]
    return [
        [_shortened(request, new_tokens) for request in question.requests]
        for question in (wanted or loaded.questions)[:count]
    ]


def _shortened(request: Request, new_tokens: int) -> Request:
    """Limit a generation to `new_tokens`; leave a score as it is."""
    if request.settings is None:
        return request
    return replace(request, settings=replace(request.settings, max_tokens=new_tokens))
