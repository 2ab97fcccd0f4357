"""A run's folder on disk: run.json, lm-eval's results and samples files, the table.

Files appear whole or not at all (written beside, then renamed). The results and samples files
follow lm-eval's schema (`lm_eval/result_schema.py`), so that tools which read lm-eval's output read
ours; what lm-eval has no key for is under the extra key `mistral_eval`.
"""

import errno
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TextIO

from mistral_eval.answers.verdict import QuestionVerdict
from mistral_eval.errors import OutputError

REPLIES_FOLDER = "replies"
LOCK_FILE = "replies.lock"
PARTS_FOLDER = "parts"  # records and locks of the parts of a run
TABLE_FILE = "table.md"
RUN_FILE = "run.json"
CHOICES_FILE = "engine.json"
JUDGMENTS_FOLDER = "judgments"
JUDGMENTS_FILE = "model_judgment.jsonl"
"""A run's ratings in FastChat's form."""
PAIR_FILES = "model_judgment_pair-*.jsonl"
"""Comparisons with other models, one for each of these and each judge."""
JUDGE_FILES = "judge-*.json"
"""Of each local judge its name, and the identity behind it."""
_KEPT = (
    *(RUN_FILE, CHOICES_FILE, LOCK_FILE, JUDGMENTS_FILE, PAIR_FILES, JUDGE_FILES),
    *("results_*.json", "samples_*.jsonl"),
    *(f"{folder}/*" for folder in (REPLIES_FOLDER, PARTS_FOLDER, JUDGMENTS_FOLDER)),
)


@dataclass(frozen=True, slots=True)
class QuestionRecord:
    """One question of one benchmark: what was asked, what came back, what it came to.

    `arguments` and `replies` have one entry per request (a choice, or the prompt); a reply is the
    list of its samples, as lm-eval keeps them.
    """

    doc_id: int
    doc: Mapping[str, Any]
    target: object
    arguments: Sequence[Sequence[object]]
    replies: Sequence[Sequence[object]]
    verdict: QuestionVerdict
    stratum: str | None = None


def write_json(path: Path, value: object) -> None:
    """Write JSON, whole or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    write_lines(path, [text])


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines of text: a file whole or not at all, into a device or a named pipe directly.

    A symbolic link stays, and the file that it leads to is replaced.

    Raises:
        OutputError: the disk is full or the folder cannot be written; says where replies are safe.
    """
    temporary: str | None = None
    try:
        descriptor = _descriptor(path)
        if descriptor is None and path.exists() and not path.is_file():
            descriptor = os.open(path, os.O_WRONLY)  # /dev/null must not become a file
        if descriptor is not None:
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as opened:
                _write_to(opened, lines)
            return
        target = Path(os.path.realpath(path))
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            _write_to(file, lines)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # noqa: PTH101 - mkstemp gives a str, and results are public
        os.replace(temporary, target)  # noqa: PTH105 - the atomic rename is the point
        temporary = None
    except BrokenPipeError:
        raise  # the reader of a pipe wants no more, which ends a command quietly
    except OSError as error:
        replies = path.parent / REPLIES_FOLDER
        advice = "Name a file that can be written."
        if os.path.exists(replies):  # noqa: PTH110  False also where it cannot be looked at
            advice = f"The replies are safe in {replies}. {remedy(error)}"
        raise OutputError(
            f"{path} could not be written ({error.strerror or error}). {advice}"
        ) from error
    finally:  # also where a signal ends the run
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _descriptor(path: Path) -> int | None:
    """Return a copy of the open descriptor of this process that `path` is, as /dev/stdout is one.

    Opened by its path, a file that the shell redirects to would be written from its start.
    """
    for _ in range(40):  # as many links as Linux follows
        if os.path.realpath(path.parent) in ("/dev/fd", f"/proc/{os.getpid()}/fd"):
            sys.stdout.flush()
            return os.dup(int(path.name)) if path.name.isdecimal() else None
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None


def remedy(error: OSError) -> str:
    """Return what to do about a run's file that cannot be written, as a sentence."""
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return (
            "Make the run's folder writable and run the same command again, or copy the folder of "
            "runs to where you may write and give that."
        )
    return "Make room or check the disk, then run the same command again."


