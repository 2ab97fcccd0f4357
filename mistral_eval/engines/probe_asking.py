"""How the probe asks a server, and what it keeps of the answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from mistral_eval.engines.http_client import Client, ServerError
from mistral_eval.engines.interface import GenerationSettings
from mistral_eval.engines.server_body import Bos, Prompt, Traits, generation_body, prompt_of
from mistral_eval.engines.server_reading import read_generation
from mistral_eval.model.tokenizers.tokenizer import Tokenizer

TEXTS: Final = (
    "The capital of France is",
    "def add(a, b):\n    return a",
    "Question: How much is 12 times 12?\nAnswer:",
    "Ein kurzer Satz \u00fcber B\u00e4ume, 27 St\u00fcck:",
)
GREEDY: Final = GenerationSettings(max_tokens=8)
# Statuses of a request that a server does not understand; llama.cpp's answers 500 to token ids.
_NOT_UNDERSTOOD: Final = frozenset({400, 404, 422, 500, 501})
_OWN_FAULT: Final = 500  # statuses from here on may have another cause than the request


@dataclass(slots=True)
class Found:
    """What the probe found out.

    Attributes:
        traits: how the server is asked and read.
        version: program and version, if the server tells them; else empty.
        context_len: its context in tokens; None if it does not say.
        info: further findings for run.json.
        notes: what is worked around, for the table.
        lacks: what it cannot do ("log-likelihoods", "independent samples", "exact text"), and why.
    """

    traits: Traits
    version: str = ""
    context_len: int | None = None
    info: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    lacks: dict[str, str] = field(default_factory=dict)


class Asker:
    """Asks a server what a step of the probe wants to know.

    Args:
        client: the server's client.
        tokenizer: the model's tokenizer.
        bos_text: BOS as text, for servers that take no token ids.

    Attributes:
        found: what the steps have found out so far; each step adds to it.
        bos: how BOS comes before a prompt, if the server leaves prompts as they are.
    """

    def __init__(self, client: Client, tokenizer: Tokenizer, bos_text: str) -> None:
        self.client = client
        self.tokenizer = tokenizer
        self.bos_text = bos_text
        self.bos: Bos = "sent" if tokenizer.adds_bos else "none"
        self.found = Found(Traits(""))

    @property
    def traits(self) -> Traits:
        """Return what is known so far."""
        return self.found.traits

    def learn(self, **traits: Any) -> None:
        """Add to what is known."""
        self.found.traits = replace(self.found.traits, **traits)

    async def attempt(self, body: Mapping[str, Any]) -> Any:
        """Return a reply, or None where the server does not understand the request.

        A server that fails for a plain request too is in trouble, and says nothing about this one.

        Raises:
            ServerError: it is in trouble.
        """
        try:
            return await self.client.post("/completions", body, retries=2)
        except ServerError as error:
            if error.status not in _NOT_UNDERSTOOD:
                raise
            if error.status < _OWN_FAULT:
                return None
            try:
                await self.client.post("/completions", self.plain_body(TEXTS[0]), retries=0)
            except ServerError:
                raise error from None
        try:
            return await self.client.post("/completions", body, retries=0)
        except ServerError as error:
            if error.status not in _NOT_UNDERSTOOD:
                raise
            return None

    def plain_body(self, prompt: str) -> dict[str, Any]:
        """Return a request that every server understands."""
        return {
            "model": self.traits.model,
            "prompt": prompt,
            "max_tokens": 1,
            "temperature": 0.0,
        }

    async def ask(self, body: Mapping[str, Any]) -> Any:
        """Return the reply to a request that the server must understand."""
        return await self.client.post("/completions", body, retries=2)

    async def generate(
        self, text: str, settings: GenerationSettings = GREEDY, seed: int | None = None
    ) -> Any:
        """Return the reply to a text, in the form that is known so far."""
        return await self.ask(generation_body(self.traits, self.prompt(text), settings, seed))

    def ids(self, text: str) -> list[int]:
        """Return the ids of a text, with BOS where the tokenizer adds it."""
        return self.tokenizer.encode(text, bos=self.tokenizer.adds_bos)

    def prompt(self, text: str) -> Prompt:
        """Return a text as the server takes it."""
        return prompt_of(self.traits, self.tokenizer, self.ids(text), text)

    def text(self, reply: Any, text: str, settings: GenerationSettings = GREEDY) -> str:
        """Return the text of a reply to a text."""
        return read_generation(reply, self.traits, settings, self.tokenizer, self.ids(text)).text
