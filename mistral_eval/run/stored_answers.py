"""Answers that are on the disk: those of a finished run, or of a FastChat file."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mistral_eval.console import Talk, counted
from mistral_eval.data import make_source
from mistral_eval.errors import DataError
from mistral_eval.record.fastchat import answers_of, read_answers
from mistral_eval.record.run_folder import RUN_FILE
from mistral_eval.record.run_record import read_record
from mistral_eval.record.run_scores import one_line, scores_of
from mistral_eval.record.sample_files import read_rows, sample_files
from mistral_eval.run.questions import Asking, load_benchmarks
from mistral_eval.settings import RunSettings
from mistral_eval.suite.benchmark import Doc
from mistral_eval.suite.conversations import Conversation


@dataclass(frozen=True)
class StoredAnswers:
    """One model's answers to the turns of each question, by the question's number.

    Attributes:
        path: The run's folder or the file.
        model: The model's name.
        texts: Question -> the answers to its turns.
    """

    path: Path
    model: str
    texts: Mapping[int, tuple[str, ...]]

    @property
    def is_run(self) -> bool:
        """Whether they are a finished run's."""
        return self.path.is_dir()

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of model and answers."""
        content = json.dumps([self.model, sorted(self.texts.items())])
        return hashlib.sha256(content.encode()).hexdigest()


def read_stored(path: Path, benchmark: Conversation) -> StoredAnswers:
    """Read the answers of a finished run's folder, or of FastChat's `model_answer/<model>.jsonl`.

    Raises:
        DataError: The file is not FastChat's, or the run has no answers to this benchmark.
        OutputError: The folder holds no finished run.
    """
    path = path.expanduser()
    path = path.parent if path.name == RUN_FILE else path
    if not path.is_dir():
        answers = read_answers(path)
        models = [one.model_id for one in answers.values()]
        if not models:
            raise DataError(
                f"{path} holds no answer. Give another file of FastChat's model_answer."
            )
        return StoredAnswers(path, models[0], answers_of(list(answers.values())))
    run = read_record(path)
    if benchmark.id not in run.scores:
        raise DataError(
            f"The run in {path} has no answers to {benchmark.id}: expected one that asked it. Run "
            f"{benchmark.id} first, or give another folder."
        )
    texts = {
        benchmark.number(row["doc"]): tuple(_text(reply) for reply in row["resps"])
        for row in read_rows(sample_files(run, path)[benchmark.id])
    }
    return StoredAnswers(path, one_line(scores_of(run, path).name), texts)


def questions_with(
    answered: Sequence[StoredAnswers], benchmark: Conversation, settings: RunSettings, talk: Talk
) -> list[Doc]:
    """Return the questions of the settings' data that all of these answer; say how many have none.

    Raises:
        DataError: There is none.
        MistralEvalError: The data cannot be loaded.
    """
    (loaded,) = load_benchmarks([benchmark.id], Asking.of(settings, make_source(settings.data)))
    docs = [question.doc for question in loaded.questions]
    for answers in answered:
        there = [doc for doc in docs if benchmark.number(doc) in answers.texts]
        if not there:
            raise DataError(
                f"{answers.path} should hold answers to questions of {benchmark.id}, and has none "
                f"of the {len(docs)} that are asked. Give the file of another model or --data."
            )
        absent, others = len(docs) - len(there), len(answers.texts) - len(there)
        if absent or others:
            talk.say(
                f"{answers.path.name}: {counted(absent, 'question')} without an answer, and "
                f"{counted(others, 'answer')} to questions that are not asked."
            )
        docs = there
    return docs


def _text(reply: Any) -> str:
    return str(reply[0])
