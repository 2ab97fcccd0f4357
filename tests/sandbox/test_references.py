"""The data sets' own solutions pass, and empty replies do not, on every kind of isolation."""

import pandas as pd
import pytest

from mistral_eval.answers.completions import continued_program, whole_program
from mistral_eval.sandbox import Status

pytestmark = pytest.mark.sandbox


def rows(shared, name):
    return pd.read_parquet(shared / "data" / name / "test.parquet").to_dict("records")


def passed(results):
    return sum(result.status is Status.PASSED for result in results)


def test_all_164_humaneval_references_pass(shared, isolation, run_under):
    problems = rows(shared, "humaneval/openai_humaneval")
    programs = [continued_program(p, p["canonical_solution"]) for p in problems]

    assert passed(run_under(programs, isolation)) == 164


def test_all_257_sanitized_mbpp_references_pass(shared, isolation, run_under):
    programs = [whole_program(row, row["code"]) for row in rows(shared, "mbpp/sanitized")]

    assert passed(run_under(programs, isolation)) == 257


def test_all_500_mbpp_references_of_the_full_config_pass(shared, best_isolation, run_under):
    programs = [whole_program(row, row["code"]) for row in rows(shared, "mbpp/full")]

    assert passed(run_under(programs, best_isolation)) == 500


def test_a_wrong_program_that_one_hash_seed_lets_pass_fails(shared, best_isolation, run_under):
    """The longest word, in the order of a set, passes HumanEval/158 under 14 of 150 seeds."""
    problem = rows(shared, "humaneval/openai_humaneval")[158]
    bodies = ["max(set(words), key=len)", "sorted(set(words), key=len)[-1]"]
    programs = [continued_program(problem, f"    return {body}\n") for body in bodies]

    assert problem["task_id"] == "HumanEval/158"
    assert passed(run_under(programs, best_isolation)) == 0


def test_no_empty_reply_passes(shared, best_isolation, run_under):
    problems = rows(shared, "humaneval/openai_humaneval")
    programs = [continued_program(problem, "") for problem in problems]
    programs += [whole_program(row, "") for row in rows(shared, "mbpp/sanitized")]

    assert passed(run_under(programs, best_isolation)) == 0
