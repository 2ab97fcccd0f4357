"""`table` and `compare` as a user meets them."""

import json
import re
import shutil

import pytest

from mistral_eval.record.run_folder import RUN_FILE, is_of_run


def test_a_worse_run_fails_the_gate_with_exit_code_3(cli, sample_runs):
    code, out, err = cli("compare", sample_runs["oracle"], sample_runs["random"])
    assert (code, err) == (3, "")
    assert "random (B) against oracle (A)" in out
    assert "Failed: random is worse than oracle, beyond chance: " in out


def test_a_better_run_passes(cli, sample_runs):
    code, out, _ = cli("compare", sample_runs["random"], sample_runs["oracle"])
    assert code == 0
    assert "Passed: on no benchmark is oracle worse than random" in out


def test_a_margin_of_100_points_lets_everything_pass(cli, sample_runs):
    runs = (sample_runs["oracle"], sample_runs["oracle-wrong"])
    assert cli("compare", *runs, "--margin", "100")[0] == 0
    assert cli("compare", *runs, "--gate", "point", "--margin", "99.9")[0] == 3


def test_more_than_two_runs_are_each_compared_with_the_first(cli, sample_runs):
    code, out, _ = cli("compare", *sample_runs.values(), "--format", "json")
    found = json.loads(out)["comparisons"]
    assert code == 3
    assert [(one["a"], one["b"]) for one in found] == [
        ("oracle", "random"),
        ("oracle", "oracle-wrong"),
    ]
    assert [row["id"] for row in found[0]["benchmarks"]] == ["mmlu", "winogrande", "nq", "gsm8k"]


def test_the_markdown_summary_is_written_even_when_the_gate_fails(cli, sample_runs, tmp_path):
    file = tmp_path / "summary.md"
    runs = (sample_runs["oracle"], sample_runs["random"])
    assert cli("compare", *runs, "--format", "md", "-o", file)[:2] == (3, "")
    assert file.read_text().startswith("### random (B) against oracle (A)\n")


def test_runs_of_different_protocols_are_refused_with_the_place_where_they_part(
    cli, sample_runs, tmp_path
):
    other = shutil.copytree(sample_runs["random"], tmp_path / "run")
    run = json.loads((other / RUN_FILE).read_text())
    run["settings"]["num_fewshot"] = 3
    (other / RUN_FILE).write_text(json.dumps(run))
    code, out, err = cli("compare", sample_runs["oracle"], other)
    assert (code, out) == (1, "")
    assert (
        "mmlu was not run under the same protocol: the number of shots is the protocol's in "
        "oracle and 3 in random."
    ) in err


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ((), 2, "Missing argument 'runs'"),
        (("one",), 2, "compare expects two runs or more, the reference first; found one."),
        (("one", "two"), 1, "one should be a run's folder"),
        (("one", "two", "--gate", "luck"), 2, "'luck' is not one of 'shown', 'point'"),
        (("one", "two", "--margin=-1"), 2, "The margin is a number of points from 0 to 100"),
    ],
)
def test_wrong_usage_of_compare_is_one_sentence(cli, arguments, code, sentence):
    found, out, err = cli("compare", *arguments)
    assert (found, out) == (code, "")
    assert sentence in err


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        ((), ""),
        (("--wrong", "--no-answer", "--timeout"), ""),
        (("--wrong",), " --wrong leaves out what --no-answer and --timeout show."),
    ],
)
def test_samples_that_do_not_exist_are_said(cli, sample_runs, flags, hint):
    code, out, err = cli("samples", sample_runs["oracle"], "--id", "99999", *flags)
    assert (code, out) == (0, "")
    assert " ".join(err.split()) == f"No question of this run matches.{hint}"


@pytest.mark.parametrize("layout", ["table2", "figure4"])
def test_unfinished_runs_are_left_out_of_a_table_and_named(cli, sample_runs, tmp_path, layout):
    begun, finished = tmp_path / "begun", sample_runs["random"]
    shutil.copytree(finished / "replies", begun / "replies")
    said = (
        f"The run in {begun} has not finished. It is still being computed, or was stopped; then "
        "the same command resumes it."
    )
    code, out, err = cli("table", begun, finished, "--layout", layout)
    assert code == 0
    assert "random" in out
    assert " ".join(err.split()) == f"Left out of the table: {said}"
    code, out, err = cli("table", begun, begun, "--layout", layout)
    assert (code, out) == (1, "")
    assert said in " ".join(err.split())
    for other in ("rescore", "samples"):
        assert said in " ".join(cli(other, begun)[2].split())


