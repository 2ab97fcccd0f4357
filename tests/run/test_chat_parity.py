"""Benchmarks as conversations: lm-eval's own `--apply_chat_template`, request by request.

lm-eval's part is its requests with its `hf` model's template and its evaluator; ours is the
conversation, rendered by the same template, and the native engine.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM

from mistral_eval.data import make_source
from mistral_eval.engines.lm_eval_model import ask
from mistral_eval.engines.native import open_native
from mistral_eval.model.chat.messages import Messages
from mistral_eval.model.chat.template_format import Template, TemplateFormat
from mistral_eval.model.export import save_hf
from mistral_eval.model.tiny import make_tiny, tiny_tokenizer_file
from mistral_eval.run.questions import Asking, load_benchmarks
from mistral_eval.suite.registry import BY_ID, PAPER
from tests.chat_files import CHATML, UPDATED, add_template, save_shape

pytestmark = pytest.mark.slow

TEMPLATES = {"chatml": CHATML, "mistral": UPDATED}
QUESTIONS = 2
SCORED = ("mmlu", "winogrande", "piqa", "arc_easy")
WAYS = [(True, None), (False, "Be brief.")]


def asking(is_multiturn: bool = True, system: str | None = None) -> Asking:
    return Asking(
        make_source("sample"),
        QUESTIONS,
        None,
        unpinned=False,
        is_chat=True,
        is_multiturn=is_multiturn,
        system=system,
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """The tiny model with each template."""
    found = {}
    for name, template in TEMPLATES.items():
        folder = save_hf(make_tiny(), tmp_path_factory.mktemp(name), tokenizer_file=None)
        save_shape(tiny_tokenizer_file(), folder, "metaspace")
        found[name] = add_template(folder, template)
    return found


@pytest.fixture(scope="module")
def theirs(folders) -> dict[str, HFLM]:
    """lm-eval's models; without BOS of their own where the template writes none."""
    return {
        name: HFLM(
            pretrained=str(folder),
            device="cpu",
            dtype="float32",
            add_bos_token="bos_token" in TEMPLATES[name],
        )
        for name, folder in folders.items()
    }


@pytest.mark.parametrize(("is_multiturn", "system"), WAYS)
def test_prompts_are_lm_evals(theirs, is_multiturn, system):
    """Every prompt as text, and every continuation."""
    for loaded in load_benchmarks([*PAPER, "siqa", "bbh"], asking(is_multiturn, system)):
        for template, lm in theirs.items():
            compare(loaded, lm, TEMPLATES[template], is_multiturn=is_multiturn, system=system)


def compare(loaded, lm: HFLM, template: str, *, is_multiturn: bool, system: str | None) -> None:
    """Compare a benchmark's requests with those that lm-eval builds for its model."""
    task = loaded.task
    task.build_all_requests(
        samples=[question.doc_id for question in loaded.questions],
        system_instruction=system,
        apply_chat_template=True,
        fewshot_as_multiturn=is_multiturn,
        chat_template=lm.apply_chat_template,
        tokenizer_name="",
    )
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    own = TemplateFormat(open_tokenizer(lm), Template(template, "test", tokens))
    ours = [request for request in loaded.requests if not request.sample]

    assert len(ours) == len(task.instances) > 0
    for request, instance in zip(ours, task.instances, strict=True):
        assert isinstance(request.context, Messages)
        assert own.render(request.context) == instance.args[0]
        if request.kind == "score":
            assert request.continuation == instance.args[1]


@cache
def open_tokenizer(lm: HFLM):
    """Our tokenizer of the folder that lm-eval's model was loaded from."""
    from mistral_eval.model.tokenizers.tokenizer import ANY_VOCAB, load_tokenizer

    return load_tokenizer(Path(lm.tokenizer.name_or_path), expected_vocab=ANY_VOCAB)


@pytest.mark.parametrize("template", TEMPLATES)
def test_log_likelihoods_are_lm_evals(theirs, folders, template):
    native = open_native(str(folders[template]), device="cpu", chat_template="folder")
    loaded = list(load_benchmarks(SCORED, asking()))
    found = evaluate(
        theirs[template],
        {"tasks": {one.benchmark.id: one.task for one in loaded}},
        samples={one.benchmark.id: [q.doc_id for q in one.questions] for one in loaded},
        bootstrap_iters=1,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
    )
    for one in loaded:
        rows = found["samples"][one.benchmark.id]
        assert len(rows) == QUESTIONS
        for question, row in zip(one.questions, rows, strict=True):
            ours = [reply.logprob for reply in ask(native, question.requests)]
            assert ours == pytest.approx([ll for ((ll, _),) in row["resps"]], abs=1e-4)


def test_every_benchmark_can_be_asked_as_a_conversation():
    for loaded in load_benchmarks([*BY_ID], replace(asking(), limit=1)):
        for request in loaded.requests:
            assert isinstance(request.context, Messages), request
            assert request.context.turns[-1][0] == "user"


def test_what_is_scored_without_the_question_is_a_conversation_too():
    (loaded,) = load_benchmarks(["boolq"], asking(system="Be brief."))
    first = loaded.questions[0].requests
    asked, alone = loaded.benchmark.halves(first)

    assert [one.continuation for one in alone] == [one.continuation for one in asked]
    text = loaded.benchmark.unconditional
    assert {one.context for one in alone} == {Messages((("user", text),), "Be brief.")}
