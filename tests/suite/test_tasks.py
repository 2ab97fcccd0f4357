"""The YAML files say what the protocol says, and say all of it."""

import re

import pytest

from mistral_eval.data.task_file import data_spec, read_task, read_task_file, tasks_folder
from mistral_eval.errors import TaskError
from mistral_eval.suite.registry import BENCHMARKS, BY_ID, FIGURE_4

DECIDING = {
    "task", "dataset_path", "dataset_name", "custom_dataset", "dataset_kwargs", "test_split",
    "output_type", "num_fewshot", "description", "doc_to_text", "doc_to_target",
    "target_delimiter", "fewshot_delimiter", "repeats", "filter_list", "process_results",
    "metric_list", "metadata",
}  # fmt: skip
GREEDY = {"do_sample": False, "temperature": 0.0, "top_p": 1.0}
DRAWN = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 0}
HUMANEVAL_STOPS = ["\nclass", "\ndef", "\n#", "\nif", "\nprint"]
GENERATION = {
    "nq": {"until": ["\n"], "max_gen_toks": 32, **GREEDY},
    "triviaqa": {"until": ["\n"], "max_gen_toks": 32, **GREEDY},
    "humaneval": {"until": HUMANEVAL_STOPS, "max_gen_toks": 512, **GREEDY},
    "mbpp": {"until": ["[DONE]"], "max_gen_toks": 512, **GREEDY},
    "math": {"until": ["Problem:"], "max_gen_toks": 512, **DRAWN},
    "gsm8k": {"until": ["Q:", "\n\n"], "max_gen_toks": 512, **DRAWN},
    "quac": {"until": ["\n"], "max_gen_toks": 64, **GREEDY},
    "bbh": {"until": ["\n"], "max_gen_toks": 128, **GREEDY},
    "bbh_cot": {"until": ["\n\n", "Q:"], "max_gen_toks": 1024, **GREEDY},
    "xstest": {"until": [], "max_gen_toks": 512, **GREEDY},
    "simple_safety_tests": {"until": [], "max_gen_toks": 512, **GREEDY},
    "moderation": {"until": [], "max_gen_toks": 32, **GREEDY},
    "moderation_openai": {"until": [], "max_gen_toks": 32, **GREEDY},
    "moderation_sst": {"until": [], "max_gen_toks": 32, **GREEDY},
    "mt_bench": {"until": [], "max_gen_toks": 1024, **GREEDY},
}
REPEATS = {"math": 4, "gsm8k": 8}
DATA = {
    "mmlu": ("cais/mmlu", "all", "test"),
    "hellaswag": ("Rowan/hellaswag", None, "validation"),
    "winogrande": ("allenai/winogrande", "winogrande_xl", "validation"),
    "piqa": ("baber/piqa", None, "validation"),
    "arc_easy": ("allenai/ai2_arc", "ARC-Easy", "test"),
    "arc_challenge": ("allenai/ai2_arc", "ARC-Challenge", "test"),
    "nq": ("google-research-datasets/nq_open", "nq_open", "validation"),
    "triviaqa": ("mandarjoshi/trivia_qa", "unfiltered.nocontext", "validation"),
    "humaneval": ("openai/openai_humaneval", "openai_humaneval", "test"),
    "mbpp": ("google-research-datasets/mbpp", "sanitized", "test"),
    "math": ("EleutherAI/hendrycks_math", None, "test"),
    "gsm8k": ("openai/gsm8k", "main", "test"),
    "siqa": ("lighteval/siqa", None, "validation"),
    "openbookqa": ("allenai/openbookqa", "main", "test"),
    "commonsense_qa": ("tau/commonsense_qa", None, "validation"),
    "boolq": ("google/boolq", None, "validation"),
    "bbh": ("SaylorTwift/bbh", None, "test"),
    "bbh_cot": ("SaylorTwift/bbh", None, "test"),
    "quac": ("lighteval/quac_helm", None, "validation"),
    "agieval": ("ruixiangcui/AGIEval", None, "test"),
    "xstest": ("Paul/XSTest", None, "test"),
    "simple_safety_tests": ("Bertievidgen/SimpleSafetyTests", None, "test"),
    "moderation": ("Paul/XSTest", None, "test"),
    "moderation_openai": ("mmathys/openai-moderation-api-evaluation", None, "test"),
    "moderation_sst": ("Bertievidgen/SimpleSafetyTests", None, "test"),
    "mt_bench": ("HuggingFaceH4/mt_bench_prompts", None, "question"),
}
CONFIGS = {
    "math": 7,
    "bbh": 27,
    "bbh_cot": 27,
    "agieval": 8,
}  # benchmarks that read several configurations


def test_there_is_one_file_per_benchmark_and_no_other():
    assert {file.stem for file in tasks_folder().glob("*.yaml")} == set(BY_ID)
    assert {file.suffix for file in tasks_folder().iterdir()} == {".yaml"}


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda benchmark: benchmark.id)
def test_a_file_writes_out_what_decides_a_score(benchmark):
    task = read_task(benchmark.id)
    assert set(task) >= DECIDING
    assert "include" not in task
    assert task["task"] == benchmark.id
    deciding = {"doc_to_choice"} if benchmark.kind == "score" else {"generation_kwargs"}
    assert set(task) >= deciding
    assert all(set(m) == {"metric", "aggregation", "higher_is_better"} for m in task["metric_list"])


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda benchmark: benchmark.id)
def test_a_file_agrees_with_the_suite(benchmark):
    """What one of the two states, the other does not repeat."""
    task = read_task(benchmark.id)
    metadata = task["metadata"]
    assert set(metadata) - {"unconditional", "chat", "temperatures"} == {
        "version",
        "questions",
        "stratum",
    }
    assert ("acc_relative" in benchmark.task.metrics) == (benchmark.unconditional is not None)
    assert benchmark.cell in [metric["metric"] for metric in task["metric_list"]]
    assert (benchmark.n, benchmark.stratum) == (metadata["questions"], metadata["stratum"])
    assert (benchmark.shots, benchmark.samples) == (task["num_fewshot"], task["repeats"])
    assert list(benchmark.stops) == task.get("generation_kwargs", {}).get("until", [])
    assert benchmark.stratum is None or benchmark.stratum in benchmark.task.data.columns


