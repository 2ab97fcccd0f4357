"""FastChat's files of answers and judgments: read and written, one JSON object per line.

`model_answer/<model>.jsonl` holds answers, `model_judgment/<judge>_single.jsonl` ratings and
`<judge>_pair.jsonl` comparisons (lm-sys/FastChat, fastchat/llm_judge). Fields that FastChat does
not know are ignored when a file is read.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from mistral_eval.answers.mt_bench.means import UNREAD_SCORE, JudgedText, RatedAnswer
from mistral_eval.answers.mt_bench.pair_verdicts import Winner
from mistral_eval.errors import DataError, complaint
from mistral_eval.record import run_folder


def _whole(value: object) -> object:
    """Return a text without halves of surrogate pairs, which no UTF-8 file can hold."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_whole)]
Turn = Annotated[int, Field(strict=True, ge=1)]


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


Kind = TypeVar("Kind", bound=_Line)


class Choice(_Line):
    """One sample's answers to all turns of a question."""

    index: int = 0
    turns: tuple[Text, ...]


class ModelAnswer(_Line):
    """A model's answers to one question."""

    question_id: int
    answer_id: str = ""
    model_id: str
    choices: Annotated[tuple[Choice, ...], Field(min_length=1)]
    tstamp: float = 0.0


class SingleJudgment(_Line):
    """One rating of one answer; `judge` is the judge's name and its prompt's.

    `score` is what FastChat's rule read, -1 if nothing.
    """

    question_id: int
    model: str
    judge: tuple[str, str]
    user_prompt: Text = ""
    judgment: Text
    score: float
    turn: Turn
    tstamp: float = 0.0

    def judged(self, category: str = "") -> JudgedText:
        """Return the judgment as its text, to be read again by either rule."""
        return JudgedText(
            self.model, self.question_id, self.turn, self.judge[0], self.judgment, category
        )

    def stored(self, category: str = "") -> RatedAnswer:
        """Return the judgment as a rated answer with the stored score, where -1 is unread."""
        value = None if self.score == UNREAD_SCORE else self.score
        return self.judged(category).rated(value)


class PairJudgment(_Line):
    """One pair of answers judged in both orders: `g1` with `model_1` as A, `g2` as B."""

    question_id: int
    model_1: str
    model_2: str
    g1_winner: Winner
    g2_winner: Winner
    judge: tuple[str, str]
    g1_user_prompt: Text = ""
    g1_judgment: Text
    g2_user_prompt: Text = ""
    g2_judgment: Text
    turn: Turn
    tstamp: float = 0.0


def read_answers(file: Path) -> dict[int, ModelAnswer]:
    """Read a model's answers by question id.

    Raises:
        DataError: The file cannot be read, a line is none of this format, or a question stands
            twice.
    """
    answers = _read(file, ModelAnswer)
    _check_unique(file, (f"question {one.question_id} of {one.model_id}" for one in answers))
    models = sorted({one.model_id for one in answers})
    if len(models) > 1:
        raise DataError(
            f"{file}: expected the answers of one model, found {', '.join(models)}. "
            "Give one file per model."
        )
    return {one.question_id: one for one in answers}


def read_single_judgments(file: Path) -> tuple[SingleJudgment, ...]:
    """Read ratings of single answers, in the file's order.

    Raises:
        DataError: The file cannot be read, a line is none of this format, or an answer was rated
            twice by one judge.
    """
    found = _read(file, SingleJudgment)
    _check_unique(
        file,
        (f"{j.model}, question {j.question_id}, turn {j.turn}, judge {j.judge[0]}" for j in found),
    )
    return found


def read_pair_judgments(file: Path) -> tuple[PairJudgment, ...]:
    """Read comparisons of pairs of answers, in the file's order.

    Raises:
        DataError: The file cannot be read, a line is none of this format, or a pair was judged
            twice by one judge.
    """
    found = _read(file, PairJudgment)
    _check_unique(
        file,
        (
            f"{j.model_1} and {j.model_2}, question {j.question_id}, turn {j.turn}, "
            f"judge {j.judge[0]}"
            for j in found
        ),
    )
    return found


def holds_pairs(file: Path) -> bool:
    """Whether the first line of a file of judgments is a comparison of two answers.

    Raises:
        DataError: The file cannot be read as JSON lines.
    """
    for number, line in enumerate(_lines(file), 1):
        if line.strip():
            return "g1_winner" in _parsed(file, number, line)
    return False


def write_lines(file: Path, lines: Iterable[ModelAnswer | SingleJudgment | PairJudgment]) -> None:
    """Write answers or judgments, one per line, whole or not at all.

    Raises:
        OutputError: The file cannot be written.
    """
    run_folder.write_lines(file, (json.dumps(line.model_dump(mode="json")) for line in lines))


def _read(file: Path, kind: type[Kind]) -> tuple[Kind, ...]:
    return tuple(
        _one(file, number, line, kind)
        for number, line in enumerate(_lines(file), 1)
        if line.strip()
    )


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} is not readable as text: {error}.") from error


def _parsed(file: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{file}, line {number}: expected a JSON object, found {error}.") from error


def _one(file: Path, number: int, line: str, kind: type[Kind]) -> Kind:
    row = _parsed(file, number, line)
    try:
        return kind.model_validate(row)
    except ValidationError as error:
        words = ": ".join(filter(None, (f"{file}, line {number}", *complaint(error))))
        raise DataError(f"{words} The file should be FastChat's.") from error


def _check_unique(file: Path, names: Iterable[str]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(
                f"{file}: {name}: expected one line, found {count}. "
                "Keep one set per file; duplicates are never averaged."
            )


def answers_of(answers: Sequence[ModelAnswer], index: int = 0) -> dict[int, tuple[str, ...]]:
    """Return the turns' answers of one sample by question id.

    Raises:
        DataError: A question has no sample of this index.
    """
    found = {}
    for one in answers:
        chosen = [choice.turns for choice in one.choices if choice.index == index]
        if not chosen:
            raise DataError(
                f"Question {one.question_id} of {one.model_id}: expected sample {index}, found "
                f"{', '.join(str(choice.index) for choice in one.choices)}."
            )
        found[one.question_id] = chosen[0]
    return found
