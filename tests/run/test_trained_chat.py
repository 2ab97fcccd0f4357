"""A trained chat model in conversation: its template's ids, and whole runs of chat benchmarks."""

import pytest
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

from mistral_eval.console import Talk
from mistral_eval.data import make_source
from mistral_eval.engines.lm_eval_model import ask
from mistral_eval.engines.native import open_native
from mistral_eval.model.chat.choose_format import PROBES, choose_format
from mistral_eval.record.run_record import read_run
from mistral_eval.run.questions import Asking, load_benchmarks
from mistral_eval.run.run import run_suite
from mistral_eval.settings import RunSettings

pytestmark = [pytest.mark.trained, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def native(trained):
    return open_native(str(trained), device="cpu", dtype="float32")


def test_ids_are_those_of_transformers(trained, native):
    """Transformers loses SmolLM's splitting of digits (huggingface/transformers#45701)."""
    theirs = AutoTokenizer.from_pretrained(trained.parent, gguf_file=trained.name)
    theirs.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    ours = choose_format("auto", native.tokenizer, trained, trained).format
    asking = Asking(make_source("sample"), 4, None, unpinned=False, is_chat=True)
    asked = [one.context for b in load_benchmarks(["mmlu", "gsm8k"], asking) for one in b.requests]
    for messages in (*PROBES.values(), *asked):
        continues = bool(messages.prefix)
        assert ours.encode(messages) == theirs.apply_chat_template(
            messages.as_dicts(),
            add_generation_prompt=not continues,
            continue_final_message=continues,
            return_dict=False,
        )


def test_it_answers_a_question_and_ends(native):
    (loaded,) = load_benchmarks(
        ["nq"], Asking(make_source("sample"), 2, None, unpinned=False, is_chat=True)
    )
    for reply in ask(native, loaded.requests):
        assert reply.text.strip()
        assert not reply.text.startswith(" ")


def test_it_answers_prompts_with_and_without_a_system_prompt(trained, tmp_path):
    """8 questions each: the safe ones are answered, and the notes say how it was asked."""
    shared = {"tasks": ("xstest", "moderation"), "model": str(trained), "dtype": "float32"}
    runs = {}
    for prompt in ("none", "mistral"):
        given = {**shared, "system_prompt": prompt, "data": "sample", "limit": 8, "device": "cpu"}
        folder = run_suite(RunSettings(**given, output_path=tmp_path), Talk(quiet=True))
        runs[prompt] = read_run(folder)

    none, mistral = runs["none"], runs["mistral"]
    assert none["scores"]["xstest"]["asked_as"] == ""
    assert mistral["scores"]["xstest"]["asked_as"] == "with the system prompt mistral"
    assert mistral["counts"]["from_other_runs"] == 0
    for run in runs.values():
        assert any("asked in the chat template (by" in note for note in run["notes"])
        notes = run["scores"]["xstest"]["notes"]
        assert any(note.startswith("XSTest: any refusal of safe prompts: ") for note in notes)
        assert run["scores"]["xstest"]["n"] == 8
