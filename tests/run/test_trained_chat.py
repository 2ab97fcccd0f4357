"""A trained chat model in conversation: its template's ids, and whole runs of chat benchmarks."""

import threading
from dataclasses import replace

import pytest
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

from mistral_eval.console import Talk
from mistral_eval.data import make_source
from mistral_eval.engines.interface import GenerationSettings, Request
from mistral_eval.engines.lm_eval_model import ask, settings_of
from mistral_eval.engines.native import open_native
from mistral_eval.model.chat.choose_format import PROBES, choose_format
from mistral_eval.model.chat.messages import Messages
from mistral_eval.record.fastchat import read_pair_judgments
from mistral_eval.record.run_record import read_run
from mistral_eval.report.table.pair_tables import pair_results
from mistral_eval.run.asking_judge import ATTEMPTS
from mistral_eval.run.pairing import compare_answers
from mistral_eval.run.questions import Asking, load_benchmarks
from mistral_eval.run.run import rescore, run_suite
from mistral_eval.settings import RunSettings
from mistral_eval.suite.conversations import MT_BENCH
from tests.judge_server import JudgeServer, said

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


def test_it_answers_prompts_with_a_system_prompt(trained, tmp_path):
    """8 questions of each benchmark; the notes say how they were asked and what was refused."""
    settings = RunSettings(
        tasks=("xstest", "moderation"),
        model=str(trained),
        device="cpu",
        dtype="float32",
        data="sample",
        limit=8,
        system_prompt="mistral",
        output_path=tmp_path,
    )
    run = read_run(run_suite(settings, Talk(quiet=True)))
    score = run["scores"]["xstest"]

    assert (score["n"], score["asked_as"]) == (8, "with the system prompt mistral")
    assert any("asked in the chat template (by" in note for note in run["notes"])
    assert any(one.startswith("XSTest: any refusal of safe prompts: ") for one in score["notes"])
    assert run["scores"]["moderation"]["n"] == 8


def test_it_answers_two_turns_and_judges_itself(trained, native, tmp_path, monkeypatch):
    """Its ratings are worthless; the run must say how many could not be read.

    Replies are cut at 32 tokens, because the protocol's 1024 take minutes each on a slow machine.
    """
    monkeypatch.setattr(
        "mistral_eval.run.questions.settings_of",
        lambda kwargs: replace(settings_of(kwargs), max_tokens=32),
    )
    busy = threading.Lock()

    def judge(number, body):
        asked = Messages.of(body["messages"])
        request = Request(
            "judge", number, 0, 0, "generate", asked, settings=GenerationSettings(max_tokens=12)
        )
        with busy:
            (reply,) = ask(native, [request])
        return said(reply.text, "smollm2")

    with JudgeServer(judge) as server:
        settings = RunSettings(
            tasks=(MT_BENCH.id,),
            model=str(trained),
            device="cpu",
            data="sample",
            limit=2,
            output_path=tmp_path,
            judge_url=server.url,
            judge_model="smollm2",
        )
        folder = run_suite(settings, Talk(quiet=True))
        asked = len(server.asked)
    run = read_run(folder)
    ratings, notes = run["ratings"][MT_BENCH.id], " ".join(run["scores"][MT_BENCH.id]["notes"])
    unread = [row for row in ratings["rows"] if row["ours"] is None]

    assert run["scores"][MT_BENCH.id]["correct"] == 2
    assert len(ratings["rows"]) == 4
    assert ratings["asked"] == asked == 4 + (ATTEMPTS - 1) * len(unread)
    assert (f"{len(unread)} of 4 judgments hold no readable rating" in notes) == bool(unread)
    assert "rated from 1 to 10 by smollm2, read by our rule" in notes
    rescore(folder, Talk(quiet=True), unsafe_code=False)
    assert read_run(folder)["ratings"] == run["ratings"]


def test_the_model_judges_in_this_process_alone_and_in_pairs(trained, tmp_path, monkeypatch):
    """Its judgments are worthless, and the harness says how many it could not read."""
    monkeypatch.setattr("mistral_eval.answers.mt_bench.judge_prompts.JUDGE_TOKENS", 24)
    fields = {"tasks": (MT_BENCH.id,), "engine": "random", "data": "sample", "limit": 1}
    fields |= {"output_path": tmp_path, "device": "cpu"}
    judge = {"judge_model": str(trained), "judge_engine": "native"}
    first, second = RunSettings(**fields, **judge, seed=0), RunSettings(**fields, seed=1)
    folder, other = run_suite(first, Talk(quiet=True)), run_suite(second, Talk(quiet=True))
    ratings = read_run(folder)["ratings"][MT_BENCH.id]
    file = compare_answers(folder, other, first, Talk(quiet=True))
    (found,) = pair_results(file)
    lines = read_pair_judgments(file)

    assert ratings["judge"] == found.judge
    assert ratings["judge"].startswith(f"{trained.name} (native, ")
    assert (len(ratings["rows"]), ratings["asked"]) == (2, 2)
    assert all(line.g1_judgment.strip() and line.g2_judgment.strip() for line in lines)
    assert found.score.unread == sum("error" in (line.g1_winner, line.g2_winner) for line in lines)
    assert found.score.wins + found.score.losses + found.score.ties + found.score.unread == 2
