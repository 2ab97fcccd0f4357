"""What is sent to `/v1/completions` and how its replies are read, for servers that differ.

`Traits` says what a server does; `server_probe` finds it out. Token positions are those of the ids
that our tokenizer makes, BOS included, whatever the server echoes.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal, Self, TypeAlias

from mistral_eval.engines.interface import GenerationSettings, Reply
from mistral_eval.errors import EngineError
from mistral_eval.model.tokenizers.incremental import continuation_text
from mistral_eval.model.tokenizers.tokenizer import Tokenizer
from mistral_eval.native.requests import ScoreReply

Bos: TypeAlias = Literal["none", "sent", "added"]
Ids: TypeAlias = Literal["none", "token_ids", "names", "content"]
Scoring: TypeAlias = Literal["none", "prompt_logprobs", "echo"]
Prompt: TypeAlias = str | list[int]

NAMED: Final = "token_id:"  # how vLLM names a token by its id
# What a server must not add to a request by itself. A server that knows none of these ignores them.
NEUTRAL: Final[Mapping[str, Any]] = {
    "top_k": -1,
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
        extras: the fields of `NEUTRAL` and `WANT_IDS` are accepted.
        ids: how a reply holds its token ids: in `token_ids`, as `names` of tokens, in the `content`
            of its log-probabilities (llama.cpp, where some replies lack ids), or "none".
        stops: maximum number of stop strings.
        scoring: where prompt log-probabilities are; "none" if they cannot be had exactly.
        offset: the value of token i is at entry i - offset of those that are returned.
        choices: log-probabilities of given tokens can be asked (`logprob_token_ids`).
    """

    model: str
    answers_as: str = ""
    takes_ids: bool = False
    bos: Bos = "none"
    bos_text: str = ""
    extras: bool = False
    ids: Ids = "none"
    stops: int = 4
    scoring: Scoring = "none"
    offset: int = 0
    choices: bool = False

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
        return list(bare if traits.bos == "added" else ids)
    written = tokenizer.decode(bare) if text is None else text
    return traits.bos_text + written if has_bos and traits.bos == "sent" else written


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
        body |= NEUTRAL
        if settings.top_k:
            body["top_k"] = settings.top_k
    if traits.ids == "token_ids":
        body |= WANT_IDS
    elif traits.ids == "names":
        body |= {"logprobs": 1, "return_tokens_as_token_ids": True}
    elif traits.ids == "content":
        body["logprobs"] = 1
    return body


def scoring_body(traits: Traits, prompt: Prompt) -> dict[str, Any]:
    """Return the body of a request for the log-probabilities of a prompt's tokens.

    One token is generated: no token at all is more than most servers can do, and without a limit
    for llama.cpp's.
    """
    body = {"model": traits.model, "prompt": prompt, "max_tokens": 1, "temperature": 0.0}
    if traits.scoring == "prompt_logprobs":
        return {**body, "prompt_logprobs": 1}
    return {**body, "echo": True, "logprobs": 1}


def choices_body(traits: Traits, prompt: Prompt, tokens: Sequence[int]) -> dict[str, Any]:
    """Return the body of a request for the log-probabilities of some next tokens."""
    body = {"model": traits.model, "prompt": prompt, "max_tokens": 1, "temperature": 0.0}
    named = {"logprobs": 1, "return_tokens_as_token_ids": True}
    return {**body, **named, "logprob_token_ids": list(tokens), **NEUTRAL}


