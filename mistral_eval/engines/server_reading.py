"""How the replies of `/v1/completions` are read, of servers that differ.

Token positions are those of the ids that our tokenizer makes, BOS included, whatever the server
echoes. A reply of another form is an EngineError, never another exception: it ends one request.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mistral_eval.engines.interface import GenerationSettings, Reply, can_be_logprob
from mistral_eval.engines.server_body import NAMED, Traits
from mistral_eval.errors import EngineError, as_found
from mistral_eval.model.tokenizers.incremental import continuation_text
from mistral_eval.model.tokenizers.tokenizer import Tokenizer
from mistral_eval.native.requests import ScoreReply

# How servers end a reply that is not complete, with status 200 all the same.
BROKEN_OFF: Final = ("abort", "aborted", "cancelled", "content_filter", "error", "timeout")
SHOWN: Final = 60  # characters of a value that a message shows


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
    ended = choice.get("finish_reason")
    if ended in BROKEN_OFF:
        raise EngineError(f"the server broke the reply off (finish_reason {ended}).")
    return choice


def count_of(reply: Any, name: str) -> int | None:
    """Return a count of tokens that the server gives with a reply; None if it does not say."""
    usage = reply.get("usage") if isinstance(reply, dict) else None
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and count > 0 else None


def check_prompt(reply: Any, traits: Traits, ids: Sequence[int]) -> None:
    """Check that the server has read a prompt as it was sent.

    Some servers cut a prompt that is too long for them, and say so only by their count. A text may
    become more tokens there than here.

    Raises:
        EngineError: it has read fewer tokens, or more than the ids that were sent.
    """
    used = count_of(reply, "prompt_tokens")
    if used is None or traits.surplus is None:
        return
    more = used - traits.surplus - len(ids)
    if more < 0 or (more and traits.takes_ids):
        raise EngineError(
            f"the server read {used - traits.surplus} tokens of a prompt that has {len(ids)}. If "
            "its context is shorter than it says, give `--model-args max_length=N`."
        )


def reply_ids(choice: Mapping[str, Any], traits: Traits) -> tuple[int, ...] | None:
    """Return the ids of a generated reply, EOS included; None if the server returns none.

    Raises:
        EngineError: the server returned ids in the probe and returns none now.
    """
    if traits.ids == "none":
        return None
    found: list[Any] | None = None
    if traits.ids == "token_ids":
        found = _list(choice.get("token_ids"))
    elif traits.ids == "content":
        # without any where a stop string began in the first token
        tokens = _content(choice) if choice.get("logprobs") else []
        if tokens is not None:
            return tuple(_id(one.get("id")) for one in tokens)
    else:
        names = _object(choice.get("logprobs")).get("tokens")
        if names is not None:
            found = [_id_within(name) for name in _list(names)]
    if not found and (found is None or choice.get("text")):
        raise EngineError("the server's reply lacks the token ids that its earlier replies had.")
    return tuple(map(_id, found))


def reply_logprobs(choice: Mapping[str, Any]) -> list[float | None]:
    """Return the log-probabilities of a reply's tokens as the server gives them; maybe empty."""
    tokens = _content(choice)
    if tokens is not None:
        return [_nats(one.get("logprob")) for one in tokens]
    return [_nats(one) for one in _list(_object(choice.get("logprobs")).get("token_logprobs"))]


