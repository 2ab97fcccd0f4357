"""Rows and replies become programs whose checks never come from the reply."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistral_eval.answers.completions import (
    continued_program,
    pass_at_k,
    program_verdict,
    whole_program,
)
from mistral_eval.answers.verdict import Outcome

PROBLEM = {
    "task_id": "HumanEval/38",
    "prompt": "def encode_cyclic(s):\n    return s\n\n\ndef decode_cyclic(s):\n    '''D'''\n",
    "test": "def check(candidate):\n    assert candidate(encode_cyclic('a')) == 'a'\n",
    "entry_point": "decode_cyclic",
    "canonical_solution": "    return s\n",
}
ROW = {
    "task_id": 82,
    "test_imports": ["import math"],
    "test_list": np.array(["assert math.isclose(volume(10), 4188.79, rel_tol=0.001)"]),
}


def test_a_humaneval_reply_continues_the_prompt():
    program = continued_program(PROBLEM, "    return s\n")

    assert program.source == PROBLEM["prompt"] + "    return s\n"
    assert program.checks == (PROBLEM["test"], "check(decode_cyclic)")
    assert (program.id, program.names) == ("HumanEval/38", ("decode_cyclic",))


def test_the_checker_of_humaneval_sees_the_prompt_and_nothing_of_the_reply():
    program = continued_program(PROBLEM, "    return 'reply'\n")

    assert program.context == PROBLEM["prompt"]
    assert "reply" not in "".join(program.checks)


def test_the_untrusted_part_of_mbpp_holds_no_assert():
    program = whole_program(ROW, "def volume(r): return 0")

    assert program.source == "def volume(r): return 0"
    assert program.setup == "import math"
    assert program.checks == tuple(ROW["test_list"])


def test_the_names_of_mbpp_come_from_the_asserts():
    assert whole_program(ROW, "").names == ("volume",)


def test_a_function_named_like_a_built_in_is_the_programs():
    row = {"task_id": 126, "test_imports": [], "test_list": ["assert sum(10,15) == 6"]}

    assert whole_program(row, "").names == ("sum",)


def test_built_in_functions_around_the_call_stay_the_checkers():
    row = {"task_id": 2, "test_imports": [], "test_list": ["assert set(f((3,))) == set((3,))"]}

    assert whole_program(row, "").names == ("f",)


def test_set_up_code_of_the_full_config_runs_after_the_reply_and_its_names_are_the_programs():
    setup = "import copy\nroot = Node(1)\nroot.left = Node(2)"
    row = {"task_id": 367, "test_setup_code": setup, "test_list": ["assert f(copy.copy(root))"]}
    program = whole_program(row, "class Node: ...")

    assert (program.setup, program.context) == (setup, "import copy")
    assert set(program.names) == {"f", "root"}


@pytest.mark.parametrize(
    ("reply", "status", "outcome"),
    [
        ("x", "passed", Outcome.CORRECT),
        ("x", "failed", Outcome.WRONG),
        ("x", "error", Outcome.WRONG),
        ("x", "out_of_memory", Outcome.WRONG),
        ("x", "killed", Outcome.WRONG),
        ("x", "timeout", Outcome.TIMEOUT),
        (" \n", "error", Outcome.NO_ANSWER),
    ],
)
def test_a_status_becomes_an_outcome(reply, status, outcome):
    assert program_verdict(reply, status, "why").outcome is outcome


def test_a_wrong_programs_verdict_says_how_it_ended():
    assert program_verdict("x", "error", "NameError: y").reason == "error: NameError: y"


def test_pass_at_k_counts_draws_without_replacement():
    assert pass_at_k(4, 1, 1) == pytest.approx(1 / 4)
    assert pass_at_k(4, 2, 2) == pytest.approx(1 - 1 / 6)
    assert (pass_at_k(5, 0, 5), pass_at_k(5, 1, 5)) == (0.0, 1.0)


@given(st.integers(1, 40), st.data())
def test_pass_at_k_is_a_probability_that_grows_with_k(samples, data):
    correct = data.draw(st.integers(0, samples))
    values = [pass_at_k(samples, correct, k) for k in range(1, samples + 1)]

    assert all(0 <= value <= 1 for value in values)
    assert all(later >= value - 1e-12 for value, later in pairwise(values))


@pytest.mark.parametrize("numbers", [(1, 2, 1), (1, 1, 2), (1, 1, 0), (1, -1, 1)])
def test_pass_at_k_refuses_numbers_that_do_not_fit(numbers):
    with pytest.raises(ValueError, match="expected 0 <= correct"):
        pass_at_k(*numbers)
