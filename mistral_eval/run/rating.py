"""Let a language model rate a run's answers: ask an endpoint, keep every judgment, read them.

A judgment that cannot be read is asked for again up to `ATTEMPTS` times, then counted. What the
judge has answered once is never asked again.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mistral_eval.answers.mt_bench.judge_prompts import (
    JUDGE_TEMPERATURE,
    JUDGE_TOKENS,
    JudgePrompt,
)
from mistral_eval.answers.mt_bench.means import UNREAD_SCORE
from mistral_eval.answers.mt_bench.ratings import read_fastchat_rating, read_rating
from mistral_eval.console import Talk, counted
from mistral_eval.engines.http_client import (
    Endpoint,
    ServerError,
    base_url,
    key_from_environment,
    post_all,
)
from mistral_eval.engines.interface import Stop, never
from mistral_eval.errors import EndedEarlyError, EngineError
from mistral_eval.record.fastchat import SingleJudgment, write_lines
from mistral_eval.record.judgments import Judgment, Judgments
from mistral_eval.record.run_record import RatingRow, RatingsRecord
from mistral_eval.settings import RunSettings
from mistral_eval.suite.benchmark import Doc
from mistral_eval.suite.conversations import Conversation

ATTEMPTS: Final = 3
"""How often a judgment is asked for, until one can be read."""
IN_FLIGHT: Final = 8
HOPELESS: Final = 3
"""Failed requests after which a judge that has answered none is asked no more."""
FASTCHAT_FILE: Final = "model_judgment.jsonl"
KEYS: Final = ("MISTRAL_EVAL_JUDGE_API_KEY", "OPENAI_API_KEY")
_REFUSES_PROMPT: Final = frozenset({400, 413, 422})


@dataclass(frozen=True, slots=True)
class RatedTurn:
    """One answer to be rated, and what the judge is asked of it."""

    question_id: int
    turn: int
    category: str
    prompt: JudgePrompt


def judge_endpoint(url: str, **changed: Any) -> Endpoint:
    """Return the endpoint of a judge, with the API key of the environment.

    Raises:
        UsageError: The URL is none.
    """
    return Endpoint(
        base_url(url, "--judge-url"),
        in_flight=IN_FLIGHT,
        key=key_from_environment(KEYS),
        option="--judge-url",
        when_slow="Run the command again: judgments that arrived are kept.",
        keys=KEYS,
        **changed,
    )


@dataclass
class Asking:
    """Asks one judge.

    Attributes:
        endpoint: The judge's server.
        judge: The judge's name.
        kept: Its judgments so far.
        talk: Told how many judgments are asked for.
        stop: Returns True once the user wants to stop.
    """

    endpoint: Endpoint
    judge: str
    kept: Judgments
    talk: Talk
    stop: Stop = never
    _failed: list[tuple[int, EngineError]] = field(default_factory=list, init=False)
    _has_answered: bool = field(default=False, init=False)

    def ask(self, turns: Sequence[RatedTurn]) -> None:
        """Ask for every judgment that is missing or cannot be read, up to the limit.

        Raises:
            EndedEarlyError: The user wants to stop.
            EngineError: The judge did not answer; what it has answered is kept.
        """
        known = (one for turn in turns for one in self.kept.attempts(turn.prompt))
        self._has_answered = any(not one.refused for one in known)
        for _ in range(ATTEMPTS):
            missing = self._missing(turns)
            if not missing:
                return
            self.talk.say(f"Asking {self.judge} for {counted(len(missing), 'judgment')}.")
            self._round(missing)

    def _missing(self, turns: Sequence[RatedTurn]) -> list[tuple[JudgePrompt, int]]:
        """Return the prompts without a readable judgment, and the number of the next attempt."""
        found = {}
        for turn in turns:
            attempts = self.kept.attempts(turn.prompt)
            if len(attempts) < ATTEMPTS and not any(map(_is_read, attempts)):
                found[turn.prompt] = len(attempts)
        return list(found.items())

    def _round(self, missing: Sequence[tuple[JudgePrompt, int]]) -> None:
        """Ask once for each of these; keep what arrives, and what the server refuses."""
        self._failed.clear()
        bodies = (self._body(prompt) for prompt, _ in missing)
        for place, outcome in post_all(self.endpoint, "/chat/completions", bodies, self._ends):
            prompt, attempt = missing[place]
            try:
                judgment = self._judgment(prompt, outcome)
            except EngineError as error:
                self._failed.append((place, error))
                continue
            self.kept.add(prompt, attempt, judgment)
            self._has_answered = True
        if self.stop():
            raise EndedEarlyError("The judgments that arrived are kept.")
        causes = [error for place, error in self._failed if not self._keeps(missing[place], error)]
        if causes:
            raise EngineError(
                f"The judge {self.judge} did not answer all of {counted(len(missing), 'prompt')}. "
                f"{causes[0]} The judgments that arrived are kept: run the same command again to "
                "ask only for what is missing."
            )

    def _keeps(self, asked: tuple[JudgePrompt, int], error: EngineError) -> bool:
        """Keep an empty judgment of a prompt that the server refuses, e.g. as too long.

        A server that has answered nothing yet refuses requests, not prompts.
        """
        is_refusal = isinstance(error, ServerError) and error.status in _REFUSES_PROMPT
        if not (is_refusal and self._has_answered):
            return False
        prompt, attempt = asked
        about = (self.judge, "", prompt.name, prompt.digest)
        self.kept.add(prompt, attempt, Judgment(*about, text="", refused=str(error)))
        return True

    def _ends(self) -> bool:
        """Return whether no other prompt should be sent."""
        is_fatal = any(isinstance(e, ServerError) and e.is_fatal for _, e in self._failed)
        is_hopeless = not self._has_answered and len(self._failed) >= HOPELESS
        return self.stop() or is_fatal or is_hopeless

    def _body(self, prompt: JudgePrompt) -> Mapping[str, Any]:
        return {
            "model": self.judge,
            "messages": list(prompt.messages),
            "temperature": JUDGE_TEMPERATURE,
            "max_tokens": JUDGE_TOKENS,
        }

    def _judgment(self, prompt: JudgePrompt, outcome: Any) -> Judgment:
        """Return what the judge answered.

        Raises:
            EngineError: The request failed, or its reply has not the form of a chat completion.
        """
        if isinstance(outcome, EngineError):
            raise outcome
        try:
            choice = outcome["choices"][0]
            content = choice["message"]["content"]
        except (KeyError, IndexError, TypeError):
            raise EngineError(
                f"The server at {self.endpoint.url} should answer with choices[0].message.content, "
                f"and its reply has {_keys(outcome)}. Give the URL of a chat endpoint."
            ) from None
        version, finish = outcome.get("model"), choice.get("finish_reason")
        return Judgment(
            self.judge,
            version if isinstance(version, str) else "",
            prompt.name,
            prompt.digest,
            content if isinstance(content, str) else "",
            finish if isinstance(finish, str) else "",
        )


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
        chosen = _chosen(attempts)
        ours, theirs = read_rating(chosen.text), read_fastchat_rating(chosen.text)
        asked += len(attempts)
        refused += bool(chosen.refused)
        versions.update(filter(None, [chosen.version]))
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
        chosen = _chosen(kept.attempts(turn.prompt))
        value = read_fastchat_rating(chosen.text).value
        found.append(
            SingleJudgment(
                question_id=turn.question_id,
                model=model,
                judge=(chosen.judge, chosen.prompt),
                user_prompt=turn.prompt.user,
                judgment=chosen.text,
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
    folder: Path,
    settings: RunSettings,
    turns: Sequence[RatedTurn],
    talk: Talk,
    *,
    stop: Stop | None,
    reuses: bool = False,
) -> RatingsRecord:
    """Have a run's answers rated, and write the judgments as FastChat does.

    Args:
        folder: The run's folder.
        settings: They name the judge.
        turns: The answers.
        talk: Receives messages.
        stop: Returns True once the user wants to stop; None asks nothing and reads what is kept.
        reuses: Look for judgments in the runs beside this one too.

    Raises:
        EndedEarlyError: The user wants to stop.
        EngineError: The judge did not answer, or a judgment that is to be read is not there.
        OutputError, RepliesError: The judgments cannot be written.
    """
    judge = str(settings.judge_model)
    if stop is None:
        kept = Judgments.reading(folder, judge)
        record = read_judgments(turns, judge, kept)
    else:
        with Judgments.writing(folder, judge, reuses=reuses) as kept:
            Asking(judge_endpoint(str(settings.judge_url)), judge, kept, talk, stop).ask(turns)
            record = read_judgments(turns, judge, kept)
    lines = in_fastchats_form(turns, settings.name or settings.model_label, kept)
    write_lines(folder / FASTCHAT_FILE, lines)
    return record


def _chosen(attempts: Sequence[Judgment]) -> Judgment:
    """Return the judgment that counts: the first that our rule can read, else the last."""
    return next(filter(_is_read, attempts), attempts[-1])


def _is_read(judgment: Judgment) -> bool:
    return read_rating(judgment.text).value is not None


def _keys(outcome: Any) -> str:
    return ", ".join(outcome) if isinstance(outcome, dict) and outcome else "another form"
