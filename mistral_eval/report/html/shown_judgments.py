"""What a judge wrote of a run's answers, for the report's questions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from mistral_eval.record.fastchat import read_single_judgments
from mistral_eval.record.run_folder import JUDGMENTS_FILE
from mistral_eval.record.run_record import RatingsRecord, RunRecord

Told: TypeAlias = tuple[int, float | None, str]
"""A turn, its rating (None if it could not be read), and the judge's text."""
Judged: TypeAlias = Mapping[int, Sequence[Told]]
"""Question number -> its judgments."""


def read_judgments(run: RunRecord, folder: Path) -> Mapping[str, Judged]:
    """Return a run's judgments by benchmark; empty if no judge rated it.

    Raises:
        DataError: The file of judgments is damaged.
    """
    folder = folder if folder.is_dir() else folder.parent
    file = folder / JUDGMENTS_FILE
    texts: dict[tuple[int, int], str] = {}
    if run.ratings and file.is_file():
        texts = {(one.question_id, one.turn): one.judgment for one in read_single_judgments(file)}
    return {name: _by_question(ratings, texts) for name, ratings in run.ratings.items()}


def _by_question(ratings: RatingsRecord, texts: Mapping[tuple[int, int], str]) -> Judged:
    found: dict[int, list[Told]] = {}
    for row in ratings.rows:
        told = (row.turn, row.ours, texts.get((row.question_id, row.turn), ""))
        found.setdefault(row.question_id, []).append(told)
    return found
