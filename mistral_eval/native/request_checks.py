"""What an engine refuses before it computes anything: one sentence, naming the request's index."""

from collections.abc import Sequence

from mistral_eval.errors import EngineError, RequestError
from mistral_eval.native.requests import GenerateRequest, Sampling, ScoreRequest


def check_score_requests(requests: Sequence[ScoreRequest], context_len: int, n_words: int) -> None:
    """Refuse what cannot be scored.

    Raises:
        EngineError: an empty context or continuation, a sequence longer than the model's context,
            or an id that the tokenizer does not have.
    """
    checked = None  # neighbours are choices of one question, with one tuple of ids
    for n, request in enumerate(requests):
        where = f"score request {n}"
        if not request.context:
            raise EngineError(f"{where} has an empty context: begin it with BOS")
        if not request.continuation:
            raise EngineError(f"{where} has an empty continuation: there is nothing to score")
        fed = len(request.context) + len(request.continuation) - 1
        if fed > context_len:
            raise EngineError(
                f"{where} feeds {fed} tokens, the model's context has {context_len}: "
                "cut it with truncate_left first"
            )
        if request.context is not checked:
            _check_ids(request.context, n_words, where)
            checked = request.context
        _check_ids(request.continuation, n_words, where)


def check_generate_requests(
    requests: Sequence[GenerateRequest], context_len: int, n_words: int
) -> None:
    """Refuse what cannot be generated.

    Raises:
        EngineError: an empty prompt, a negative number of tokens, a sequence longer than the
            model's context, an unknown id, or impossible sampling settings.
    """
    for n, request in enumerate(requests):
        where = f"generate request {n}"
        if not request.prompt:
            raise EngineError(f"{where} has an empty prompt: begin it with BOS")
        if request.max_tokens < 0:
            raise EngineError(f"{where} asks for {request.max_tokens} tokens; expected 0 or more")
        if len(request.prompt) + request.max_tokens > context_len:
            raise EngineError(
                f"{where}: a prompt of {len(request.prompt)} and {request.max_tokens} new tokens "
                f"exceed the model's context of {context_len}: cut it with truncate_prompt first"
            )
        _check_ids(request.prompt, n_words, where)
        check_sampling(request.sampling)


def check_sampling(sampling: Sampling) -> None:
    """Refuse settings that draw from nothing.

    Raises:
        EngineError: temperature below 0, top_p outside (0, 1], or top_k below 0.
    """
    if sampling.temperature < 0 or not 0 < sampling.top_p <= 1 or sampling.top_k < 0:
        raise EngineError(
            "expected temperature >= 0, 0 < top_p <= 1 and top_k >= 0, found "
            f"{sampling.temperature}, {sampling.top_p} and {sampling.top_k}"
        )


NOT_FINITE = (
    "the model's logits are not finite; check the checkpoint's weights, or use a dtype with more "
    "range (bfloat16 or float32 instead of float16)"
)


def not_finite(kind: str, index: int) -> RequestError:
    """The error for a logit that is NaN or infinite."""
    return RequestError(kind, index, NOT_FINITE)


def _check_ids(ids: Sequence[int], n_words: int, where: str) -> None:
    lowest, highest = min(ids), max(ids)
    if lowest < 0 or highest >= n_words:
        raise EngineError(
            f"{where}: expected ids in 0 ... {n_words - 1}, found {lowest} ... {highest}"
        )
