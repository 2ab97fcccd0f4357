"""The judge that a run's settings name: behind an endpoint, or a local checkpoint."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mistral_eval.answers.judge_prompt import JudgePrompt
from mistral_eval.console import Talk
from mistral_eval.engines.interface import Stop, never
from mistral_eval.errors import EngineError
from mistral_eval.record.judgments import Judgments
from mistral_eval.run.asking_judge import IsRead, Judge, JudgeQueue
from mistral_eval.run.judge_endpoint import EndpointJudge, judge_endpoint
from mistral_eval.run.judge_engine import EngineJudge, kept_name
from mistral_eval.settings import RunSettings


@contextmanager
def opened_judge(settings: RunSettings, folder: Path, talk: Talk) -> Iterator[Judge]:
    """Yield the judge that the settings name; a local one is loaded when it is first needed.

    Args:
        settings: The run's settings.
        folder: The folder of the judgments.
        talk: Receives messages.
    """
    if settings.judge_engine is None:
        yield EndpointJudge(judge_endpoint(str(settings.judge_url)), str(settings.judge_model))
        return
    judge = EngineJudge(settings, folder, talk.say)
    try:
        yield judge
    finally:
        judge.close()


def judge_name(settings: RunSettings, folder: Path) -> str:
    """Return the name under which a judge's judgments are kept, without opening it.

    Raises:
        EngineError: It is a local judge that has judged nothing here.
    """
    if settings.judge_engine is None:
        return str(settings.judge_model)
    name = kept_name(settings, folder)
    if name is None:
        raise EngineError(
            f"{folder} should hold the judge's identity, and does not. Repeat the run's command, "
            "which asks the judge again."
        )
    return name


@dataclass(frozen=True)
class Judging:
    """A run's judge at work, or what it has judged.

    Attributes:
        name: The judge's name.
        kept: Its judgments.
        talk: Receives messages.
        judge: The judge; None if nobody is asked, and only what is kept is read.
        stop: Returns True once the user wants to stop.
    """

    name: str
    kept: Judgments
    talk: Talk
    judge: Judge | None = None
    stop: Stop = never

    def ask(self, prompts: Sequence[JudgePrompt], is_read: IsRead) -> None:
        """Ask for what is missing or cannot be read, unless nobody is asked; see `JudgeQueue`."""
        if self.judge is not None:
            JudgeQueue(self.judge, self.kept, self.talk, is_read, self.stop).ask(prompts)


@contextmanager
def judging(
    folder: Path, settings: RunSettings, talk: Talk, *, stop: Stop | None, reuses: bool = False
) -> Iterator[Judging]:
    """Open the judge that the settings name with its judgments in a run's folder.

    Args:
        folder: The run's folder.
        settings: They name the judge.
        talk: Receives messages.
        stop: Returns True once the user wants to stop; None asks nobody and reads what is kept.
        reuses: Look for judgments in the runs beside this one too.

    Raises:
        EngineError: What is kept is to be read, and the judge's name is not known.
        RepliesError: Another process of this machine writes the judgments.
    """
    iteration = settings.iteration
    if stop is None:
        name = judge_name(settings, folder)
        yield Judging(name, Judgments.reading(folder, name, iteration), talk)
        return
    with (
        opened_judge(settings, folder, talk) as judge,
        Judgments.writing(folder, judge.name, reuses=reuses, iteration=iteration) as kept,
    ):
        yield Judging(judge.name, kept, talk, judge, stop)
