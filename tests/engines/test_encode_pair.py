"""Context and continuation in ids: encoded together, split where lm-eval splits."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.model import TemplateLM

from mistral_eval.data import make_source
from mistral_eval.native.requests import ScoreRequest
from mistral_eval.run.questions import Asking, load_benchmarks
from mistral_eval.suite.registry import BENCHMARKS

BOS, SPACE, A = 1, 28705, 330
TEXT = st.text(alphabet=st.sampled_from("ab A\n.:é€\u3000'"), max_size=12) | st.text(max_size=8)


def test_bos_opens_the_context_and_is_nowhere_else(tiny):
    context, continuation = tiny.encode_pair("<s> in a text is text", " and </s> too")
    assert context[0] == BOS
    assert (context + continuation).count(BOS) == 1


def test_an_a_after_a_colon_is_one_token_and_after_nothing_it_is_two(tiny):
    assert tiny.encode_pair("Answer:", " A")[1] == (A,)
    assert tiny.encode_pair("", " A") == ((BOS,), (SPACE, A))


def test_a_choice_of_two_tokens_scores_the_sum_of_both(tiny, ask):
    """And is greedy only if each of the two is."""
    prepared = tiny.encode(ask("", " A"))
    ((_, reply),) = tiny.answer([prepared])
    parts = [ScoreRequest((BOS,), (SPACE,)), ScoreRequest((BOS, SPACE), (A,))]
    scores = dict(tiny.runner.score(parts))
    assert reply.logprob == pytest.approx(scores[0].logprob + scores[1].logprob, abs=1e-5)
    assert reply.is_greedy == (scores[0].is_greedy and scores[1].is_greedy)
    assert scores[0].logprob < 0
    assert scores[1].logprob < 0


def test_trailing_spaces_of_the_context_belong_to_the_continuation(tiny):
    assert tiny.encode_pair("Answer: ", "A") == tiny.encode_pair("Answer:", " A")
    assert tiny.encode_pair("Answer:\n ", "A") == tiny.encode_pair("Answer:", "\n A")
    assert tiny.encode_pair("  ", "A") == tiny.encode_pair("", "  A")


def test_an_empty_context_is_bos_alone(tiny):
    whole = tuple(tiny.tokenizer.encode("Mistral", bos=False))
    assert tiny.encode_pair("", "Mistral") == ((BOS,), whole)


@pytest.mark.parametrize(("context", "continuation"), [("ha", "ve"), ("a", "b"), ("<", "=")])
def test_where_both_melt_into_one_token_the_split_is_before_it(tiny, context, continuation):
    """lm-eval's rule alone leaves nothing of the continuation."""
    whole = tiny.tokenizer.encode(context + continuation, bos=True)
    assert len(whole) == len(tiny.tokenizer.encode(context, bos=True))
    assert tiny.encode_pair(context, continuation) == (tuple(whole[:-1]), tuple(whole[-1:]))


@settings(max_examples=300)
@given(context=TEXT, continuation=TEXT.filter(bool))
def test_the_halves_make_the_whole_and_neither_is_empty(tiny, context, continuation):
    first, second = tiny.encode_pair(context, continuation)
    assert list(first + second) == tiny.tokenizer.encode(context + continuation, bos=True)
    assert first
    assert second
    assert first[0] == BOS


@pytest.mark.parametrize("benchmark", [one.id for one in BENCHMARKS if not one.is_chat])
def test_every_request_of_the_sample_is_split_as_lm_eval_splits_it(tiny, benchmark):
    """A generation's prompt is followed by its gold answer here."""
    tokenizer = tiny.tokenizer
    theirs = SimpleNamespace(
        backend="causal", tok_encode=lambda text: tokenizer.encode(text, bos=True)
    )
    (loaded,) = load_benchmarks(
        [benchmark], Asking(make_source("sample"), None, None, unpinned=False)
    )
    pairs = [
        _pair(loaded.task, question.doc, request)
        for question in loaded.questions
        for request in question.requests
    ]
    assert len(pairs) >= 16
    for context, continuation in pairs:
        expected = TemplateLM._encode_pair(theirs, context, continuation)
        ours = tiny.encode_pair(context, continuation)
        assert (list(ours[0]), list(ours[1])) == expected
        assert (ours[0] + ours[1]).count(BOS) == 1


def _pair(task, doc, request):
    if request.kind == "score":
        return request.context, request.continuation
    target = task.doc_to_target(doc)
    return request.context, f" {target[0] if isinstance(target, list) else target}"
