"""A run's judgments by a language model: kept as they arrive, so that none is paid for twice.

They are in a log of the same form as the replies, in the run's folder `judgments/`. A judgment's
key is a digest of the judge's name, the prompt, the run's iteration and the number of the attempt:
whoever asks the same judge the same thing finds it, in this run or in one beside it.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from mistral_eval.answers.judge_prompt import JudgePrompt
from mistral_eval.record.replies import Replies, RepliesLog
from mistral_eval.record.run_folder import JUDGMENTS_FOLDER


@dataclass(frozen=True, slots=True)
class Judgment:
    """What a judge answered to one prompt.

    Attributes:
        judge: The judge's name as it was asked for.
        version: The name that the server gave with the answer; "" if it gave none.
        prompt: The prompt's name in FastChat.
        digest: The SHA-256 of the prompt's user message.
        text: The judgment; "" if there was none.
        finish: Why the text ended, in the server's word; "length" if it was cut.
        refused: The server's words, if it refused this prompt.
    """

    judge: str
    version: str
    prompt: str
    digest: str
    text: str
    finish: str = ""
    refused: str = ""


class Judgments:
    """The judgments of a run by one judge: those that it has, those beside it, and new ones.

    Args:
        log: Where this run's judgments are.
        judge: The judge's name as it is asked for.
        others: The folders of other runs, whose judgments are only read.
        iteration: Which of several runs this is; each has judgments of its own.
    """

    def __init__(
        self, log: Replies, judge: str, others: Sequence[Path] = (), iteration: int = 0
    ) -> None:
        self._log = log
        self._judge = judge
        self._iteration = iteration
        self._others = [Replies(run / JUDGMENTS_FOLDER) for run in others]

    @classmethod
    @contextmanager
    def writing(cls, run: Path, judge: str, *, reuses: bool, iteration: int = 0) -> Iterator[Self]:
        """Open the judgments of a run for reading and writing.

        Args:
            run: The run's folder.
            judge: The judge's name.
            reuses: Look into the runs beside this one too.
            iteration: Which of several runs this is.

        Raises:
            RepliesError: Another process of this machine writes them.
        """
        (run / JUDGMENTS_FOLDER).mkdir(exist_ok=True)
        beside = sorted(one for one in run.parent.iterdir() if one != run) if reuses else []
        with RepliesLog(run / JUDGMENTS_FOLDER) as log:
            found = [one for one in beside if (one / JUDGMENTS_FOLDER).is_dir()]
            yield cls(log, judge, found, iteration)

    @classmethod
    def reading(cls, run: Path, judge: str, iteration: int = 0) -> Self:
        """Open the judgments of a run for reading."""
        return cls(Replies(run / JUDGMENTS_FOLDER), judge, iteration=iteration)

    def attempts(self, prompt: JudgePrompt) -> list[Judgment]:
        """Return the judgments of one prompt, in the order in which they were asked for."""
        return self.attempts_at(prompt.name, prompt.digest)

    def attempts_at(self, name: str, digest: str) -> list[Judgment]:
        """Return the judgments of the prompt with this name and digest; see `attempts`."""
        found: list[Judgment] = []
        while fields := self._lookup(self._key(name, digest, len(found))):
            found.append(Judgment(**fields))
        return found

    def add(self, prompt: JudgePrompt, attempt: int, judgment: Judgment) -> None:
        """Keep the answer to an attempt, counted from 0; it is on the disk when this returns.

        Raises:
            RepliesError: It could not be written.
        """
        assert isinstance(self._log, RepliesLog), "opened for reading"
        self._log.put(self._key(prompt.name, prompt.digest, attempt), asdict(judgment))
        self._log.flush()

    def _key(self, name: str, digest: str, attempt: int) -> bytes:
        parts = [self._judge, name, digest, attempt]
        if self._iteration:  # the first run's keys are those of a single one
            parts.append(self._iteration)
        return hashlib.sha256(json.dumps(parts).encode()).digest()

    def _lookup(self, key: bytes) -> dict[str, Any] | None:
        for log in (self._log, *self._others):
            if found := log.lookup([key]):
                fields: dict[str, Any] = found[key]
                if log is not self._log and isinstance(self._log, RepliesLog):
                    self._log.put(key, fields)  # so that a rescoring finds it here
                    self._log.flush()
                return fields
        return None
