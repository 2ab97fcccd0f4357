"""The lm-eval model `mistral`, and conversions between lm-eval's instances and our requests.

The model serves stock tasks (`--tasks lm_eval:NAME`) and stock `lm_eval`. A run's own benchmarks do
not use it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Self

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import simple_parse_args_string

from mistral_eval.engines.interface import (
    Engine,
    GenerationSettings,
    Kind,
    Reply,
    Request,
)
from mistral_eval.engines.keys import reply_key
from mistral_eval.settings import OWN_OPTIONS

FEWSHOT_SEED: Final = 1234  # lm-eval's default
DEFAULT_MAX_TOKENS: Final = 256  # lm-eval's default
KINDS: Final[Mapping[str, Kind]] = {
    "loglikelihood": "score",
    "loglikelihood_rolling": "rolling",
    "generate_until": "generate",
}
Answer = Callable[[Sequence[Request]], Sequence[Reply]]


@register_model("mistral")
class MistralLM(LM):
    """An lm-eval model; `answer` returns an engine's replies to requests of one kind, in order."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self._answer = answer

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> Self:
        """Open the engine for `lm_eval --model mistral --model_args pretrained=PATH,dtype=...`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> Self:
        """Open the native engine from lm-eval's model arguments (see `open_native`)."""
        from mistral_eval.engines.native import open_native

        chosen = {k: v for k, v in (additional_config or {}).items() if v is not None}
        arguments = {**arg_dict, **chosen}
        ignored = ("batch_size", "max_batch_size")  # `batch_tokens` replaces them
        options = {name: arguments[name] for name in OWN_OPTIONS if name in arguments}
        fields = {k: v for k, v in arguments.items() if k not in (*options, *ignored)}
        return cls(partial(ask, open_native(**options, model_args=fields)))

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Return each continuation's log-likelihood and whether it is the greedy continuation."""
        replies = self._answer(requests_of(requests))
        return [(reply.logprob, reply.is_greedy) for reply in replies]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Return the log-likelihood of each whole text, in windows of the context length."""
        return [reply.logprob for reply in self._answer(requests_of(requests))]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return the continuation of each prompt, cut at its stop strings."""
        return [reply.text for reply in self._answer(requests_of(requests))]


def requests_of(instances: Iterable[Instance]) -> list[Request]:
    """Convert instances as lm-eval passes them to a model.

    lm-eval requests k samples by passing the same instance k times; occurrence n is sample n.
    """
    seen: Counter[int] = Counter()
    requests = []
    for instance in instances:
        requests.append(request_of(instance, seen[id(instance)]))
        seen[id(instance)] += 1
    return requests


def request_of(
    instance: Instance, sample: int = 0, settings: GenerationSettings | None = None
) -> Request:
    """Convert one of lm-eval's instances; `settings` avoids parsing its generation arguments."""
    kind = KINDS[instance.request_type]
    context, *rest = instance.args
    return Request(
        benchmark=str(instance.task_name),
        doc_id=instance.doc_id or 0,
        choice=0 if kind == "generate" else instance.idx,
        sample=sample,
        kind=kind,
        context=context,
        continuation=rest[0] if kind == "score" else "",
        settings=(settings or settings_of(rest[0])) if kind == "generate" else None,
    )


def settings_of(gen_kwargs: Mapping[str, Any]) -> GenerationSettings:
    """Convert lm-eval's generation arguments; without `do_sample` decoding is greedy."""
    given = normalize_gen_kwargs(dict(gen_kwargs), DEFAULT_MAX_TOKENS)
    until = given.pop("until", None) or ()
    is_sampled = bool(given.pop("do_sample", False))
    temperature = float(given.pop("temperature", 1.0))
    top_p, top_k = float(given.pop("top_p", 1.0)), int(given.pop("top_k", 0))
    return GenerationSettings(
        until=tuple(s for s in ([until] if isinstance(until, str) else until) if s),
        max_tokens=int(given.pop("max_gen_toks")),
        temperature=temperature if is_sampled else 0.0,
        top_p=top_p if is_sampled else 1.0,
        top_k=top_k if is_sampled else 0,
        other=tuple(sorted(given.items())),
    )


def instance_of(request: Request) -> Instance:
    """Convert a request to an lm-eval instance, for lm-eval's own models."""
    arguments: tuple[Any, ...] = (request.context,)
    if request.kind == "score":
        arguments = (request.context, request.continuation)
    elif request.kind == "generate":
        settings = request.generation
        sampled = {"top_p": settings.top_p, "top_k": settings.top_k} if settings.is_sampled else {}
        generation = {
            "until": list(settings.until),
            "max_gen_toks": settings.max_tokens,
            "do_sample": settings.is_sampled,
            "temperature": settings.temperature,
            **sampled,
            **dict(settings.other),
        }
        arguments = (request.context, generation)
    (kind,) = (theirs for theirs, ours in KINDS.items() if ours == request.kind)
    names = (request.benchmark, request.doc_id, 1)
    return Instance(kind, {}, arguments, request.choice, metadata=names)


def ask(engine: Engine, requests: Sequence[Request]) -> list[Reply]:
    """Return an engine's replies to requests of one kind, in order; compute equal ones once."""
    encoded = [engine.encode(request) for request in requests]
    keys = [reply_key(engine.identity, item) for item in encoded]
    unique = dict(zip(keys, encoded, strict=True))
    places = list(unique)
    found = {places[n]: reply for n, reply in engine.answer(list(unique.values()))}
    return [found[key] for key in keys]
