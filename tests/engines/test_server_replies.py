"""Replies that are not what they should be: each is its question's failure, never a wrong number.

Broken replies are made from a whole one, by putting other values in the place of each of its
parts. Reading one raises EngineError or returns what a log may keep; no other error, which would
end the run.
"""

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

from mistral_eval.engines.interface import GenerationSettings, Reply, can_be_logprob
from mistral_eval.engines.server_body import Traits, choices_body, generation_body, scoring_body
from mistral_eval.engines.server_reading import (
    check_prompt,
    read_choices,
    read_generation,
    read_values,
    sum_values,
)
from mistral_eval.errors import EngineError
from tests.stub_server import BigramModel, Quirks, Stub

PROMPT = [1, 400, 401, 402, 403]
TOKENS = [500, 501, 502]
SETTINGS = GenerationSettings(max_tokens=6)
OTHERS = (
    *(None, "", "x", "token_id:x", -1, 0, 10**9, 1.5, math.nan, math.inf, -math.inf, True),
    *([], {}, [None], ["x"], [{}], [[]], {"x": None}, {"token_id:500": "x"}, {"x": {}}),
)
TRAITS = {
    "prompt_logprobs": Traits("tiny", takes_ids=True, scoring="prompt_logprobs", surplus=0),
    "echo": Traits("tiny", takes_ids=True, scoring="echo", surplus=0),
    "choices": Traits("tiny", takes_ids=True, ids="token_ids", choices=True, surplus=0),
    "token_ids": Traits("tiny", takes_ids=True, extras=True, ids="token_ids", surplus=0),
    "names": Traits("tiny", takes_ids=True, ids="names", surplus=0),
    "content": Traits("tiny", takes_ids=True, ids="content", surplus=0),
    "text": Traits("tiny", takes_ids=True, surplus=0),
}


def reply_of(model: BigramModel, form: str) -> dict[str, Any]:
    """A whole reply of the stub in this form, as it is after its way over the wire."""
    traits = TRAITS[form]
    quirks = Quirks(ids=traits.ids if traits.ids != "none" else "token_ids")
    stub = Stub(model, quirks)
    if form == "choices":
        body = choices_body(traits, PROMPT, TOKENS)
    elif traits.scoring != "none":
        body = scoring_body(traits, PROMPT)
    else:
        body = generation_body(traits, PROMPT, SETTINGS, None)
    status, reply = stub.complete(body)
    stub._server.server_close()
    assert status == 200
    return json.loads(json.dumps(reply))


def read(model: BigramModel, form: str, reply: Any) -> Any:
    """What the engine makes of a reply."""
    traits = TRAITS[form]
    check_prompt(reply, traits, PROMPT)
    if form == "choices":
        return read_choices(reply, traits, TOKENS)
    if traits.scoring != "none":
        return sum_values(read_values(reply, traits, PROMPT), 2)
    return read_generation(reply, traits, SETTINGS, model.tokenizer, PROMPT)


def changed(whole: Any) -> Iterator[tuple[str, Any]]:
    """Yield the whole with another value in the place of each part, and where."""
    yield from ((f"<- {other!r}", other) for other in OTHERS)
    if isinstance(whole, dict):
        for name, part in whole.items():
            yield f".{name} missing", {key: one for key, one in whole.items() if key != name}
            for where, other in changed(part):
                yield f".{name}{where}", {**whole, name: other}
    if isinstance(whole, list):
        yield "[-1] missing", whole[:-1]
        yield "[0] missing", whole[1:]
        yield "[-1] twice", [*whole, *whole[-1:]]
        for place, part in enumerate(whole):
            for where, other in changed(part):
                yield f"[{place}]{where}", [*whole[:place], other, *whole[place + 1 :]]


@pytest.mark.parametrize("form", TRAITS)
def test_a_reply_of_another_form_is_a_failure_or_can_be_kept(made_up, form):
    whole = reply_of(made_up, form)
    assert read(made_up, form, whole)
    refused = []
    for where, reply in changed(whole):
        try:
            found = read(made_up, form, reply)
        except EngineError as error:
            refused.append(str(error))
            continue
        for one in found if isinstance(found, list) else [found]:
            assert can_be_logprob(one.logprob), where
            if isinstance(one, Reply):
                assert isinstance(one.text, str), where
                assert one.finish in {"eos", "stop", "length"}, where
                assert all(0 <= token < made_up.tokenizer.n_words for token in one.ids or ())
    assert len(refused) > 20
    assert max(map(len, refused)) < 300


@pytest.mark.parametrize("reason", ["abort", "error", "content_filter", "cancelled", "timeout"])
@pytest.mark.parametrize("form", ["text", "token_ids", "echo", "choices"])
def test_a_reply_that_was_broken_off_is_a_failure(made_up, form, reason):
    reply = reply_of(made_up, form)
    reply["choices"][0]["finish_reason"] = reason
    with pytest.raises(EngineError, match=f"broke the reply off .finish_reason {reason}"):
        read(made_up, form, reply)


@pytest.mark.parametrize("form", ["text", "token_ids", "names", "content"])
@pytest.mark.parametrize("limit", [3, 9])
def test_a_reply_that_is_not_as_long_as_its_limit_is_a_failure(made_up, form, limit):
    """A server has a limit of its own, or ignores ours: 6 tokens came."""
    reply = reply_of(made_up, form)
    assert reply["choices"][0]["finish_reason"] == "length"
    settings = GenerationSettings(max_tokens=limit)
    with pytest.raises(EngineError, match=f"has 6 tokens, and its limit was {limit}"):
        read_generation(reply, TRAITS[form], settings, made_up.tokenizer, PROMPT)


@pytest.mark.parametrize("form", TRAITS)
@pytest.mark.parametrize("count", [4, 6])
def test_a_prompt_that_was_not_read_whole_is_a_failure(made_up, form, count):
    reply = reply_of(made_up, form)
    reply["usage"]["prompt_tokens"] = count
    with pytest.raises(EngineError, match=f"read {count} tokens of a prompt that has 5"):
        read(made_up, form, reply)


@pytest.mark.parametrize("form", ["token_ids", "names"])
def test_ids_that_lack_the_reply_are_a_failure(made_up, form):
    reply = reply_of(made_up, form)
    reply["choices"][0] |= {"token_ids": [], "logprobs": {"tokens": []}}
    with pytest.raises(EngineError, match="lacks the token ids"):
        read(made_up, form, reply)


def test_an_id_that_the_tokenizer_lacks_is_a_failure(made_up):
    reply = reply_of(made_up, "token_ids")
    reply["choices"][0]["token_ids"][2] = made_up.tokenizer.n_words
    with pytest.raises(EngineError, match="has the token id"):
        read(made_up, "token_ids", reply)
