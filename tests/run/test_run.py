"""A run's folder: what is in it, that it is found again, and that it says how it was made."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from mistral_eval.console import Talk
from mistral_eval.errors import OutputError, UsageError
from mistral_eval.record.run_scores import load_scores
from mistral_eval.run.opening import check_engine
from mistral_eval.run.run import run_suite
from mistral_eval.sandbox import Isolation
from mistral_eval.settings import RunSettings
from mistral_eval.suite.registry import paper_benchmarks

CODE = ("humaneval", "mbpp")
TASKS = ("winogrande", "nq", "gsm8k")
RESULTS_KEYS = {
    *("results", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better"),
    *("n-samples", "config", "git_hash", "date", "pretty_env_info", "transformers_version"),
    *("lm_eval_version", "upper_git_hash", "max_length", "task_hashes", "model_source"),
    *("model_name", "model_name_sanitized", "system_instruction", "system_instruction_sha"),
    *("fewshot_as_multiturn", "chat_template", "chat_template_sha", "start_time", "end_time"),
    *("total_evaluation_time_seconds",),
}
CONFIG_KEYS = {
    *("model", "model_args", "batch_size", "batch_sizes", "device", "use_cache", "limit"),
    *("bootstrap_iters", "gen_kwargs", "random_seed", "numpy_seed", "torch_seed", "fewshot_seed"),
}
SAMPLE_KEYS = {
    *("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"),
    *("doc_hash", "prompt_hash", "target_hash"),
}


@pytest.fixture
def start(tmp_path):
    """Run in the test's own folder: (tasks, **settings) to the run's folder."""

    def call(*tasks: str, **settings: Any) -> Path:
        chosen = {"engine": "random", "data": "sample", **settings}
        return run_suite(
            RunSettings(tasks=tasks, output_path=tmp_path / "results", **chosen), Talk(quiet=True)
        )

    return call


def read(folder: Path, pattern: str) -> Any:
    (file,) = folder.glob(pattern)
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".jsonl":
        return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    return json.loads(text, parse_constant=pytest.fail)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_the_folder_holds_run_json_the_replies_lm_evals_files_and_the_table(start):
    folder = start(*TASKS)
    assert folder.parent.name == "random"
    stamp = read(folder, "run.json")["results_file"].removeprefix("results_").removesuffix(".json")
    assert {file.name for file in folder.iterdir()} == {
        *("run.json", "replies", "replies.lock", "table.md", f"results_{stamp}.json"),
        *(f"samples_{name}_{stamp}.jsonl" for name in TASKS),
    }


def test_run_json_says_what_was_asked_by_whom_of_what_and_what_came_back(start):
    folder = start(*TASKS, seed=3)
    run = read(folder, "run.json")
    assert (run["format"], run["status"], run["id"]) == (1, "finished", folder.name)
    assert (run["settings"]["seed"], run["settings"]["tasks"]) == (3, list(TASKS))
    assert (run["engine"], run["model"]["fingerprint"]) == ("random", "random seed 3")
    assert run["versions"].keys() >= {"mistral_eval", "python", "torch", "lm_eval", "transformers"}
    assert [run["data"][name]["name"] for name in TASKS] == ["sample"] * 3
    assert all(len(run["data"][name]["sha256"]) == 64 for name in TASKS)
    assert all(len(run["protocol"][name]) == 64 for name in TASKS)
    assert run["counts"]["computed"] == 16 * 2 + 16 + 16 * 8
    assert run["counts"]["from_log"] == 0
    assert run["seconds"].keys() == {"build", "load", "answer", "judge", "stock"}
    assert run["scores"].keys() == set(TASKS)
    for cell in run["scores"].values():
        assert cell["n"] == 16
        assert cell["low"] <= cell["value"] == pytest.approx(100 * cell["correct"] / 16)
        assert cell["value"] <= cell["high"]
        assert cell["limited"]


def test_the_results_file_has_lm_evals_keys(start):
    results = read(start(*TASKS), "results_*.json")
    assert results.keys() == RESULTS_KEYS | {"mistral_eval"}
    assert results["config"].keys() == CONFIG_KEYS
    assert {name: set(metrics) for name, metrics in results["results"].items()} == {
        "winogrande": {"name", "alias", "sample_len", "acc,none", "acc_stderr,none"},
        "nq": {"name", "alias", "sample_len", "exact_match,verdict", "exact_match_stderr,verdict"},
        "gsm8k": {
            *("name", "alias", "sample_len", "maj@8,verdict", "maj@8_stderr,verdict"),
            *("maj@1,verdict", "maj@1_stderr,verdict"),
            *("maj@8_flexible,verdict", "maj@8_flexible_stderr,verdict"),
        },
    }
    assert results["n-samples"] == {key: {"original": 16, "effective": 16} for key in TASKS}
    assert results["n-shot"] == {"winogrande": 0, "nq": 5, "gsm8k": 8}
    assert results["configs"]["gsm8k"]["generation_kwargs"]["temperature"] == 0.6
    assert results["end_time"] >= results["start_time"] == results["date"]


def test_scores_of_the_results_file_are_the_tables(start):
    folder = start("mmlu", "hellaswag", engine="random")
    run, results = read(folder, "run.json"), read(folder, "results_*.json")["results"]
    for name, key in (("mmlu", "acc,none"), ("hellaswag", "acc_norm,none")):
        assert run["scores"][name]["value"] == pytest.approx(100 * results[name][key])
    strata = run["strata"]["mmlu"].values()
    assert sum(correct for correct, _ in strata) == run["scores"]["mmlu"]["correct"]
    assert results["mmlu"]["acc_macro,none"] == pytest.approx(
        sum(correct / asked for correct, asked in strata) / len(strata)
    )


def test_a_samples_row_has_lm_evals_keys_and_the_verdict(start):
    folder = start(*TASKS)
    for name, requests, samples in (("winogrande", 2, 1), ("nq", 1, 1), ("gsm8k", 1, 8)):
        rows = read(folder, f"samples_{name}_*.jsonl")
        assert [row["doc_id"] for row in rows] == list(range(16))
        for row in rows:
            metrics = set(row["metrics"])
            assert row.keys() == SAMPLE_KEYS | metrics | {"verdict", "stratum"}
            assert metrics
            assert list(row["arguments"]) == [f"gen_args_{n}" for n in range(requests)]
            assert [len(resps) for resps in row["resps"]] == [samples] * requests
            assert row["filter"] == ("none" if name == "winogrande" else "verdict")
            assert row["verdict"]["outcome"] in ("correct", "wrong", "no_answer")


def test_a_finished_run_is_found_again_and_needs_neither_model_nor_sandbox(start, monkeypatch):
    folder = start("winogrande", "humaneval", unsafe_code=True)
    before = contents(folder)
    for name in ("run.open_engine", "run.load_benchmarks", "opening.probe"):
        monkeypatch.setattr(f"mistral_eval.run.{name}", pytest.fail)
    assert start("winogrande", "humaneval", unsafe_code=True) == folder
    assert contents(folder) == before


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"limit": 5},
        {"engine": "oracle"},
        {"dtype": "bfloat16"},
        {"data_unpinned": True},
    ],
)
def test_other_settings_are_another_run(start, other):
    assert start("winogrande", **other) != start("winogrande")


def test_settings_that_decide_no_score_are_not_part_of_a_runs_name(start):
    assert start("winogrande", batch_tokens=7) == start("winogrande")


def test_fewer_shots_are_another_run_and_more_than_there_are_is_an_error(start):
    assert start("nq", num_fewshot=2) != start("nq")
    with pytest.raises(UsageError, match="the protocol has 5 solved examples for nq"):
        start("nq", num_fewshot=6)


def test_programs_that_ran_unguarded_are_another_run_and_the_table_says_so(start, monkeypatch):
    nothing = Isolation("none", "no namespaces", ("namespaces",))
    monkeypatch.setattr("mistral_eval.run.opening.probe", lambda _: nothing)
    folder = start("humaneval", unsafe_code=True, limit=2)
    assert "ran without isolation" in (folder / "table.md").read_text()
    assert RunSettings(tasks=("humaneval",)).run_id({}) != RunSettings(
        tasks=("humaneval",), unsafe_code=True
    ).run_id({})


@pytest.mark.sandbox
def test_isolated_programs_are_not_called_unguarded_whatever_was_allowed(sandbox, start):
    assert sandbox.available
    folder = start("humaneval", unsafe_code=True, limit=2)
    assert "isolation" not in (folder / "table.md").read_text()


def test_fresh_starts_again_beside_the_earlier_run(start):
    first = start("winogrande")
    before = contents(first)
    second = start("winogrande", fresh=True)
    assert second.name == f"{first.name}-attempt2"
    assert contents(first) == before
    assert read(second, "run.json")["counts"]["from_log"] == 0
    assert start("winogrande") == second  # the latest is the one that is found again
    assert start("winogrande", fresh=True).name == f"{first.name}-attempt3"


def test_a_limited_run_says_so_in_every_file(start):
    folder = start("mmlu", "nq", limit=5)
    run, results = read(folder, "run.json"), read(folder, "results_*.json")
    assert run["settings"]["limit"] == results["config"]["limit"] == 5
    assert results["n-samples"]["mmlu"] == {"original": 16, "effective": 5}
    assert all(cell["limited"] and cell["n"] == 5 for cell in run["scores"].values())
    assert len({row["stratum"] for row in read(folder, "samples_mmlu_*.jsonl")}) == 5
    table = (folder / "table.md").read_text()
    assert "**random** (not a model, limited)" in table
    assert "5 of 14042 questions (MMLU), 5 of 3610 questions (NQ)" in table


def test_a_fraction_of_the_questions_is_rounded_up(start):
    assert load_scores(start("piqa", limit=0.1)).cells["piqa"].n == math.ceil(1.6)


def test_other_shots_than_the_papers_are_noted(start):
    folder = start("gsm8k", "winogrande", num_fewshot=0)
    assert "0-shot, not the paper's 8-shot" in (folder / "table.md").read_text()
    run = read(folder, "run.json")
    assert run["scores"]["winogrande"]["notes"] == []
    assert read(folder, "results_*.json")["n-shot"] == {"winogrande": 0, "gsm8k": 0}
    assert (
        read(folder, "samples_gsm8k_*.jsonl")[0]["arguments"]["gen_args_0"]["arg_0"].count("Q:")
        == 1
    )


@pytest.mark.parametrize(("engine", "score"), [("oracle", 100.0), ("oracle-wrong", 0.0)])
def test_the_oracle_scores_what_it_means_to(start, engine, score):
    names = tuple(benchmark.id for benchmark in paper_benchmarks() if benchmark.id not in CODE)
    cells = load_scores(start(*names, engine=engine)).cells
    assert {name: cell.value for name, cell in cells.items()} == dict.fromkeys(names, score)


@pytest.mark.sandbox
@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize(("engine", "score"), [("oracle", 100.0), ("oracle-wrong", 0.0)])
def test_the_oracles_programs_pass_or_fail_as_it_means_them_to(start, engine, score):
    cells = load_scores(start(*CODE, engine=engine)).cells
    assert {name: cell.value for name, cell in cells.items()} == dict.fromkeys(CODE, score)


def test_the_oracle_refuses_stock_tasks_before_anything_is_loaded():
    with pytest.raises(UsageError, match="not to arc_easy"):
        check_engine(RunSettings(tasks=("lm_eval:arc_easy",), engine="oracle"))


def test_a_run_json_that_cannot_be_read_says_what_to_do(start):
    folder = start("winogrande")
    (folder / "run.json").write_text("{")
    with pytest.raises(OutputError, match="--fresh"):
        start("winogrande")
    assert start("winogrande", fresh=True) != folder


def test_the_first_samples_of_a_question_do_not_depend_on_the_limit(start):
    """Chance names its draws by question and sample; the tiny model's test is the adapter's."""
    every = {row["doc_id"]: row["resps"] for row in read(start("gsm8k"), "samples_gsm8k_*.jsonl")}
    some = read(start("gsm8k", limit=3), "samples_gsm8k_*.jsonl")
    assert [row["resps"] for row in some] == [every[row["doc_id"]] for row in some]