def _write_to(file: TextIO, lines: Iterable[str]) -> None:
    for line in lines:
        file.write(line)
        file.write("\n")


def make_folder(path: Path) -> None:
    """Make a run's folder and prove that it can be written.

    Raises:
        OutputError: it cannot.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        handle, probe = tempfile.mkstemp(dir=path, prefix=".probe.")
        os.close(handle)
        Path(probe).unlink()
    except OSError as error:
        raise OutputError(
            f"Results should go to {path}, but that folder cannot be written "
            f"({error.strerror or error}). Name another with --output-path."
        ) from error


def is_of_run(path: Path) -> bool:
    """Return whether a path names a file of a run's record, whether or not that file exists.

    Other files in a run's folder, e.g. a report that a user wrote there, are none.
    """
    place = Path(os.path.realpath(path))
    for folder in place.parents[:3]:  # replies lie a folder deeper, judgments two
        if any(os.path.isfile(folder / name) for name in (RUN_FILE, LOCK_FILE)):  # noqa: PTH113
            name = place.relative_to(folder).as_posix()
            return any(fnmatch(name, kept) for kept in _KEPT)
    return False


def has_begun(folder: Path) -> bool:
    """Return whether a folder is that of a run, finished or not."""
    return any((folder / name).exists() for name in (REPLIES_FOLDER, LOCK_FILE, PARTS_FOLDER))


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines, whole or not at all."""
    write_lines(path, (json.dumps(row, ensure_ascii=False, default=str) for row in rows))


def sample_row(question: QuestionRecord, judged_by: str) -> dict[str, Any]:
    """A question as lm-eval's `samples_*.jsonl` writes it, with its verdict.

    Args:
        question: the question.
        judged_by: the name of the task's filter, which also stands in the keys of its results.
    """
    verdict = question.verdict
    first = question.arguments[0][0]
    return {
        "doc_id": question.doc_id,
        "doc": question.doc,
        "target": str(question.target),
        "arguments": _named(question.arguments),
        "resps": [_as_text(replies) for replies in question.replies],
        "filtered_resps": _filtered(question),
        "filter": judged_by,
        "metrics": list(verdict.metrics),
        "doc_hash": text_hash(json.dumps(question.doc, indent=2, ensure_ascii=False, default=str)),
        "prompt_hash": text_hash(str(first)),
        "target_hash": text_hash(str(question.target)),
        **verdict.metrics,
        "verdict": {
            **asdict(verdict.verdict),
            "samples": [asdict(sample) for sample in verdict.samples],
        },
        "stratum": question.stratum,
    }


def stock_row(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A sample as lm-eval's `evaluate` returns it, as its `samples_*.jsonl` writes it."""
    return {
        **sample,
        "target": str(sample["target"]),
        "arguments": _named(sample["arguments"]),
        "resps": _as_text(sample["resps"]),
        "filtered_resps": _as_text(sample["filtered_resps"]),
    }


def task_hash(rows: Iterable[Mapping[str, Any]]) -> str:
    """lm-eval's hash of a task's questions, prompts and targets, from its sample rows."""
    return text_hash("".join(r["doc_hash"] + r["prompt_hash"] + r["target_hash"] for r in rows))


def text_hash(text: str) -> str:
    """sha256 of a text, as lm-eval's `hash_string` gives it."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _named(requests: Sequence[Sequence[object]]) -> dict[str, dict[str, object]]:
    """The arguments of a question's requests under lm-eval's names."""
    return {
        f"gen_args_{i}": {f"arg_{j}": part for j, part in enumerate(arguments)}
        for i, arguments in enumerate(requests)
    }


def _filtered(question: QuestionRecord) -> list[object]:
    if question.verdict.samples:
        return [sample.answer for sample in question.verdict.samples]
    return [_as_text(replies[0]) if replies else None for replies in question.replies]


def _as_text(value: object) -> object:
    """lm-eval's files hold text: numbers inside lists become strings."""
    if isinstance(value, list | tuple):
        return [_as_text(item) for item in value]
    return str(value)
