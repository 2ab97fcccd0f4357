"""Shots that come from rows belong to the question's subject, or there are none."""

import pytest

from mistral_eval.data.load import Rows, with_siblings
from mistral_eval.errors import TaskError
from mistral_eval.run.questions import shot_rows, shots_by_subject, up_to_shots_by_subject

DEV = [{"subject": subject, "question": str(n)} for n in range(3) for subject in ("law", "art")]


def test_the_first_rows_of_the_subject_come_in_order():
    sampler = shots_by_subject(DEV, rnd=1)
    chosen = sampler.sample(2, eval_doc={"subject": "art", "question": "new"})
    assert [(row["subject"], row["question"]) for row in chosen] == [("art", "0"), ("art", "1")]
    assert sampler.sample(0, eval_doc={"subject": "art"}) == []


def test_the_seed_changes_nothing():
    question = {"subject": "law", "question": "new"}
    draws = [shots_by_subject(DEV).set_rnd(seed).sample(3, eval_doc=question) for seed in (0, 1234)]
    assert draws[0] == draws[1]


@pytest.mark.parametrize("question", [{"subject": "law"}, {"subject": "music"}, None])
def test_too_few_examples_are_an_error_that_names_the_subject(question):
    subject = question["subject"] if question else None
    with pytest.raises(TaskError, match=f"The subject {subject} should have 4"):
        shots_by_subject(DEV).sample(4, eval_doc=question)


def test_the_dev_rows_stand_beside_the_test_rows():
    columns = {"subject": "text", "question": "text"}
    splits = with_siblings({"test": Rows(DEV[:1], columns), "dev": Rows(DEV, columns)})
    assert list(shot_rows(splits["test"])) == DEV


def test_a_subject_may_have_fewer_shots_where_the_file_says_so():
    few = DEV[:2]
    question = {"subject": few[0]["subject"]}
    shown = up_to_shots_by_subject(few).sample(5, eval_doc=question)
    assert shown == [row for row in few if row["subject"] == question["subject"]]
