"""`--verify N` answers requests of a run again, alone on the plain path, and refuses a lie."""

import json
from pathlib import Path

import pytest

from mistral_eval.console import Talk
from mistral_eval.engines.interface import EngineIdentity, Request
from mistral_eval.engines.model_free import Random
from mistral_eval.errors import EngineError, UsageError
from mistral_eval.record.replies import RepliesLog
from mistral_eval.run.answering import Answering
from mistral_eval.run.opening import check_engine
from mistral_eval.run.run import rescore, run_suite
from mistral_eval.run.verifying import judgement, pick, verify
from mistral_eval.settings import RunSettings


def run(output: Path, *tasks: str, **settings) -> Path:
    chosen = {"model": "tiny", "engine": "native", "data": "sample", "limit": 2, **settings}
    return run_suite(RunSettings(tasks=tasks, output_path=output, **chosen), Talk(quiet=True))


def run_json(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def rewrite(folder: Path, change) -> None:
    """Change each reply of a log, as an engine that answers wrongly would have."""
    lines = [json.loads(line) for file in folder.glob("replies/*") for line in file.open()]
    with RepliesLog(folder) as log:
        for line in lines:
            change(line["reply"])
            log.put(bytes.fromhex(line["key"]), line["reply"])


@pytest.fixture(scope="module")
def verified(tmp_path_factory) -> Path:
    """A verified run over scores and samples."""
    return run(tmp_path_factory.mktemp("verified"), "winogrande", "nq", "gsm8k", verify=6)


def test_what_was_verified_is_recorded(verified):
    found = run_json(verified)
    assert found["verify"]["requests"] == {"score": 3, "generate": 3}
    assert found["verify"]["largest_difference"] <= found["verify"]["tolerance"] == 1e-4
    assert found["verify"]["ties"] == 0
    assert found["seconds"]["verify"] > 0
    assert found["settings"]["verify"] == 6


def test_a_finished_run_is_verified_from_its_log(tmp_path):
    folder = run(tmp_path, "winogrande")
    before = run_json(folder)
    assert before["verify"] is None
    assert run(tmp_path, "winogrande", verify=3) == folder
    after = run_json(folder)
    assert after["verify"]["requests"] == {"score": 3}
    assert after["scores"] == before["scores"]
    assert after["counts"] == before["counts"]


@pytest.mark.parametrize("nats", [2e-4, -2e-4, float("nan")])
def test_a_score_that_is_off_by_more_than_the_tolerance_is_an_error_with_both_numbers(
    tmp_path, nats
):
    folder = run(tmp_path, "winogrande")
    rewrite(folder, lambda reply: reply.update(logprob=reply["logprob"] + nats))
    sentence = (
        r"winogrande question \d+, choice \d has the log-probability \S+ in this run, "
        r"-\d\S+ .* on the plain path"
    )
    with pytest.raises(EngineError, match=sentence):
        run(tmp_path, "winogrande", verify=1)


def test_a_score_within_the_tolerance_passes(tmp_path):
    folder = run(tmp_path, "winogrande")
    rewrite(folder, lambda reply: reply.update(logprob=reply["logprob"] + 5e-5))
    run(tmp_path, "winogrande", verify=4)
    assert run_json(folder)["verify"]["largest_difference"] == pytest.approx(5e-5, abs=1e-5)


def test_a_wrong_greedy_flag_is_an_error(tmp_path):
    folder = run(tmp_path, "winogrande")
    rewrite(folder, lambda reply: reply.update(is_greedy=not reply["is_greedy"]))
    with pytest.raises(EngineError, match="greedy in this run"):
        run(tmp_path, "winogrande", verify=1)


def test_a_reply_with_another_token_is_an_error_that_names_the_step(tmp_path):
    folder = run(tmp_path, "nq")
    rewrite(folder, lambda reply: reply["ids"].__setitem__(1, reply["ids"][1] ^ 64))
    with pytest.raises(EngineError, match=r"nq question \d+, sample 0 has the token \d+ at step 1"):
        run(tmp_path, "nq", verify=1)


def test_a_reply_that_ends_too_early_is_an_error(tmp_path):
    folder = run(tmp_path, "nq")
    rewrite(folder, lambda reply: reply.update(ids=reply["ids"][:-1], finish="length"))
    with pytest.raises(EngineError, match="has the token None"):
        run(tmp_path, "nq", verify=1)


def test_half_precision_verifies_within_its_own_tolerance(tmp_path):
    folder = run(tmp_path, "winogrande", "nq", dtype="bfloat16", verify=6)
    found = run_json(folder)["verify"]
    assert 0 < found["largest_difference"] <= found["tolerance"]
    assert 0.25 <= found["tolerance"] < 1  # 2**-2 nats times the root of the number of tokens


def test_the_sentence_says_whether_the_difference_is_expected():
    identity = EngineIdentity("native", dtype="torch.bfloat16")
    found = {"requests": {"score": 2, "generate": 3}, "largest_difference": 0.36, "tolerance": 0.5}
    assert judgement({**found, "ties": 1}, identity, "on the plain path") == (
        "Verified 5 requests on the plain path: log-probabilities differ by 3.6e-01 nats at most "
        "(bfloat16 explains up to 5.0e-01 there); 2 of 3 generations have the same tokens (the "
        "others part at a tie in bfloat16)."
    )
    only = {**found, "requests": {"generate": 3}, "ties": 0}
    assert judgement(only, identity, "on the plain path") == (
        "Verified 3 requests on the plain path: 3 of 3 generations have the same tokens."
    )


def test_a_dtype_that_is_not_known_has_no_name():
    found = {"requests": {"score": 1, "generate": 2}, "largest_difference": 0.1, "tolerance": 0.5}
    assert judgement({**found, "ties": 1}, EngineIdentity("server"), "with the native engine") == (
        "Verified 3 requests with the native engine: log-probabilities differ by 1.0e-01 nats at "
        "most (rounding explains up to 5.0e-01 there); 1 of 2 generations have the same tokens "
        "(the others part at a tie)."
    )


@pytest.mark.parametrize("engine", ["hf", "oracle", "random"])
def test_other_engines_have_no_plain_path(engine):
    with pytest.raises(UsageError, match=f"--verify compares .* --engine {engine}"):
        check_engine(RunSettings(tasks=("winogrande",), engine=engine, verify=1))
    with pytest.raises(UsageError, match="0 or more"):
        RunSettings(tasks=("winogrande",), verify=-1)


def test_rescoring_keeps_what_was_verified(verified):
    before = run_json(verified)["verify"]
    rescore(verified, Talk(quiet=True), unsafe_code=False)
    assert run_json(verified)["verify"] == before


def test_the_choice_is_spread_over_kinds_and_named_by_the_seed():
    asked = [Request("b", n, 0, 0, "score", "q") for n in range(50)]
    asked += [Request("b", n, 0, 0, "generate", "q") for n in range(3)]
    picked = pick(asked, 10, seed=1)
    assert sum(one.kind == "generate" for one in picked) == 3
    assert len(set(picked)) == 10
    assert pick(asked, 10, seed=1) == picked != pick(asked, 10, seed=2)
    assert len(pick(asked, 100, seed=1)) == 53


def test_a_model_that_went_to_another_engine_is_refused_in_a_sentence(log):
    with pytest.raises(UsageError, match="on the engine random"):
        verify(Answering(Random(0), log), 1, seed=0)


def test_nothing_to_compare_is_said():
    none = {"requests": {}, "largest_difference": 0.0, "tolerance": 0.0, "ties": 0}
    said = judgement(none, EngineIdentity("server"), "with the native engine")
    assert said.startswith("No reply could be verified with the native engine: none has")
