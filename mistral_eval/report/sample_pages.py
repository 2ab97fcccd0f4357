"""A finished run's questions as text or JSON: prompt, replies, answers and verdicts."""

import os.path
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from mistral_eval.errors import UsageError, nearest
from mistral_eval.record.run_record import read_record
from mistral_eval.record.sample_files import expected_of, halves_of, read_rows, sample_files

KEPT = "\n\t"
INDENT = "    "
LEAST_SHOTS = 200  # characters; a shorter common prefix is not a solved example


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which questions to show; empty fields select all.

    `search` is text that prompt, replies, target or answer must contain, ignoring case; `ids` are
    `doc_id`s; `limit` is the maximum number of questions over all benchmarks.
    """

    tasks: tuple[str, ...] = ()
    outcomes: frozenset[str] = frozenset()
    search: str = ""
    ids: tuple[str, ...] = ()
    limit: int | None = None


def chosen(folder: Path, wanted: Wanted) -> Iterator[dict[str, Any]]:
    """Yield the selected questions of a finished run as plain JSON.

    Raises:
        OutputError: The folder holds no finished run, or its files are missing or damaged.
        UsageError: The run has no such benchmark.
    """
    files = sample_files(read_record(folder), folder)
    for task in wanted.tasks:
        if task not in files:
            raise UsageError(f"The run has no benchmark {task!r}. {nearest(task, files)}")
    names = [task for task in files if not wanted.tasks or task in wanted.tasks]
    return islice(_all(names, files, wanted), wanted.limit)


def _all(
    names: Sequence[str], files: Mapping[str, Path], wanted: Wanted
) -> Iterator[dict[str, Any]]:
    for task in names:
        shots: dict[object, str] | None = None
        for row in read_rows(files[task]):
            if _matches(row, wanted):
                shots = _shots(files[task]) if shots is None else shots
                yield _question(task, row, shots.get(row.get("stratum"), ""))


def _matches(row: Mapping[str, Any], wanted: Wanted) -> bool:
    if wanted.outcomes and row["verdict"]["outcome"] not in wanted.outcomes:
        return False
    if wanted.ids and str(row["doc_id"]) not in wanted.ids:
        return False
    if not wanted.search:
        return True
    texts = [row["arguments"], row["resps"], row["target"], row["verdict"].get("answer")]
    return wanted.search.casefold() in "\n".join(_texts(texts)).casefold()


def _texts(value: object) -> Iterator[str]:
    """Yield every text nested in lists and dicts."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def _shots(file: Path) -> dict[object, str]:
    """Return the common prefix of each subject's prompts, up to a blank line: the shots."""
    common: dict[object, str] = {}
    seen: dict[object, int] = {}
    for row in read_rows(file):
        subject, prompt = row.get("stratum"), _prompt(row)
        common[subject] = os.path.commonprefix([common.get(subject, prompt), prompt])  # noqa: RUF071 - of texts
        seen[subject] = seen.get(subject, 0) + 1
    ends = {subject: text.rfind("\n\n") + 2 for subject, text in common.items()}
    return {
        subject: text[: ends[subject]]
        for subject, text in common.items()
        if seen[subject] > 1 and ends[subject] >= LEAST_SHOTS
    }


def _prompt(row: Mapping[str, Any]) -> str:
    return str(next(iter(row["arguments"].values()))["arg_0"])


def _question(task: str, row: Mapping[str, Any], shots: str) -> dict[str, Any]:
    """Return one question; a choice's text includes its context if contexts differ."""
    arguments = list(row["arguments"].values())
    verdict = row["verdict"]
    is_choice = row.get("filter") == "none" and isinstance(arguments[0]["arg_1"], str)
    # of several turns the last one holds those before it
    prompt = _prompt(row) if is_choice else str(arguments[-1]["arg_0"])
    found: dict[str, Any] = {
        "task": task,
        "id": row["doc_id"],
        "subject": row.get("stratum"),
        "outcome": verdict["outcome"],
        "answer": verdict.get("answer"),
        "reason": verdict.get("reason", ""),
        "target": row["target"],
        "expected": expected_of(task, row),
        "shots": shots,
        "prompt": prompt.removeprefix(shots),
    }
    if is_choice:
        asked, alone = halves_of(task, row)
        several = len({one["arg_0"] for one, _ in asked}) > 1
        found["choices"] = [
            {
                "text": (one["arg_0"] if several else "") + one["arg_1"],
                "logprob": logprob,
                **({"without_question": without} if alone else {}),
            }
            for (one, logprob), without in zip_longest(asked, alone)
        ]
    else:
        replies = [text for texts in row["resps"] for text in texts]
        samples = verdict.get("samples") or [{}] * len(replies)
        found["replies"] = [
            {"text": text, "outcome": one.get("outcome"), "answer": one.get("answer")}
            for text, one in zip(replies, samples, strict=True)
        ]
    return found


def as_text(question: Mapping[str, Any], *, with_shots: bool = False) -> str:
    """Return one question as text for a terminal, without control characters."""
    subject = f", {question['subject']}" if question["subject"] else ""
    lines = [f"── {question['task']} {question['id']}{subject}: {question['outcome']} ──"]
    shots = question["shots"]
    if shots and not with_shots:
        lines.append(f"[{len(shots)} characters of solved examples; --shots shows them]")
        shots = ""
    lines.append(visible(shots + question["prompt"]))
    for number, choice in enumerate(question.get("choices", ())):
        alone = choice.get("without_question")
        also = "" if alone is None else f", without the question {alone:.3f}"
        lines += [f"choice {number}, log-probability {choice['logprob']:.3f}{also}:"]
        lines += [_indented(choice["text"])]
    for number, reply in enumerate(question.get("replies", ())):
        verdict = f", {reply['outcome']}: {reply['answer']}" if reply["outcome"] else ""
        lines += [visible(f"reply {number}{verdict}").replace("\n", " "), _indented(reply["text"])]
    lines += [
        visible(f"expected: {question['expected']}"),
        visible(f"read: {question['answer']}"),
        visible(f"verdict: {question['outcome']}. {question['reason']}"),
        "",
    ]
    return "\n".join(lines)


def visible(text: object) -> str:
    """Escape control and invisible characters, except newline and tab."""
    return "".join(
        one if one in KEPT or not unicodedata.category(one).startswith("C") else _escape(one)
        for one in str(text)
    )


def _escape(one: str) -> str:
    code = ord(one)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _indented(text: str) -> str:
    return "\n".join(INDENT + line for line in visible(text).split("\n"))
