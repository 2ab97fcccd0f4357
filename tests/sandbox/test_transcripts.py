"""Real models' programs get the verdict that each got alone in a process of its own.

Each difference that remains is written down below, with who is right.
"""

import ast
import dataclasses

import pandas as pd
import pytest

from mistral_eval.answers.completions import continued_program, whole_program

pytestmark = [pytest.mark.sandbox, pytest.mark.slow]

# The publisher's programs came without the prompt, and so without the helper that the test takes
# from it. The protocol puts the prompt before the reply, and the checker always has the helper.
WITHOUT_HELPER = {
    ("gpt-3.5-turbo-0613", "HumanEval/38"),
    ("gpt-3.5-turbo-0613", "HumanEval/50"),
}
# Right, but exponential: about the three seconds that the transcript allowed, as does the sandbox.
SLOW = {("gpt-4-1106-preview", "HumanEval/129")}
# The transcript wrapped the asserts in a function named `check`, which hid the program's own
# function of that name: endless recursion. Here it has no such wrapper; the asserts hold.
HIDDEN_BY_WRAPPER = {("codellama", "MBPP/56"), ("starcoder", "MBPP/349")}


def differences(rows, programs, results):
    return {
        (row["model"], row["item_id"])
        for row, _, result in zip(rows, programs, results, strict=True)
        if (result.status == "passed") != row["isolated_verdict"]
    }


def test_humaneval_transcripts_agree(shared, best_isolation, run_under):
    """654 of 656, the other two known."""
    data = pd.read_parquet(shared / "data/humaneval/openai_humaneval/test.parquet")
    problems = {row["task_id"]: row for row in data.to_dict("records")}
    rows = pd.read_parquet(shared / "transcripts/humaneval.parquet").to_dict("records")
    programs = [
        dataclasses.replace(continued_program(problems[r["item_id"]], ""), source=r["output"])
        for r in rows
    ]
    results = run_under(programs, best_isolation)

    assert len(rows) == 656
    assert differences(rows, programs, results) <= WITHOUT_HELPER | SLOW
    assert differences(rows, programs, results) >= WITHOUT_HELPER


def test_mbpp_transcripts_agree(shared, best_isolation, run_under):
    """1498 of 1500, the other two known. The asserts are the transcript's own."""
    data = pd.read_parquet(shared / "data/mbpp/full/test.parquet")
    setups = {row["task_id"]: row["test_setup_code"] for row in data.to_dict("records")}
    rows = pd.read_parquet(shared / "transcripts/mbpp.parquet").to_dict("records")
    programs = []
    for row in rows:
        statements = ast.parse(row["test"]).body
        wrapper = next(s for s in statements if isinstance(s, ast.FunctionDef))
        task = int(row["item_id"].split("/")[1])
        asserts = [ast.unparse(statement) for statement in wrapper.body]
        problem = {"task_id": task, "test_setup_code": setups[task], "test_list": asserts}
        programs.append(whole_program(problem, row["output"]))
    results = run_under(programs, best_isolation)

    assert len(rows) == 1500
    assert differences(rows, programs, results) == HIDDEN_BY_WRAPPER
