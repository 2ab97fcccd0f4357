"""Ask a judge for every judgment that is missing, and keep each as it arrives.

A judgment that cannot be read is asked for again up to `ATTEMPTS` times. What the judge has
answered once is never asked again.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

from mistral_eval.answers.judge_prompt import JudgePrompt
from mistral_eval.console import Talk, counted
from mistral_eval.engines.http_client import ServerError
from mistral_eval.engines.interface import Stop, never
from mistral_eval.errors import EndedEarlyError, EngineError
from mistral_eval.record.judgments import Judgment, Judgments

ATTEMPTS: Final = 3
"""How often a judgment is asked for, until one can be read."""
HOPELESS: Final = 3
"""Failed requests after which a judge that has answered none is asked no more."""
_REFUSES_PROMPT: Final = frozenset({400, 413, 422})
IsRead: TypeAlias = Callable[[str], bool]
"""Whether what is asked for can be read from a judge's text."""


class Judge(Protocol):
    """A language model that judges."""

    @property
    def name(self) -> str:
        """Its name, which stands beside every figure and is in every judgment's key."""

    @property
    def may_vary(self) -> bool:
        """Whether it may answer the same prompt otherwise when it is asked again."""

    def judgments(
        self, prompts: Sequence[JudgePrompt], stop: Stop
    ) -> Iterator[tuple[int, Judgment | EngineError]]:
        """Yield (place, judgment) of each prompt as it arrives, or the error of its request.

        Args:
            prompts: What is asked.
            stop: Returns True once no other prompt should be asked.
        """


@dataclass
class JudgeQueue:
    """What one judge is still to be asked.

    Attributes:
        judge: The judge.
        kept: Its judgments so far.
        talk: Told how many judgments are asked for.
        is_read: Says whether a judgment's text can be read; one that cannot is asked for again.
        stop: Returns True once the user wants to stop.
    """

    judge: Judge
    kept: Judgments
    talk: Talk
    is_read: IsRead
    stop: Stop = never
    _failed: list[tuple[int, EngineError]] = field(default_factory=list, init=False)
    _has_answered: bool = field(default=False, init=False)

    def ask(self, prompts: Sequence[JudgePrompt]) -> None:
        """Ask for every judgment that is missing or cannot be read, up to the limit.

        Raises:
            EndedEarlyError: The user wants to stop.
            EngineError: The judge did not answer; what it has answered is kept.
        """
        known = (one for prompt in prompts for one in self.kept.attempts(prompt))
        self._has_answered = any(not one.refused for one in known)
        for _ in range(self._most):
            missing = self._missing(prompts)
            if not missing:
                return
            self.talk.say(f"Asking {self.judge.name} for {counted(len(missing), 'judgment')}.")
            self._round(missing)

    @property
    def _most(self) -> int:
        return ATTEMPTS if self.judge.may_vary else 1

    def _missing(self, prompts: Sequence[JudgePrompt]) -> list[tuple[JudgePrompt, int]]:
        """Return the prompts without a readable judgment, and the number of the next attempt."""
        found = {}
        for prompt in prompts:
            attempts = self.kept.attempts(prompt)
            if len(attempts) < self._most and not any(self.is_read(one.text) for one in attempts):
                found[prompt] = len(attempts)
        return list(found.items())

    def _round(self, missing: Sequence[tuple[JudgePrompt, int]]) -> None:
        """Ask once for each of these; keep what arrives, and what the server refuses."""
        self._failed.clear()
        prompts = [prompt for prompt, _ in missing]
        for place, judgment in self.judge.judgments(prompts, self._ends):
            if isinstance(judgment, EngineError):
                self._failed.append((place, judgment))
                continue
            self.kept.add(*missing[place], judgment)
            self._has_answered = True
        if self.stop():
            raise EndedEarlyError("The judgments that arrived are kept.")
        causes = [error for place, error in self._failed if not self._keeps(missing[place], error)]
        if causes:
            raise EngineError(
                f"The judge {self.judge.name} did not answer all of "
                f"{counted(len(missing), 'prompt')}. {causes[0]} The judgments that arrived are "
                "kept: run the same command again to ask only for what is missing."
            )

    def _keeps(self, asked: tuple[JudgePrompt, int], error: EngineError) -> bool:
        """Keep an empty judgment of a prompt that the server refuses, e.g. as too long.

        A server that has answered nothing yet refuses requests, not prompts.
        """
        is_refusal = isinstance(error, ServerError) and error.status in _REFUSES_PROMPT
        if not (is_refusal and self._has_answered):
            return False
        prompt, attempt = asked
        about = (self.judge.name, "", prompt.name, prompt.digest)
        self.kept.add(prompt, attempt, Judgment(*about, text="", refused=str(error)))
        return True

    def _ends(self) -> bool:
        """Return whether no other prompt should be sent."""
        is_fatal = any(isinstance(e, ServerError) and e.is_fatal for _, e in self._failed)
        is_hopeless = not self._has_answered and len(self._failed) >= HOPELESS
        return self.stop() or is_fatal or is_hopeless


def chosen(attempts: Sequence[Judgment], is_read: IsRead) -> Judgment:
    """Return the judgment that counts: the first that can be read, else the last."""
    return next((one for one in attempts if is_read(one.text)), attempts[-1])
