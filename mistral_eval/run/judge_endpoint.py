"""A judge behind an OpenAI-compatible chat endpoint."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from mistral_eval.answers.judge_prompt import JUDGE_TEMPERATURE, JudgePrompt
from mistral_eval.console import Talk
from mistral_eval.engines.endpoint import Endpoint, base_url, key_from_environment
from mistral_eval.engines.http_client import Client, ServerError
from mistral_eval.engines.http_thread import call, post_all
from mistral_eval.engines.interface import Stop
from mistral_eval.errors import EngineError
from mistral_eval.record.judgments import Judgment

IN_FLIGHT: Final = 8
PATIENCE: Final = 10.0
"""Seconds to wait for a sign of life before answers are computed."""
_REFUSES_KEY: Final = (401, 403)
KEYS: Final = ("MISTRAL_EVAL_JUDGE_API_KEY", "OPENAI_API_KEY")


def judge_endpoint(url: str) -> Endpoint:
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
    )


def say_absent(url: str, talk: Talk, asked: set[str]) -> None:
    """Say so if a judge's server cannot be asked yet: nothing answers, or it refuses the key.

    It is asked for its models, which costs nothing. Any other reply, e.g. that it is still loading
    or does not list its models, shows that it is there.

    Args:
        url: The URL of `--judge-url`.
        talk: Receives the message.
        asked: The URLs that were looked at for other runs; filled.
    """
    if url in asked:
        return
    asked.add(url)

    async def models(client: Client) -> None:
        with suppress(TimeoutError):  # a server that asks to wait
            await asyncio.wait_for(client.get("/models", retries=0), PATIENCE)

    try:
        call(replace(judge_endpoint(url), timeout=PATIENCE / 2), models)
    except ServerError as error:
        if error.status in (None, *_REFUSES_KEY):
            talk.say(f"The judge cannot be asked yet; answers are computed meanwhile. {error}")


@dataclass(frozen=True)
class EndpointJudge:
    """A judge at an endpoint, by the name that its server knows."""

    endpoint: Endpoint
    name: str
    may_vary: bool = True

    def judgments(
        self, prompts: Sequence[JudgePrompt], stop: Stop
    ) -> Iterator[tuple[int, Judgment | EngineError]]:
        """Post the prompts, several at a time, and yield what arrives; see `Judge`."""
        bodies = (self._body(prompt) for prompt in prompts)
        for place, outcome in post_all(self.endpoint, "/chat/completions", bodies, stop):
            yield place, self._judgment(prompts[place], outcome)

    def _body(self, prompt: JudgePrompt) -> Mapping[str, Any]:
        return {
            "model": self.name,
            "messages": list(prompt.messages),
            "temperature": JUDGE_TEMPERATURE,
            "max_tokens": prompt.max_tokens,
        }

    def _judgment(self, prompt: JudgePrompt, outcome: Any) -> Judgment | EngineError:
        """Return what the judge answered, or the error if it is no chat completion."""
        if isinstance(outcome, EngineError):
            return outcome
        try:
            choice = outcome["choices"][0]
            content = choice["message"]["content"]
        except (KeyError, IndexError, TypeError):
            return EngineError(
                f"The server at {self.endpoint.url} should answer with choices[0].message.content, "
                f"and its reply has {_keys(outcome)}. Give the URL of a chat endpoint."
            )
        version, finish = outcome.get("model"), choice.get("finish_reason")
        return Judgment(
            self.name,
            version if isinstance(version, str) else "",
            prompt.name,
            prompt.digest,
            content if isinstance(content, str) else "",
            finish if isinstance(finish, str) else "",
        )


def _keys(outcome: Any) -> str:
    return ", ".join(outcome) if isinstance(outcome, dict) and outcome else "another form"
