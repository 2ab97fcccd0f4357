"""The questions of several runs, merged, deduplicated and compressed for the report's browser.

lm-eval's samples files repeat the few-shot block for every choice of every question, up to
190 MB. Here each block is stored once, a question once for all runs, in chunks of a few hundred
kilobytes that the page inflates when it needs them.
"""

import base64
import itertools
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mistral_eval.record.comparison import QuestionOutcome
from mistral_eval.record.sample_files import halves_of, is_compared, outcome_of, read_rows
from mistral_eval.report.html.shown_judgments import Judged
from mistral_eval.suite.benchmark import Benchmark
from mistral_eval.suite.conversations import Conversation
from mistral_eval.suite.registry import BY_ID

CHUNK_CHARACTERS: Final = 300_000
LETTERS: Final = {"correct": "c", "wrong": "w", "no_answer": "n", "timeout": "t"}
ABSENT: Final = "-"
DIGITS: Final = 4  # of a log-likelihood: more than bfloat16 resolves


@dataclass(frozen=True, slots=True)
class Bundle:
    """One benchmark's questions, ready to embed; `blocks` (of shots) and `chunks` are packed.

    `index` is what the page loads at once for every question: ids, subjects, verdicts. `outcomes`
    has, per run, question id -> outcome for the comparison, or None if it was not run.
    """

    index: dict[str, Any]
    blocks: str
    chunks: tuple[str, ...]
    outcomes: tuple[dict[str, QuestionOutcome] | None, ...]


@dataclass(slots=True)
class _Question:
    """A question for the page; one answer per run, None if the run did not ask it."""

    id: str
    stratum: str
    shared: list[Any]
    answers: list[Any] = field(default_factory=list)
    letters: list[str] = field(default_factory=list)
    readings: list[str] = field(default_factory=list)


class Blocks:
    """The distinct few-shot blocks before the questions of a benchmark, each kept once.

    A prompt is cut at the last blank line before the question's words, or at the line they begin
    on. A prompt that cannot be cut is shown whole.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._places: dict[str, int] = {}

    def split(self, prompt: str, words: str) -> tuple[int, str]:
        """Return the block's number (-1: no block) and the rest of the prompt.

        `words` are the question's, "" if they are unknown or no shots come before them.
        """
        start = prompt.rfind(words) if words else -1
        if start <= 0:
            return -1, prompt
        blank = prompt.rfind("\n\n", 0, start)
        end = blank + 2 if blank >= 0 else prompt.rfind("\n", 0, start) + 1
        if not end:
            return -1, prompt
        block = prompt[:end]
        place = self._places.setdefault(block, len(self.texts))
        if place == len(self.texts):
            self.texts.append(block)
        return place, prompt[end:]


def bundle(benchmark: str, files: Sequence[Path | None], judged: Sequence[Judged] = ()) -> Bundle:
    """Merge a benchmark's samples of several runs.

    Questions are merged if row, prompt and target are equal; otherwise each variant gets its own
    entry with a suffixed id. `files` are each run's samples file, or None; `judged` is what a judge
    wrote of its answers.

    Raises:
        OutputError: A file is damaged.
    """
    known = BY_ID.get(benchmark)
    blocks = Blocks()
    merged: dict[str, _Question] = {}
    seen: dict[str, int] = {}
    outcomes: list[dict[str, QuestionOutcome] | None] = []
    for run, file in enumerate(files):
        mine: dict[str, QuestionOutcome] = {}
        for row in read_rows(file) if file else ():
            outcome = outcome_of(row)
            if is_compared(benchmark, row):
                mine[str(row["doc_id"])] = outcome
            key = f"{row['doc_id']} {outcome.digest} {outcome.prompt}"
            if key not in merged:
                merged[key] = _new(known, row, seen, blocks)
            question = merged[key]
            _pad(question, run)
            question.answers.append(_answer(known, row, judged[run] if judged else {}))
            question.readings.append(_reading(known, row))
            question.letters.append(LETTERS[row["verdict"]["outcome"]])
        outcomes.append(mine if file else None)
    questions = list(merged.values())
    for question in questions:
        _pad(question, len(files))
    chunks, starts = _chunked(questions)
    index = _index(benchmark, questions, starts, len(files))
    return Bundle(index, packed(blocks.texts), chunks, tuple(outcomes))


def packed(value: object) -> str:
    """Return JSON, deflated, in base64, for `inflate` in store.js."""
    # ASCII, so that lone surrogates are kept as escapes
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode("ascii"), 9)).decode("ascii")


def _pad(question: _Question, run: int) -> None:
    missing = run - len(question.answers)
    question.answers += [None] * missing
    question.letters += [ABSENT] * missing
    question.readings += [ABSENT] * missing


def _new(
    known: Benchmark | None, row: Mapping[str, Any], seen: dict[str, int], blocks: Blocks
) -> _Question:
    """A question's part that no run changes: title, prompt, choices, golds, reference."""
    name = str(row["doc_id"])
    seen[name] = seen.get(name, 0) + 1
    arguments = list(row["arguments"].values())
    doc = row["doc"]
    first = str(arguments[0]["arg_0"])
    if known and not known.has_gold:
        first += "".join(f"\n\n[user]\n{later}" for later in known.gold(doc).texts[1:])
    title = known.title(doc).strip() if known else ""
    block, rest = blocks.split(first, title if known and known.shots else "")
    more: dict[str, Any] = {}
    if _is_choice(row):
        asked, _ = halves_of(known.id if known else "", row)
        more["c"] = [str(part["arg_1"]) for part, _ in asked]
        contexts = [str(part["arg_0"]) for part, _ in asked]
        if len(set(contexts)) > 1:
            more["d"] = contexts
    more |= _golds(known, doc) if known else {"g": [str(row["target"])]}
    if known and known.is_unsafe(doc):
        more["u"] = 1
    title = title or rest.strip()
    name = name if seen[name] == 1 else f"{name}~{seen[name]}"
    return _Question(name, str(row.get("stratum") or ""), [name, title[:200], block, rest, more])