def _content(choice: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    """Return the tokens in the form of chat completions, which llama.cpp uses for both."""
    found = _object(choice.get("logprobs")).get("content")
    is_list = isinstance(found, list) and all(isinstance(one, dict) for one in found)
    return found if is_list else None


def _object(value: Any) -> Mapping[str, Any]:
    """Return an object of a reply's; an empty one where it has none.

    Raises:
        EngineError: it is something else.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _other_form(value, "an object")
    return value


def _list(value: Any) -> list[Any]:
    """Return a list of a reply's; an empty one where it has none."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise _other_form(value, "a list")
    return value


def _id(value: Any) -> int:
    """Return a token id of a reply's."""
    if type(value) is not int or value < 0:
        raise _other_form(value, "a token id")
    return value


def _id_within(name: Any) -> int:
    """Return the id in a token's name, as `NAMED` has it."""
    digits = name.removeprefix(NAMED) if isinstance(name, str) else ""
    if digits == name or not (digits.isascii() and digits.isdigit()):
        raise EngineError("the server's reply lacks the token ids that its earlier replies had.")
    return int(digits)


def _nats(value: Any) -> float | None:
    """Return a log-probability of a reply's, as a number; None where it has none."""
    if value is None:
        return None
    if type(value) not in (int, float) or not can_be_logprob(value):
        raise _other_form(value, "a finite log-probability of at most 0")
    return float(value)


def _other_form(value: Any, expected: str) -> EngineError:
    found = as_found(value)
    return EngineError(
        f"the server's reply should hold {expected} and holds {found[:SHOWN]} in its place."
    )


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

    Raises:
        EngineError: the reply has another form, or is shorter or longer than it should be.
    """
    choice = only_choice(reply, traits)
    ids = reply_ids(choice, traits)
    ended = choice.get("finish_reason")
    is_eos, text = False, choice.get("text")
    count = count_of(reply, "completion_tokens") or 0
    if ids is not None:
        if any(one >= tokenizer.n_words for one in ids):
            raise EngineError(
                f"the server's reply has the token id {max(ids)}, and the tokenizer here has "
                f"{tokenizer.n_words} ids."
            )
        ends = [ids.index(one) for one in tokenizer.eos_ids if one in ids]
        is_eos = bool(ends)
        ids = ids[: min(ends)] if ends else ids
        decoded = continuation_text(tokenizer, prompt, ids)
        count = max(count, len(ids))
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
    is_short = finish == "length" and 0 < count < settings.max_tokens
    if is_short or count > settings.max_tokens:
        raise EngineError(
            f"the server's reply has {count} tokens, and its limit was {settings.max_tokens}. "
            "Check the server's own limit of new tokens, and its context."
        )
    return Reply(text=cut, ids=ids, finish=finish)


def read_first(reply: Any, traits: Traits, among: Sequence[int]) -> int:
    """Return the one token of a reply that was to be drawn among given ones.

    Raises:
        EngineError: the reply has another form, or another token.
    """
    ids = reply_ids(only_choice(reply, traits), traits) or ()
    if len(ids) != 1 or ids[0] not in among:
        found = ", ".join(map(str, ids[:4])) or "none"
        raise EngineError(
            f"the server's reply should be one of the {len(among)} tokens that it was allowed, and "
            f"its token ids are {found}."
        )
    return ids[0]


def _has_all_ids(reply: Any, text: Any, decoded: str, count: int) -> bool:
    """Return whether a reply in llama.cpp's form has the ids of all its tokens.

    Tokens that end within a character are left out there (llama.cpp, 2026).
    """
    choice = reply["choices"][0]
    is_short = (
        choice.get("finish_reason") == "length" and count_of(reply, "completion_tokens") != count
    )
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
    entries: list[tuple[float, bool] | None] = []
    for place, entry in enumerate(_list(choice.get("prompt_logprobs"))):
        token = place + traits.offset
        if not entry or not 0 <= token < len(ids):
            entries.append(None)
            continue
        named = {name: _object(one).get("logprob") for name, one in _object(entry).items()}
        if named.get(str(ids[token])) is None:
            raise EngineError(
                f"the server scored another token than the prompt's at position {token}."
            )
        entries.append(_entry(named[str(ids[token])], named))
    return entries


def _of_echo(choice: Mapping[str, Any]) -> list[tuple[float, bool] | None]:
    """Read the log-probabilities of an echoed prompt, and of what was generated after it."""
    logprobs = _object(choice.get("logprobs"))
    values = _list(logprobs.get("token_logprobs"))
    tops = _list(logprobs.get("top_logprobs")) or [None] * len(values)
    return [
        None if value is None else _entry(value, _object(top))
        for value, top in zip(values, tops, strict=False)
    ]


def _entry(value: Any, top: Mapping[str, Any]) -> tuple[float, bool]:
    """Return a token's log-probability, and whether it is that of the most likely ones.

    Raises:
        EngineError: the most likely one is not told.
    """
    own = _nats(value)
    others = [one for one in map(_nats, top.values()) if one is not None]
    if own is None or not others:
        raise EngineError("the server does not tell the most likely token beside a prompt's token.")
    return own, own >= max(others)


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
    logprobs = _object(only_choice(reply, traits).get("logprobs"))
    tops, drawn = _list(logprobs.get("top_logprobs")), _list(logprobs.get("tokens"))
    values = _object(tops[0]) if tops else {}
    names = [f"{NAMED}{token}" for token in tokens]
    found = [_nats(values.get(name)) for name in names]
    known = [one for one in found if one is not None]
    if len(known) < len(names) or not drawn:
        raise EngineError("the server returned no log-probability for a token that was asked for.")
    return [ScoreReply(value, drawn[0] == name) for name, value in zip(names, known, strict=True)]