def test_unfinished_runs_are_left_out_of_a_report_and_named(cli, sample_runs, tmp_path):
    begun, finished = tmp_path / "begun", sample_runs["random"]
    shutil.copytree(finished / "replies", begun / "replies")
    page = tmp_path / "report.html"
    code, _, err = cli("report", begun, finished, "-o", page)
    assert code == 0
    assert f"Left out of the report: The run in {begun} has not finished." in " ".join(err.split())
    assert "random" in page.read_text()
    page.unlink()
    code, _, err = cli("report", begun, "-o", page)
    assert (code, page.exists()) == (1, False)
    assert f"The run in {begun} has not finished." in " ".join(err.split())


RECORD = (
    *("run.json", "results_x.json", "samples_nq_x.jsonl", "engine.json", "replies.lock"),
    *("replies/any.jsonl", "parts/part1of2-attempt1.json", "judgments/replies/any.jsonl"),
    *("model_judgment.jsonl", "model_judgment_pair-1.jsonl", "judge-1.json"),
)


@pytest.mark.parametrize("name", RECORD)
def test_what_is_written_replaces_nothing_of_a_run(cli, sample_runs, tmp_path, name):
    run = shutil.copytree(sample_runs["random"], tmp_path / "run")
    file = run / name
    file.parent.mkdir(parents=True, exist_ok=True)
    link = tmp_path / "link"
    link.symlink_to(file)
    before = {one: one.read_bytes() for one in run.rglob("*") if one.is_file()}
    for output in (file, link):
        for command in (("table", run, "--format", "md"), ("report", run)):
            code, out, err = cli(*command, "-o", output)
            assert (code, out) == (2, "")
            assert f"{output} belongs to the record of the run" in err
    assert before == {one: one.read_bytes() for one in run.rglob("*") if one.is_file()}


def test_every_file_of_a_run_but_its_table_belongs_to_its_record(sample_runs):
    for run in sample_runs.values():
        files = [file for file in run.rglob("*") if file.is_file()]
        assert [file.name for file in files if not is_of_run(file)] == ["table.md"]


def test_a_table_and_a_report_may_lie_beside_the_run_s_record(cli, sample_runs, tmp_path):
    run = shutil.copytree(sample_runs["random"], tmp_path / "run")
    for name in ("table.md", "mine.json", "mine.json"):
        assert cli("table", run, "--format", "json", "-o", run / name)[0] == 0
    assert cli("report", run, "-o", run / "report.html")[0] == 0


def test_a_folder_of_the_users_is_not_taken_for_a_run(cli, tmp_path):
    for name in ("replies", "parts"):
        (tmp_path / name).mkdir()
    for name in ("results_of_may.json", "replies/table.json"):
        assert cli("table", "--format", "json", "-o", tmp_path / name)[0] == 0


def test_rich_does_not_go_into_a_file(cli, sample_runs, tmp_path):
    code, _, err = cli("table", sample_runs["random"], "-o", tmp_path / "table.txt")
    assert code == 2
    assert "Add --format md" in err


def test_every_published_row_is_listed_under_a_name_that_select_takes(cli):
    from mistral_eval.report.baselines import load_baselines, select

    code, out, _ = cli("table", "--list-baselines")
    assert code == 0
    known = load_baselines()
    for baseline in known:
        assert select([baseline.id], known) == (baseline,)
        assert baseline.group in out
        assert baseline.id.partition("/")[2] in out


def test_the_sections_of_a_table_are_there_when_asked_for(cli, sample_runs):
    options = ("--groups", "--sizes", "--reproduced", "Mistral 7B", "--delta-to", "LLaMA 2 7B")
    code, out, _ = cli("table", sample_runs["random"], "--format", "json", *options)
    assert code == 0
    assert [section["title"] for section in json.loads(out)["sections"]] == [
        "Difference to LLaMA 2 7B, in points",
        "Reproduced? random against Mistral 7B as published (Mistral 7B paper)",
        "Groups of the paper's figure 4",
        "Llama 2 size with the same score (the paper's figure 5)",
    ]


