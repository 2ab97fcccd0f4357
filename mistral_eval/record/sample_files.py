"""Read a finished run's questions from its samples files.

The files are lm-eval's `samples_<task>_<time>.jsonl` with a verdict in each row (`run_folder.py`).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from mistral_eval.answers.verdict import Outcome
from mistral_eval.console import counted
from mistral_eval.errors import OutputError, as_found, complaint
from mistral_eval.record.comparison import BenchmarkSamples, QuestionOutcome, RunSamples
from mistral_eval.record.run_record import RunRecord, read_record
from mistral_eval.record.run_scores import run_labels, scores_of
from mistral_eval.suite.chats import Guardrail
from mistral_eval.suite.registry import BY_ID


def sample_files(run: RunRecord, folder: Path) -> dict[str, Path]:
    """Return the samples file of each of a run's benchmarks, with the timestamp of its results.

    Raises:
        OutputError: A file is missing, or holds another number of questions than were asked.
    """
    folder = folder if folder.is_dir() else folder.parent
    stamp = run.results_file.removeprefix("results_").removesuffix(".json")
    files = {task: folder / f"samples_{task}_{stamp}.jsonl" for task in run.scores}
    asked = _questions_asked(folder / run.results_file)
    for task, file in files.items():
        if not file.is_file():
            raise OutputError(
                f"{file} should hold the run's questions, but does not exist. "
                f"{rescore_again(folder)}"
            )
        found = _count_lines(file)
        if found != asked.get(task, found):
            raise OutputError(
                f"{file} should hold the run's {counted(asked[task], 'question')}, a line each, "
                f"and has {counted(found, 'line')}. {rescore_again(folder)}"
            )
    return files


def _questions_asked(results: Path) -> dict[str, int]:
    """Return how many questions of each task lm-eval's results file has; empty if it is gone."""
    try:
        counts = json.loads(results.read_text(encoding="utf-8"))["n-samples"]
        return {task: int(count["effective"]) for task, count in counts.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputError(
            f"{results} cannot be read as lm-eval's results ({error!r}). "
            f"{rescore_again(results.parent)}"
        ) from error


def rescore_again(folder: Path) -> str:
    """Return what to do about a damaged results or samples file."""
    return f"`mistral-eval rescore {folder}` writes it again from the replies."


def _count_lines(file: Path) -> int:
    """Return the number of lines of a file, which may be large."""
    with file.open("rb") as content:
        return sum(1 for _ in content)


def _reply(found: object) -> object:
    """Check that a reply is a text, or a log-likelihood and whether it is the greedy one."""
    if isinstance(found, str):
        return found
    try:
        if isinstance(found, list) and len(found) == 2:
            float(found[0])
            return found
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"expected a text or a log-likelihood, found {as_found(found)}")


def _continuation(found: object) -> object:
    """Check that a request has a choice's text, or how its reply is generated."""
    if isinstance(found, str | dict):
        return found
    raise ValueError(f"expected a text or a mapping, found {as_found(found)}")


class _Request(BaseModel):
    arg_0: str
    arg_1: Annotated[object, AfterValidator(_continuation)]


class _Sample(BaseModel):
    outcome: Outcome
    answer: str | None
    reason: str


class _Verdict(_Sample):
    samples: list[_Sample]


class _Row(BaseModel):
    """What is read of a row; the other fields are lm-eval's."""

    doc_id: int
    doc: dict[str, Any]
    target: str
    arguments: Annotated[dict[str, _Request], Field(min_length=1)]
    resps: list[Annotated[list[Annotated[object, AfterValidator(_reply)]], Field(min_length=1)]]
    verdict: _Verdict

    @model_validator(mode="after")
    def _check_replies(self) -> Self:
        """Check that each request has its replies, and that these are of its kind."""
        replies, samples = sum(map(len, self.resps)), len(self.verdict.samples)
        if len(self.resps) != len(self.arguments) or samples not in (0, replies):
            raise ValueError(
                f"expected replies to {counted(len(self.arguments), 'request')}, found "
                f"{counted(replies, 'reply')} and {counted(samples, 'verdict')} on them"
            )
        for request, found in zip(self.arguments.values(), self.resps, strict=True):
            if any(isinstance(request.arg_1, str) != isinstance(one, list) for one in found):
                raise ValueError("expected log-likelihoods of choices, and texts otherwise")
        return self