@pytest.mark.parametrize("benchmark", BY_ID)
def test_the_data_are_the_protocol_s(benchmark):
    """Path and configuration stand once, through a YAML anchor."""
    task, spec = read_task(benchmark), data_spec(benchmark)
    path, name, split = DATA[benchmark]
    assert (task["dataset_path"], task["dataset_name"], task["test_split"]) == (path, name, split)
    assert (spec.benchmark, spec.path, spec.splits[0]) == (benchmark, path, split)
    if benchmark in CONFIGS:
        assert len(set(spec.configs)) == CONFIGS[benchmark]
    else:
        assert spec.configs == (name,)
    assert not set(task["metadata"]) & set(task["dataset_kwargs"])  # lm-eval passes them as one


@pytest.mark.parametrize("benchmark", GENERATION)
def test_generation_is_the_protocol_s(benchmark):
    task = read_task(benchmark)
    assert task["generation_kwargs"] == GENERATION[benchmark]
    assert task["repeats"] == REPEATS.get(benchmark, 1)


def test_a_range_of_shots_is_said():
    labels = {benchmark.shots_label for benchmark in BENCHMARKS}
    assert labels - {str(benchmark.shots) for benchmark in BENCHMARKS} == {"3-5"}
    assert BY_ID["agieval"].shots_label == "3-5"


def test_programs_need_lm_eval_s_consent():
    unsafe = [name for name in BY_ID if read_task(name).get("unsafe_code")]
    assert unsafe == ["humaneval", "mbpp"]


def test_samples_are_not_dropped():
    """Without a filter list lm-eval would keep the first of k samples only."""
    for benchmark in GENERATION:
        (listed,) = read_task(benchmark)["filter_list"]
        assert [step["function"] for step in listed["filter"]] == ["custom"]


@pytest.mark.parametrize("benchmark", BY_ID)
def test_functions_are_named_where_lm_eval_can_import_them(benchmark):
    text = (tasks_folder() / f"{benchmark}.yaml").read_text(encoding="utf-8")
    names = re.findall(r"!function (\S+)", text)
    assert names
    assert all(name.startswith("mistral_eval.") for name in names)


def test_the_shots_are_the_published_ones(shared):
    """GSM8K's of Wei et al., MATH's of Minerva, MBPP's task ids 2, 3, 4: to the last byte."""
    import json

    import pyarrow.parquet as pq

    prompts = shared / "data" / "prompts"
    wei = json.loads((prompts / "gsm8k_cot_8shot.json").read_text(encoding="utf-8"))["samples"]
    ours = read_task("gsm8k")["fewshot_config"]["samples"]
    assert ours == [{"question": s["question"], "answer": s["target"]} for s in wei]
    minerva = json.loads((prompts / "minerva_math_4shot.json").read_text(encoding="utf-8"))
    assert read_task("math")["fewshot_config"]["samples"] == [
        {"problem": s["problem"], "solution": s["solution"]} for s in minerva["samples"]
    ]
    rows = pq.read_table(shared / "data" / "mbpp" / "sanitized" / "prompt.parquet").to_pylist()
    keys = ("task_id", "prompt", "code", "test_list")
    assert read_task("mbpp")["fewshot_config"]["samples"] == [
        {key: row[key] for key in keys} for row in rows if row["task_id"] in (2, 3, 4)
    ]


@pytest.mark.parametrize("benchmark", ["nq", "triviaqa"])
def test_the_chosen_examples_are_train_rows(shared, benchmark):
    """A sample of the train split holds each example, with its answer among the accepted ones."""
    import pyarrow.parquet as pq

    folder = {"nq": "nq_open/nq_open", "triviaqa": "trivia_qa/unfiltered.nocontext"}[benchmark]
    train = pq.read_table(shared / "data" / folder / "train_subset.parquet").to_pylist()

    def golds(row: dict) -> list[str]:
        return row["answer"] if benchmark == "nq" else row["answer"]["aliases"]

    known = {row["question"]: golds(row) for row in train}
    for shot in read_task(benchmark)["fewshot_config"]["samples"]:
        assert golds(shot)[0] in known[shot["question"]]


def test_an_unknown_or_broken_file_is_an_error_that_says_so(tmp_path):
    with pytest.raises(TaskError, match="no such file"):
        read_task("no_such_benchmark")
    (tmp_path / "x.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(TaskError, match="should be YAML"):
        read_task_file(tmp_path / "x.yaml")
    (tmp_path / "x.yaml").write_text("- a", encoding="utf-8")
    with pytest.raises(TaskError, match="should hold a YAML mapping"):
        read_task_file(tmp_path / "x.yaml")


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda one: one.id)
def test_the_cell_is_a_metric_of_the_task_and_the_group_a_known_one(benchmark):
    assert benchmark.cell in benchmark.task.metrics
    assert benchmark.group in {
        *FIGURE_4,
        "comprehension",
        "bbh",
        "bbh_cot",
        "agieval",
        "guardrails",
        "conversation",
    }
