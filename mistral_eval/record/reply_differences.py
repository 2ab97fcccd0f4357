"""How far the replies of two runs to the same requests are apart, read from their samples files.

This tells whether two engines compute the same model: verdicts can be equal while log-likelihoods
are not.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final, TypeAlias

from mistral_eval.record.run_record import read_record
from mistral_eval.record.sample_files import read_rows, sample_files

CLOSE: Final = 3e-4  # nats; what two float32 engines are apart on random weights
_Reply: TypeAlias = str | tuple[float, str]
_COUNTED: Final = ("flags", "greedy", "same_greedy", "sampled", "same_sampled", "unpaired")


@dataclass(frozen=True, slots=True)
class ReplyDifferences:
    """One benchmark's replies in run B against run A.

    Attributes:
        id: The benchmark.
        scores: Number of log-likelihoods.
        median: Median of their absolute differences in nats; None without any.
        largest: The largest of them.
        beyond: Number of those above `CLOSE`.
        flags: Number of log-likelihoods whose greedy flag differs.
        greedy: Number of greedy texts, and `same_greedy` of those that are equal.
        sampled: Number of sampled texts, and `same_sampled` of those that are equal.
        unpaired: Number of replies to other prompts than in B, which are not compared.
    """

    id: str
    scores: int
    median: float | None
    largest: float | None
    beyond: int
    flags: int
    greedy: int
    same_greedy: int
    sampled: int
    same_sampled: int
    unpaired: int


def reply_differences(a: Path, b: Path) -> tuple[ReplyDifferences, ...]:
    """Compare the replies to the questions that two finished runs have in common.

    Raises:
        OutputError: A folder holds no finished run, or one of its files is missing or damaged.
    """
    files_a, files_b = (sample_files(read_record(folder), folder) for folder in (a, b))
    return tuple(
        _of_benchmark(name, file, files_b[name])
        for name, file in files_a.items()
        if name in files_b
    )


def _of_benchmark(name: str, a: Path, b: Path) -> ReplyDifferences:
    others = {
        key: [(hash(str(asked)), reply) for asked, reply in found] for key, found in _replies_of(b)
    }  # prompts are most of a file
    apart: list[float] = []
    counts: Counter[str] = Counter()
    for key, found in _replies_of(a):
        for (asked, mine), (asked_in_b, theirs) in zip(found, others.get(key, ()), strict=False):
            if hash(str(asked)) != asked_in_b:
                counts["unpaired"] += 1
            elif isinstance(mine, tuple) and isinstance(theirs, tuple):
                apart.append(0.0 if mine[0] == theirs[0] else abs(mine[0] - theirs[0]))
                counts["flags"] += mine[1] != theirs[1]
            else:
                kind = "sampled" if asked["arg_1"].get("do_sample") else "greedy"
                counts[kind] += 1
                counts[f"same_{kind}"] += mine == theirs
    return ReplyDifferences(
        id=name,
        scores=len(apart),
        median=median(apart) if apart else None,
        largest=max(apart, default=None),
        beyond=sum(nats > CLOSE for nats in apart),
        **{key: counts[key] for key in _COUNTED},
    )


def _replies_of(file: Path) -> Iterator[tuple[str, list[tuple[Mapping[str, Any], _Reply]]]]:
    """Yield each question's id and its (arguments, reply) pairs."""
    for row in read_rows(file):
        pairs = zip(row["arguments"].values(), row["resps"], strict=True)
        found = [(asked, _read(reply)) for asked, replies in pairs for reply in replies]
        yield str(row["doc_id"]), found


def _read(reply: object) -> _Reply:
    """Return a text, or a log-likelihood and its flag."""
    if isinstance(reply, list):
        return float(reply[0]), str(reply[1])
    return str(reply)