def read_rows(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a samples file, one at a time: a file can have 190 MB.

    Raises:
        OutputError: A line is not a question with its verdict; the sentence names the line.
    """
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                _Row.model_validate(row)
            except ValidationError as error:
                why = ": ".join(filter(None, complaint(error)))
                raise _damaged(file, number, why.removesuffix(".")) from error
            except ValueError as error:
                raise _damaged(file, number, str(error)) from error
            yield row


def _damaged(file: Path, number: int, why: str) -> OutputError:
    return OutputError(
        f"{file}, line {number}: expected a question with its verdict, found something else "
        f"({why}). {rescore_again(file.parent)}"
    )


def protocol_of(run: RunRecord, task: str) -> dict[str, str]:
    """Return what decided a benchmark's score besides questions and model, by name."""
    data, shots = run.data[task], run.settings.num_fewshot
    judged = isinstance(BY_ID.get(task), Guardrail)
    return {
        "the task file": f"sha256 {run.protocol[task][:12]}",
        "the number of shots": "the protocol's" if shots is None else str(shots),
        "the data": f"{data.name} (sha256 {data.sha256[:12]})",
        **({"the judge of refusals": run.scores[task].judged_by or "cues"} if judged else {}),
    }


def is_compared(task: str, row: Mapping[str, Any]) -> bool:
    """Whether a row of a samples file counts in comparisons; see `Benchmark.is_compared`."""
    known = BY_ID.get(task)
    return known is None or known.cell not in row or known.is_compared(row)


def load_samples(folders: Sequence[Path]) -> tuple[RunSamples, ...]:
    """Read what a comparison needs of several finished runs, each under a distinct label.

    Raises:
        OutputError: A folder holds no finished run, or one of its files is missing or damaged.
    """
    runs = [read_record(folder) for folder in folders]
    labels = run_labels([scores_of(run, at) for run, at in zip(runs, folders, strict=True)])
    return tuple(
        RunSamples(
            label,
            {
                task: BenchmarkSamples(
                    protocol_of(run, task),
                    {
                        str(row["doc_id"]): outcome_of(row)
                        for row in read_rows(file)
                        if is_compared(task, row)
                    },
                    run.scores[task].asked_as,
                )
                for task, file in sample_files(run, folder).items()
            },
            run.engine,
        )
        for label, run, folder in zip(labels, runs, folders, strict=True)
    )


def expected_of(task: str, row: Mapping[str, Any]) -> str:
    """Return the gold answer of a row; of multiple choice it is the right choice's text."""
    known = BY_ID.get(task)
    if known is not None and isinstance(row["resps"][0][0], list):
        gold = known.gold(row["doc"])
        if gold.index is not None:
            return gold.texts[gold.index]
    return str(row["target"])


def halves_of(
    task: str, row: Mapping[str, Any]
) -> tuple[list[tuple[Mapping[str, Any], float]], list[float]]:
    """Return a multiple-choice row's requests with their log-likelihoods, in nats.

    Returns:
        (arguments, log-likelihood) of each choice, and each one's log-likelihood without the
        question, where the benchmark asks for it.
    """
    requests = [
        (arguments, float(replies[0][0]))
        for arguments, replies in zip(row["arguments"].values(), row["resps"], strict=True)
    ]
    context = BY_ID[task].unconditional if task in BY_ID else None
    asked = [request for request in requests if request[0]["arg_0"] != context]
    return asked, [logprob for arguments, logprob in requests if arguments["arg_0"] == context]


def outcome_of(row: Mapping[str, Any]) -> QuestionOutcome:
    """Return what a comparison needs of a row of a samples file."""
    return QuestionOutcome(
        correct=row["verdict"]["outcome"] == "correct",
        stratum=row.get("stratum") or "",
        digest="".join(str(row.get(key)) for key in ("doc_hash", "target_hash")),
        prompt=str(row.get("prompt_hash")),
    )
