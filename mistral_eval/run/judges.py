"""The judge that a run's settings name: behind an endpoint, or a local checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mistral_eval.console import Talk
from mistral_eval.errors import EngineError
from mistral_eval.run.asking_judge import Judge
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
