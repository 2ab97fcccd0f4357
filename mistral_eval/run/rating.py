"""Let a language model rate a run's answers, and read the ratings."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mistral_eval.answers.judge_prompt import JudgePrompt
from mistral_eval.answers.mt_bench.means import UNREAD_SCORE
from mistral_eval.answers.mt_bench.ratings import read_fastchat_rating, read_rating
from mistral_eval.errors import EngineError
from mistral_eval.record.fastchat import SingleJudgment, write_lines
from mistral_eval.record.judgments import Judgments
from mistral_eval.record.run_folder import JUDGMENTS_FILE
from mistral_eval.record.run_record import RatingRow, RatingsRecord
from mistral_eval.run.asking_judge import chosen
from mistral_eval.run.judges import Judging
from mistral_eval.settings import RunSettings
from mistral_eval.suite.benchmark import Doc
from mistral_eval.suite.conversations import Conversation


@dataclass(frozen=True, slots=True)
class RatedTurn:
    """One answer to be rated, and what the judge is asked of it."""

    question_id: int
    turn: int
    category: str
    prompt: JudgePrompt


def read_judgments(turns: Sequence[RatedTurn], judge: str, kept: Judgments) -> RatingsRecord:
    """Read the ratings of judgments that are kept, by either rule.

    Raises:
        EngineError: A judgment is not there.
    """
    rows: list[RatingRow] = []
    versions: Counter[str] = Counter()
    asked = refused = 0
    for turn in turns:
        attempts = kept.attempts(turn.prompt)
        if not attempts:
            raise EngineError(
                f"The judgment of question {turn.question_id}, turn {turn.turn}, by {judge} should "
                "be in the run's folder, and is not. Repeat the run's command, which asks for it."
            )
        one = chosen(attempts, is_rated)
        ours, theirs = read_rating(one.text), read_fastchat_rating(one.text)
        asked += len(attempts)
        refused += bool(one.refused)
        versions.update(filter(None, [one.version]))
        rows.append(
            RatingRow(
                question_id=turn.question_id,
                turn=turn.turn,
                category=turn.category,
                ours=ours.value,
                fastchat=theirs.value,
                is_fallback=ours.fallback,
            )
        )
    return RatingsRecord(
        judge=judge, versions=dict(versions), asked=asked, refused=refused, rows=rows
    )


def in_fastchats_form(
    turns: Sequence[RatedTurn], model: str, kept: Judgments
) -> list[SingleJudgment]:
    """Return the judgments that count as FastChat writes them, with the scores that it reads."""
    found = []
    for turn in turns:
        one = chosen(kept.attempts(turn.prompt), is_rated)
        value = read_fastchat_rating(one.text).value
        found.append(
            SingleJudgment(
                question_id=turn.question_id,
                model=model,
                judge=(one.judge, one.prompt),
                user_prompt=turn.prompt.user,
                judgment=one.text,
                score=UNREAD_SCORE if value is None else value,
                turn=turn.turn,
            )
        )
    return found


def rated_turns(
    benchmark: Conversation, docs: Sequence[Doc], replies: Sequence[Sequence[str]]
) -> list[RatedTurn]:
    """Return each answer to be rated, question by question."""
    return [
        RatedTurn(benchmark.number(doc), turn, str(doc[str(benchmark.stratum)]), prompt)
        for doc, texts in zip(docs, replies, strict=True)
        for turn, prompt in enumerate(benchmark.judge_prompts(doc, texts), 1)
    ]


def rate_run(
    folder: Path, settings: RunSettings, turns: Sequence[RatedTurn], at_work: Judging
) -> RatingsRecord:
    """Have a run's answers rated, and write the judgments as FastChat does.

    Args:
        folder: The run's folder.
        settings: They name the model.
        turns: The answers.
        at_work: The judge.

    Raises:
        EndedEarlyError: The user wants to stop.
        EngineError: The judge did not answer, or a judgment that is to be read is not there.
        OutputError, RepliesError: The judgments cannot be written.
    """
    at_work.ask([turn.prompt for turn in turns], is_rated)
    record = read_judgments(turns, at_work.name, at_work.kept)
    lines = in_fastchats_form(turns, settings.name or settings.model_label, at_work.kept)
    write_lines(folder / JUDGMENTS_FILE, lines)
    return record


def is_rated(text: str) -> bool:
    """Whether our rule can read a rating from a judge's text."""
    return read_rating(text).value is not None