def _golds(known: Benchmark, doc: Mapping[str, Any]) -> dict[str, Any]:
    """What an answer is compared with: a choice, accepted texts, or a program's checks."""
    gold = known.gold(doc)
    if not known.has_gold:
        return {}
    if gold.index is not None:
        return {"i": gold.index}
    solution = {"s": gold.solution} if gold.solution else {}
    if known.runs_programs:
        joined = {"j": 1} if known.continues_prompt else {}
        return {"k": "\n".join(gold.texts), **solution, **joined}
    return {"g": list(gold.texts), **solution}


def _reading(known: Benchmark | None, row: Mapping[str, Any]) -> str:
    """What a reply was read as: the place among the benchmark's readings, one digit."""
    answer = row["verdict"]["answer"]
    is_one = known is not None and answer in known.readings
    return str(known.readings.index(answer)) if known and is_one else ABSENT


def _answer(known: Benchmark | None, row: Mapping[str, Any], judged: Judged) -> list[Any]:
    """What one run made of a question: [verdict, answer, reason, samples, log-likelihoods].

    A sixth entry has the log-likelihoods without the question, where they were asked for; of a
    conversation it has the judgments, (turn, rating, text).
    """
    verdict = row["verdict"]
    letter = LETTERS[verdict["outcome"]]
    if _is_choice(row):
        asked, without = halves_of(known.id if known else "", row)
        logprobs = [_rounded(logprob) for _, logprob in asked]
        alone = [list(map(_rounded, without))] if without else []
        if known:  # the chosen text's place says it all, its reason too
            texts = known.gold(row["doc"]).texts
            return [letter, texts.index(verdict["answer"]), "", [], logprobs, *alone]
        return [letter, verdict["answer"], verdict["reason"], [], logprobs]
    replies = [text for texts in row["resps"] for text in texts]  # of samples, or of turns
    samples = [
        [LETTERS[sample["outcome"]], sample["answer"], sample["reason"], str(reply)]
        for sample, reply in itertools.zip_longest(verdict["samples"], replies, fillvalue=verdict)
    ]
    told = judged.get(known.number(row["doc"]), ()) if isinstance(known, Conversation) else ()
    ratings = [list(map(list, told))] if told else []
    return [letter, verdict["answer"], verdict["reason"], samples, [], *ratings]


def _rounded(logprob: float) -> float | None:
    """Round a log-likelihood; None for minus infinity, which JSON lacks."""
    return round(logprob, DIGITS) if math.isfinite(logprob) else None


def _is_choice(row: Mapping[str, Any]) -> bool:
    return isinstance(row["resps"][0][0], list)


def _chunked(questions: Sequence[_Question]) -> tuple[tuple[str, ...], list[int]]:
    """Return chunks of about `CHUNK_CHARACTERS`, and the index of each chunk's first question."""
    chunks, starts, size = [], [0], 0
    pending: list[list[Any]] = []
    for place, question in enumerate(questions):
        item = [*question.shared, question.answers]
        pending.append(item)
        size += len(item[3]) + sum(len(str(answer)) for answer in question.answers) + 200
        if size >= CHUNK_CHARACTERS:
            chunks.append(packed(pending))
            starts.append(place + 1)
            pending, size = [], 0
    if pending:
        chunks.append(packed(pending))
    else:
        starts.pop()
    return tuple(chunks), starts


def _index(
    benchmark: str, questions: Sequence[_Question], starts: list[int], runs: int
) -> dict[str, Any]:
    known = BY_ID.get(benchmark)
    return {
        "id": benchmark,
        "name": known.column if known else benchmark,
        "normalised": known is not None and known.cell == "acc_norm",
        "relative": known is not None and known.cell == "acc_relative",
        "turns": isinstance(known, Conversation),
        "readings": list(known.readings) if known else [],
        "read": ["".join(q.readings[run] for q in questions) for run in range(runs)],
        "n": len(questions),
        "ids": _ids([question.id for question in questions]),
        "strata": list(_lengths(question.stratum for question in questions)),
        "verdicts": ["".join(q.letters[run] for q in questions) for run in range(runs)],
        "starts": starts,
    }


def _ids(ids: Sequence[str]) -> list[str] | None:
    """Return the ids, or None if they are 0, 1, 2, and so on."""
    return None if list(ids) == [str(i) for i in range(len(ids))] else list(ids)


def _lengths(values: Iterable[str]) -> Iterator[list[Any]]:
    """Yield the run-length encoding: [value, count]."""
    for value, members in itertools.groupby(values):
        yield [value, sum(1 for _ in members)]
