"""A local checkpoint as a judge, answered by one of our engines in this process."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Final

from mistral_eval.answers.judge_prompt import JUDGE_TEMPERATURE, JudgePrompt
from mistral_eval.engines.auto import no_gold, open_by_name
from mistral_eval.engines.interface import (
    Encoded,
    Engine,
    GenerationSettings,
    Request,
    Say,
    Stop,
    engine_class,
)
from mistral_eval.errors import CheckpointError, EngineError, UnansweredError, UsageError
from mistral_eval.model.chat.messages import Messages
from mistral_eval.record.judgments import Judgment
from mistral_eval.record.run_folder import JUDGE_FILES, write_json
from mistral_eval.run.stamps import stamp_of
from mistral_eval.settings import RunSettings

TOO_LONG: Final = "the prompt does not fit into the judge's context"


def settings_of_judge(settings: RunSettings) -> RunSettings:
    """Return the settings with which a run's judge is opened: its model, on the run's device."""
    return RunSettings(
        tasks=settings.tasks,
        model=str(settings.judge_model),
        engine=str(settings.judge_engine),
        device=settings.device,
        data=settings.data,
    )


def check_judge(settings: RunSettings) -> None:
    """Check that a local judge is there and its engine takes conversations; nothing is loaded.

    Raises:
        UsageError: It is not, or does not.
        EngineError: The engine's package is missing.
    """
    from mistral_eval.model.load.hub import check_reference

    judge = settings_of_judge(settings)
    try:
        check_reference(judge.model)
    except CheckpointError as error:
        raise UsageError(
            f"--judge-model: {error} With --judge-engine it is a model that runs here; give "
            "--judge-url for one behind a server."
        ) from error
    engine_class(judge.engine).check_settings(judge)


class EngineJudge:
    """A judge that this process runs. Its replies are greedy, so that asking again is useless.

    Args:
        settings: The run's settings, which name the judge.
        folder: The folder of the judgments, where its identity is kept.
        say: Receives messages.
    """

    may_vary = False

    def __init__(self, settings: RunSettings, folder: Path, say: Say) -> None:
        self._settings = settings_of_judge(settings)
        self._folder = folder
        self._say = say

    @cached_property
    def name(self) -> str:
        """The model's name with the engine and a digest of the identity, as its file has it.

        Without that file the engine is opened, and the file written.
        """
        known = _name_in(self._file)
        return known or self._keep(self._engine)

    @property
    def _file(self) -> Path:
        return self._folder / _file_of(self._settings)

    def judgments(
        self, prompts: Sequence[JudgePrompt], stop: Stop
    ) -> Iterator[tuple[int, Judgment | EngineError]]:
        """Answer the prompts on the engine and yield what is computed; see `Judge`.

        A prompt that does not fit into the context is refused: without its beginning it would ask
        something else.
        """
        engine = self._engine
        items: list[Encoded] = []
        places: list[int] = []
        for place, prompt in enumerate(prompts):
            item = engine.encode(self._request(engine, place, prompt))
            if item.truncated:
                yield place, self._judgment(prompt, refused=TOO_LONG)
            else:
                items.append(item)
                places.append(place)
        try:
            for index, reply in engine.answer(items, (), stop) if items else ():
                place = places[index]
                yield place, self._judgment(prompts[place], reply.text, reply.finish)
        except UnansweredError as error:
            for index, reason in error.failures:
                yield places[index], EngineError(reason)

    def close(self) -> None:
        """Free the model, if it was loaded."""
        if "_engine" in self.__dict__:
            self._engine.close()
            del self.__dict__["_engine"]

    @cached_property
    def _engine(self) -> Engine:
        self._say(f"Loading the judge {self._settings.model_label}.")
        return open_by_name(self._settings, no_gold, self._say)

    def _request(self, engine: Engine, place: int, prompt: JudgePrompt) -> Request:
        most = min(prompt.max_tokens, engine.identity.context_len // 2)
        settings = GenerationSettings(max_tokens=most, temperature=JUDGE_TEMPERATURE)
        context = Messages.of(prompt.messages)
        return Request("judge", place, 0, 0, "generate", context, settings=settings)

    def _judgment(
        self, prompt: JudgePrompt, text: str = "", finish: str = "", refused: str = ""
    ) -> Judgment:
        about = (self.name, "", prompt.name, prompt.digest)
        return Judgment(*about, text=text, finish=finish, refused=refused)

    def _keep(self, engine: Engine) -> str:
        """Write the judge's identity, and return the name that it gives."""
        identity, judge = engine.identity, self._settings
        digest = hashlib.sha256(identity.fingerprint.encode()).hexdigest()
        name = f"{judge.model_label} ({identity.engine}, {digest[:8]})"
        about = {"name": name, "model": judge.model, "engine": judge.engine}
        write_json(self._file, {**about, "identity": identity.as_json()})
        return name


def kept_name(settings: RunSettings, folder: Path) -> str | None:
    """Return the name of a run's local judge as its folder has it; None if it judged nothing.

    The judge's own files need not be there: then it is the only one of this model and engine.
    """
    judge = settings_of_judge(settings)
    if name := _name_in(folder / _file_of(judge)):
        return name
    named = {_name_in(file, judge) for file in folder.glob(JUDGE_FILES)} - {None}
    return named.pop() if len(named) == 1 else None


def _file_of(judge: RunSettings) -> str:
    """Return the name of a judge's file; another model at the same place has another one."""
    path = Path(judge.model)
    stamp = stamp_of(path) if path.exists() else []
    parts = json.dumps([judge.model, judge.engine, judge.device, stamp])
    digest = hashlib.sha256(parts.encode()).hexdigest()
    return JUDGE_FILES.replace("*", digest[:8])


def _name_in(file: Path, judge: RunSettings | None = None) -> str | None:
    """Return the name in a judge's file, if it is of this model and engine."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not asked yet, or a file that a crash left damaged
        return None
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        return None
    if judge and (found.get("model"), found.get("engine")) != (judge.model, judge.engine):
        return None
    return str(found["name"])