@pytest.mark.parametrize("fmt", ["md", "latex", "csv", "html", "json", "rich"])
@pytest.mark.parametrize("layout", ["figure4", "figure5"])
def test_a_figure_is_a_table_of_its_own(cli, sample_runs, layout, fmt):
    code, out, _ = cli("table", sample_runs["random"], "--layout", layout, "--format", fmt)
    assert code == 0
    assert "Comprehension" in out
    assert "HumanEval 0-shot" not in out
    if fmt == "json":
        found = json.loads(out)
        (section,) = found["sections"]
        assert (found["columns"], found["rows"]) == ([], [])
        part = {"figure4": "bars", "figure5": "sizes"}[layout]
        paper = section["data"][0][part]["comprehension"]
        assert (paper["value"], paper["remark"]) == (64.4, "read from the drawing")
        assert layout == "figure4" or round(paper["size_b"]) == 21
        assert len(section["data"]) == len(section["rows"])


@pytest.mark.parametrize("fmt", ["md", "latex", "csv", "html", "json", "rich"])
@pytest.mark.parametrize(
    ("layout", "numbers"), [("chat", ("1031", "8.99")), ("guardrails", ("6.58", "96.5", "99.4"))]
)
def test_published_chat_tables_are_printed(cli, layout, numbers, fmt):
    code, out, _ = cli("table", "--layout", layout, "--format", fmt)
    assert code == 0
    assert all(number in out for number in numbers)


@pytest.mark.parametrize(
    ("layout", "sentence"),
    [
        ("chat", "has no ratings. Run mt_bench with --judge-url and --judge-model"),
        ("guardrails", "has nothing that --layout guardrails shows: expected xstest"),
    ],
)
def test_a_chat_table_has_no_place_for_runs_without_ratings(cli, sample_runs, layout, sentence):
    code, _, err = cli("table", sample_runs["random"], "--layout", layout)
    assert code == 2
    assert sentence in err


@pytest.mark.parametrize("layout", ["figure4", "chat"])
def test_a_figure_takes_no_option_of_the_table(cli, layout):
    for option in (("--groups",), ("--baselines", "card"), ("--delta-to", "Mistral 7B")):
        code, _, err = cli("table", "--layout", layout, *option)
        assert code == 2
        assert "Leave the others out" in err


def test_an_unknown_row_is_answered_with_the_nearest(cli):
    code, _, err = cli("table", "--delta-to", "LLaMA 2 70B")
    assert code == 2
    assert "Nearest: LLaMA 2 7B" in err


def test_compare_shows_how_far_replies_are_apart(cli, sample_runs):
    runs = sample_runs["random"], sample_runs["random"], sample_runs["oracle"]
    _, out, _ = cli("compare", *runs, "--replies", "--format", "json")
    same, other = (one["replies"] for one in json.loads(out)["comparisons"])
    assert [one["id"] for one in same] == [one["id"] for one in other]
    assert all(one["same_greedy"] == one["greedy"] for one in same)
    assert sum(one["same_greedy"] for one in other) < sum(one["greedy"] for one in other)
    _, out, _ = cli("compare", *runs[:2], "--replies", "--format", "md")
    section = out.partition("Replies of")[2]
    assert re.search(r"WinoG +\| +\d+ \| 0.0e\+00 \| 0.0e\+00 \| +0 \| +0 ", section), section
    assert "Replies of" not in cli("compare", *runs, "--format", "md")[1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("samples", "-t", ""), "--tasks should name something, and is ''"),
        (("samples", "--id", " , "), "--id should name something, and is ' , '"),
        (("samples", "--search", ""), "--search should be a text, and is empty"),
        (("table", "--baselines", ""), "--baselines should name something, and is ''"),
    ],
)
def test_an_empty_choice_is_not_everything(cli, sample_runs, arguments, sentence):
    command, *options = arguments
    code, out, err = cli(command, sample_runs["random"], *options)
    assert (code, out) == (2, "")
    assert sentence in err
