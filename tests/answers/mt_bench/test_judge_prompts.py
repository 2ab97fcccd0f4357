"""The judge's prompts: byte for byte those that real judgments were made with."""

import json
from collections import Counter
from pathlib import Path

import pytest

from mistral_eval.answers.mt_bench import judge_prompts
from mistral_eval.answers.mt_bench.judge_prompts import (
    pair_prompt,
    reference_answers,
    single_prompt,
    templates,
)

QUESTION = ("Is {this} a question?", "And [[this]]?")
ANSWERS = ("First {answer}.", "Second %s answer.")
REFERENCES = ("Reference one", "Reference two")


def questions(shared: Path) -> dict[int, list[str]]:
    lines = (shared / "data" / "mt_bench" / "question.jsonl").read_text("utf-8").splitlines()
    return {row["question_id"]: row["turns"] for row in map(json.loads, lines)}


def test_every_stored_prompt_whose_answers_are_stored_is_rebuilt(shared):
    """Compare the digest of each, over all models and all judgments.

    The answers stored for vicuna-7b-v1.3 are partly another set than the judged one, and those of
    Mistral-7B-Instruct-v0.3 are not stored.
    """
    import pandas as pd

    chat = shared / "transcripts" / "chat"
    rows = pd.read_parquet(chat / "mt_bench_answers.parquet")
    answers = {(row.model, row.question_id, row.turn): row.answer for row in rows.itertuples()}
    turns = questions(shared)
    equal, names = Counter(), Counter()
    for row in pd.read_parquet(chat / "mt_bench_judgments.parquet").itertuples():
        if (row.model, row.question_id, 1) not in answers:
            continue
        both = [answers[row.model, row.question_id, turn] for turn in (1, 2)]
        references = reference_answers().get(row.question_id)
        prompt = single_prompt(turns[row.question_id], both, row.turn, references)
        equal[row.model, prompt.digest == row.user_prompt_sha256] += 1
        names[prompt.name == row.judge_prompt] += 1
    assert equal == {
        ("Meta-Llama-3-8B-Instruct-Normal", True): 170,
        ("dolphin-2.2.1-mistral-7b", True): 160,
        ("llama2_chat_7b", True): 160,
        ("mistral-orpo-capybara", True): 160,
        ("vicuna-7b-v1.3", True): 121,
        ("vicuna-7b-v1.3", False): 39,
    }
    assert names == {True: 810}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("judge_prompts.jsonl", "judge_prompts.jsonl"),
        ("reference_answers_gpt-4.jsonl", "reference_answer_gpt-4.jsonl"),
    ],
)
def test_the_data_is_fastchats_to_the_byte(shared, ours, theirs):
    packaged = Path(judge_prompts.__file__).parent / ours
    assert packaged.read_bytes() == (shared / "data" / "mt_bench" / theirs).read_bytes()


def test_questions_101_to_130_have_both_reference_answers():
    assert sorted(reference_answers()) == list(range(101, 131))
    assert all(len(both) == 2 and all(both) for both in reference_answers().values())


@pytest.mark.parametrize(
    ("turn", "references", "name"),
    [
        (1, None, "single-v1"),
        (1, REFERENCES, "single-math-v1"),
        (2, None, "single-v1-multi-turn"),
        (2, REFERENCES, "single-math-v1-multi-turn"),
    ],
)
def test_a_single_prompt_holds_what_its_turn_needs_and_keeps_braces(turn, references, name):
    prompt = single_prompt(QUESTION, ANSWERS, turn, references)
    assert prompt.name == name
    expected = {*QUESTION[:turn], *ANSWERS[:turn], *(references or ())[:turn]}
    others = {*QUESTION, *ANSWERS, *REFERENCES} - expected
    assert all(text in prompt.user for text in expected)
    assert not any(text in prompt.user for text in others)
    assert [message["role"] for message in prompt.messages] == ["system", "user"]


@pytest.mark.parametrize(
    ("turn", "references", "name"),
    [
        (1, None, "pair-v2"),
        (1, REFERENCES, "pair-math-v1"),
        (2, None, "pair-v2-multi-turn"),
        (2, REFERENCES, "pair-math-v1-multi-turn"),
    ],
)
def test_a_pair_prompt_shows_the_first_model_as_a(turn, references, name):
    prompt = pair_prompt(QUESTION, ("one", "two"), ("three", "four"), turn, references)
    assert prompt.name == name
    assert "[[A]]" in prompt.system
    shown = [prompt.user.index(text) for text in (("one", "two")[turn - 1], "three")]
    assert shown == sorted(shown)


def test_the_first_turn_needs_no_second_answer():
    assert single_prompt(QUESTION, ANSWERS[:1], 1) == single_prompt(QUESTION, ANSWERS, 1)


@pytest.mark.parametrize(("turn", "answers"), [(0, ANSWERS), (3, ANSWERS), (2, ANSWERS[:1])])
def test_a_missing_turn_is_an_error(turn, answers):
    with pytest.raises(ValueError, match="expected"):
        single_prompt(QUESTION, answers, turn)


def test_half_a_surrogate_pair_has_a_digest():
    assert len(single_prompt(QUESTION, ("\ud800", ""), 1).digest) == 64


def test_every_template_is_used():
    used = {
        make(QUESTION, *([ANSWERS] * answers), turn, references).name
        for make, answers in ((single_prompt, 1), (pair_prompt, 2))
        for turn in (1, 2)
        for references in (None, REFERENCES)
    }
    assert used == set(templates())
