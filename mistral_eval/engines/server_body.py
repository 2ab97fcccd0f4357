"""What is sent to `/v1/completions`, to servers that differ.

`Traits` says what a server does; `server_probe` finds it out. `server_reading` reads the replies.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, Literal, Self, TypeAlias

from mistral_eval.engines.interface import GenerationSettings
from mistral_eval.model.tokenizers.tokenizer import Tokenizer

Bos: TypeAlias = Literal["none", "sent", "added"]
Ids: TypeAlias = Literal["none", "token_ids", "names", "content"]
Scoring: TypeAlias = Literal["none", "prompt_logprobs", "echo"]
Prompt: TypeAlias = str | list[int]

NAMED: Final = "token_id:"  # how vLLM names a token by its id
# What a server must not add to a request by itself. A server that knows none of these ignores them.
NEUTRAL: Final[Mapping[str, Any]] = {
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "repeat_penalty": 1.0,  # llama.cpp's name
}
WANT_IDS: Final[Mapping[str, Any]] = {"return_token_ids": True}


@dataclass(frozen=True, slots=True)
class Traits:
    """What a server does with a request.

    Attributes:
        model: the model's name there.
        answers_as: the name in its replies, where it is written otherwise.
        takes_ids: prompts may be token ids; else they are text.
        bos: how BOS comes before a prompt: "sent" by us, "added" by the server, or "none".
        bos_text: BOS as text, for prompts that are text.
        extras: the fields of `NEUTRAL` and `WANT_IDS` are accepted, and top_k.
        no_top_k: the top_k that keeps all tokens: 0, or -1 where 0 is refused (vLLM before 0.9).
        ids: how a reply holds its token ids: in `token_ids`, as `names` of tokens, in the `content`
            of its log-probabilities (llama.cpp, where some replies lack ids), or "none".
        stops: maximum number of stop strings.
        scoring: where prompt log-probabilities are; "none" if they cannot be had exactly.
        offset: the value of token i is at entry i - offset of those that are returned.
        choices: log-probabilities of given tokens can be asked (`logprob_token_ids`).
        among: the next token can be drawn among given ones (`allowed_token_ids`), for healing.
        surplus: how many more tokens the server counts in a prompt than its ids have, BOS included;
            None if its counts tell nothing.
    """

    model: str
    answers_as: str = ""
    takes_ids: bool = False
    bos: Bos = "none"
    bos_text: str = ""
    extras: bool = False
    no_top_k: int = 0
    ids: Ids = "none"
    stops: int = 4
    scoring: Scoring = "none"
    offset: int = 0
    choices: bool = False
    among: bool = False
    surplus: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """Create traits from the fields that `as_json` returned."""
        return cls(**{one.name: found[one.name] for one in fields(cls)})


def prompt_of(traits: Traits, tokenizer: Tokenizer, ids: Sequence[int], text: str | None) -> Prompt:
    """Return a prompt as a server takes it.

    Args:
        traits: what the server does.
        tokenizer: the model's tokenizer.
        ids: the prompt's ids, with BOS where the tokenizer adds it.
        text: the prompt's text without BOS; None if only the ids are known.
    """
    has_bos = bool(ids) and ids[0] == tokenizer.bos_id
    bare = ids[1:] if has_bos else ids
    if traits.takes_ids:
        # the server's BOS takes the place of ours, or of the first id of a truncated prompt
        return list(ids[1:] if traits.bos == "added" else ids)
    written = tokenizer.decode(bare) if text is None else text
    return traits.bos_text + written if has_bos and traits.bos == "sent" else written


def neutral(traits: Traits) -> dict[str, Any]:
    """Return the fields that switch off what a server adds by itself."""
    return {**NEUTRAL, "top_k": traits.no_top_k}


def generation_body(
    traits: Traits, prompt: Prompt, settings: GenerationSettings, seed: int | None
) -> dict[str, Any]:
    """Return the body of a request that generates one reply.

    Args:
        traits: what the server does.
        prompt: see `prompt_of`.
        settings: stop strings beyond the number that the server takes are left to the client.
        seed: the seed of a sampled reply.
    """
    body: dict[str, Any] = {
        "model": traits.model,
        "prompt": prompt,
        "max_tokens": settings.max_tokens,
        "temperature": settings.temperature,
    }
    if settings.is_sampled:
        body |= {"top_p": settings.top_p, "seed": seed}
    if stop := list(settings.until[: traits.stops]):
        body["stop"] = stop
    if traits.extras:
        body |= neutral(traits)
        if settings.top_k:
            body["top_k"] = settings.top_k
    if traits.ids == "token_ids":
        body |= WANT_IDS
    elif traits.ids == "names":
        body |= {"logprobs": 1, "return_tokens_as_token_ids": True}
    elif traits.ids == "content":
        body["logprobs"] = 1
    return body


def first_body(
    traits: Traits,
    prompt: Prompt,
    settings: GenerationSettings,
    seed: int | None,
    among: Sequence[int],
) -> dict[str, Any]:
    """Return the body of a request that draws one token among given ones."""
    one = replace(settings, max_tokens=1, until=())
    return {**generation_body(traits, prompt, one, seed), "allowed_token_ids": list(among)}


def scoring_body(traits: Traits, prompt: Prompt) -> dict[str, Any]:
    """Return the body of a request for the log-probabilities of a prompt's tokens.

    One token is generated: no token at all is more than most servers can do, and without a limit
    for llama.cpp's.
    """
    body: dict[str, Any] = {"model": traits.model, "prompt": prompt, "max_tokens": 1}
    body |= {"temperature": 0.0, **(neutral(traits) if traits.extras else {})}
    if traits.scoring == "prompt_logprobs":
        return {**body, "prompt_logprobs": 1}
    return {**body, "echo": True, "logprobs": 1}


def choices_body(traits: Traits, prompt: Prompt, tokens: Sequence[int]) -> dict[str, Any]:
    """Return the body of a request for the log-probabilities of some next tokens."""
    body = {"model": traits.model, "prompt": prompt, "max_tokens": 1, "temperature": 0.0}
    named = {"logprobs": 1, "return_tokens_as_token_ids": True}
    return {**body, **named, "logprob_token_ids": list(tokens), **neutral(traits)}


def seed_of(seed: int, draw: str) -> int:
    """Return the seed of one sample: 31 bits of a digest of the run's seed and the sample's name.

    Seeds that count upwards would give runs with neighbouring seeds the same samples.
    """
    digest = hashlib.blake2b(f"{seed}|{draw}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1