def seed_of(seed: int, draw: str) -> int:
    """Return the seed of one sample: 31 bits of a digest of the run's seed and the sample's name.

    Seeds that count upwards would give runs with neighbouring seeds the same samples.
    """
    digest = hashlib.blake2b(f"{seed}|{draw}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


def only_choice(reply: Any, traits: Traits) -> Mapping[str, Any]:
    """Return a reply's one choice.

    Raises:
        EngineError: the reply has none or several, or is another model's.
    """
    choices = reply.get("choices") if isinstance(reply, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise EngineError(
            "the server's reply should hold one choice and does not. Check that --base-url is an "
            "OpenAI-compatible completions server."
        )
    other = reply.get("model")
    if isinstance(other, str) and other not in ("", traits.model, traits.answers_as):
        raise EngineError(
            f"the model {traits.model} was asked and {other} answered. Check the server's routing."
        )
    choice: Mapping[str, Any] = choices[0]
    return choice


def reply_ids(choice: Mapping[str, Any], traits: Traits) -> tuple[int, ...] | None:
    """Return the ids of a generated reply, EOS included; None if the server returns none.

    Raises:
        EngineError: the server returned ids in the probe and returns none now.
    """
    if traits.ids == "none":
        return None
    if traits.ids == "token_ids":
        found = choice.get("token_ids")
        if isinstance(found, list) and set(map(type, found)) <= {int}:
            return tuple(found)
    elif traits.ids == "content":
        # without any where a stop string began in the first token
        tokens = _content(choice) if choice.get("logprobs") else []
        if tokens is not None and all(type(one.get("id")) is int for one in tokens):
            return tuple(one["id"] for one in tokens)
    else:
        names = (choice.get("logprobs") or {}).get("tokens")
        if isinstance(names, list) and all(str(one).startswith(NAMED) for one in names):
            return tuple(int(str(one).removeprefix(NAMED)) for one in names)
    raise EngineError("the server's reply lacks the token ids that its earlier replies had.")


def reply_logprobs(choice: Mapping[str, Any]) -> list[Any]:
    """Return the log-probabilities of a reply's tokens as the server gives them; maybe empty."""
    tokens = _content(choice)
    if tokens is not None:
        return [one.get("logprob") for one in tokens]
    return (choice.get("logprobs") or {}).get("token_logprobs") or []


def _content(choice: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    """Return the tokens in the form of chat completions, which llama.cpp uses for both."""
    found = (choice.get("logprobs") or {}).get("content")
    is_list = isinstance(found, list) and all(isinstance(one, dict) for one in found)
    return found if is_list else None


def read_generation(
    reply: Any,
    traits: Traits,
    settings: GenerationSettings,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
) -> Reply:
    """Return a generated reply, cut at the first stop string by us.

    Args:
        reply: the server's JSON.
        traits: what the server does.
        settings: the request's settings.
        tokenizer: decodes the reply's ids after the prompt.
        prompt: the prompt's ids.
    """
    choice = only_choice(reply, traits)
    ids = reply_ids(choice, traits)
    ended = choice.get("finish_reason")
    is_eos, text = False, choice.get("text")
    if ids is not None:
        ends = [ids.index(one) for one in tokenizer.eos_ids if one in ids]
        is_eos = bool(ends)
        ids = ids[: min(ends)] if ends else ids
        decoded = continuation_text(tokenizer, prompt, ids)
        if traits.ids == "content" and not _has_all_ids(reply, text, decoded, len(ids)):
            ids = None
        else:
            text = decoded
    if not isinstance(text, str):
        raise EngineError("the server's reply holds no text.")
    cut = settings.cut(text)
    if len(cut) < len(text):
        finish = "stop"
    elif is_eos:
        finish = "eos"
    elif ended == "length":
        finish = "length"
    else:  # a stop string that the server cut away, or an EOS that it does not return
        is_string = traits.ids == "content" or isinstance(choice.get("stop_reason"), str)
        finish = "stop" if is_string else "eos"
    return Reply(text=cut, ids=ids, finish=finish)


def _has_all_ids(reply: Any, text: Any, decoded: str, count: int) -> bool:
    """Return whether a reply in llama.cpp's form has the ids of all its tokens.

    Tokens that end within a character are left out there (llama.cpp, 2026).
    """
    choice, usage = reply["choices"][0], reply.get("usage") or {}
    is_short = choice.get("finish_reason") == "length" and usage.get("completion_tokens") != count
    return decoded == text and not is_short


def read_values(reply: Any, traits: Traits, ids: Sequence[int]) -> list[tuple[float, bool] | None]:
    """Return (log-probability, is the most likely token) of each token of a prompt.

    Args:
        reply: the server's JSON.
        traits: what the server does.
        ids: the prompt's ids, BOS included, also one that the server adds.

    Returns:
        One entry per id; None where the server has no value, as for the first token.

    Raises:
        EngineError: the reply holds fewer entries than the prompt has tokens.
    """
    choice = only_choice(reply, traits)
    if traits.scoring == "prompt_logprobs":
        entries = _of_prompt_logprobs(choice, traits, ids)
    else:
        entries = _of_echo(choice)
    places = [place - traits.offset for place in range(len(ids))]
    if not entries or places[-1] >= len(entries):
        raise EngineError(
            f"the server returned {len(entries)} log-probabilities for a prompt of {len(ids)} "
            "tokens."
        )
    if not traits.takes_ids and len(entries) > places[-1] + 2:
        raise EngineError(
            f"the server made {len(entries)} tokens of a text that has {len(ids)} here."
        )
    return [entries[place] if place >= 0 else None for place in places]


def _of_prompt_logprobs(
    choice: Mapping[str, Any], traits: Traits, ids: Sequence[int]
) -> list[tuple[float, bool] | None]:
    """Read vLLM's prompt_logprobs, which are keyed by id: the ids must be those of the prompt."""
    found = choice.get("prompt_logprobs") or []
    entries: list[tuple[float, bool] | None] = []
    for place, entry in enumerate(found):
        token = place + traits.offset
        if not entry or not 0 <= token < len(ids):
            entries.append(None)
            continue
        own = entry.get(str(ids[token]))
        if own is None:
            raise EngineError(
                f"the server scored another token than the prompt's at position {token}."
            )
        values = [one["logprob"] for one in entry.values()]
        entries.append((own["logprob"], own["logprob"] >= max(values)))
    return entries


def _of_echo(choice: Mapping[str, Any]) -> list[tuple[float, bool] | None]:
    """Read the log-probabilities of an echoed prompt, and of what was generated after it."""
    logprobs = choice.get("logprobs") or {}
    values = logprobs.get("token_logprobs") or []
    tops = logprobs.get("top_logprobs") or [None] * len(values)
    entries: list[tuple[float, bool] | None] = []
    for value, top in zip(values, tops, strict=False):
        if value is None:
            entries.append(None)
        else:
            entries.append((float(value), not top or value >= max(top.values())))
    return entries


def sum_values(values: Sequence[tuple[float, bool] | None], count: int) -> ScoreReply:
    """Return the score of a prompt's last `count` tokens.

    Raises:
        EngineError: the server has no value for one of them.
    """
    last = values[-count:]
    known = [one for one in last if one is not None]
    if len(known) < len(last):
        raise EngineError("the server returned no log-probability for a token of the continuation.")
    return ScoreReply(sum(value for value, _ in known), all(is_top for _, is_top in known))


def read_choices(reply: Any, traits: Traits, tokens: Sequence[int]) -> list[ScoreReply]:
    """Return the scores of some next tokens, which `choices_body` asked for.

    Raises:
        EngineError: one of them is missing.
    """
    logprobs = only_choice(reply, traits).get("logprobs") or {}
    tops, drawn = logprobs.get("top_logprobs") or [{}], logprobs.get("tokens") or [""]
    values: Mapping[str, float] = tops[0] or {}
    names = [f"{NAMED}{token}" for token in tokens]
    if any(values.get(name) is None for name in names):
        raise EngineError("the server returned no log-probability for a token that was asked for.")
    return [ScoreReply(float(values[name]), drawn[0] == name) for name in names]
