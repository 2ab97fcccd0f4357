"""Whole runs whose benchmarks are conversations: marked, kept apart, resumed, compared."""

import json

import pytest

from mistral_eval.console import Talk
from mistral_eval.engines.model_free import Random
from mistral_eval.errors import TaskError, UsageError
from mistral_eval.record.comparison import CompareOptions, compare_against
from mistral_eval.record.run_record import read_run
from mistral_eval.record.run_scores import load_scores
from mistral_eval.record.sample_files import load_samples
from mistral_eval.report.table import build_view, published_rows
from mistral_eval.report.table.compared import comparison_sections
from mistral_eval.report.table.data_tables import csv_table, json_table
from mistral_eval.report.table.html_table import html_fragment
from mistral_eval.report.table.latex_table import latex_table
from mistral_eval.report.table.markdown_table import markdown_table
from mistral_eval.report.table.sections import reproduced
from mistral_eval.report.table.view import OTHER_PROTOCOL
from mistral_eval.run.run import rescore, run_suite
from mistral_eval.settings import RunSettings
from mistral_eval.suite.registry import BY_ID

CHAT = {"apply_chat_template": True}
QUIET = Talk(quiet=True)


def settings(output, **changed) -> RunSettings:
    given = {"tasks": ("piqa",), "model": "tiny", "device": "cpu", "data": "sample", "limit": 2}
    return RunSettings(**{**given, "output_path": output, **changed})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same questions by the protocol and as conversations."""
    output = tmp_path_factory.mktemp("runs")
    return {
        name: run_suite(settings(output, **changed), QUIET)
        for name, changed in {"plain": {}, "chat": CHAT}.items()
    }


def test_the_run_says_how_it_asked(runs):
    run = read_run(runs["chat"])

    assert run["scores"]["piqa"]["asked_as"] == "as a conversation"
    assert run["settings"]["apply_chat_template"] is True
    assert (
        "PIQA: asked in Mistral's instruct format V1 of mistral-common (by tokenizer.model.v1)"
        in run["notes"]
    )
    assert (
        "asked_as" not in read_run(runs["plain"])["scores"]["piqa"]
        or not (read_run(runs["plain"])["scores"]["piqa"]["asked_as"])
    )


def test_samples_hold_the_conversation(runs):
    (file,) = runs["chat"].glob("samples_piqa_*.jsonl")
    row = json.loads(file.read_text().splitlines()[0])

    assert row["arguments"]["gen_args_0"]["arg_0"].startswith("[user]\n")


def test_lm_evals_fields_of_the_results_file_are_set(tmp_path):
    changed = {**CHAT, "system_instruction": "Be brief.", "engine": "random"}
    folder = run_suite(settings(tmp_path, **changed), QUIET)
    (file,) = folder.glob("results_*.json")
    results = json.loads(file.read_text())

    assert results["system_instruction"] == "Be brief."
    assert len(results["system_instruction_sha"]) == 64
    assert results["fewshot_as_multiturn"] is True


FORMATS = {
    "markdown": (markdown_table, "{text}†<br>"),
    "html": (html_fragment, '{text}<abbr title="another protocol, see the notes">†</abbr>'),
    "latex": (latex_table, "{text}\\textsuperscript{{\\dag}}"),
    "csv": (csv_table, "PIQA {text}"),
    "json": (json_table, '"asked_as": "as a conversation"'),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_the_mark_and_the_note(runs, name):
    view = build_view(published_rows(), [load_scores(runs["chat"])])
    (row,) = [one for one in view.rows if one.kind == "run"]
    (cell,) = [one for one in row.cells if one.measured]
    render, mark = FORMATS[name]

    assert mark.format(text=cell.text) in render(view)


def test_a_cell_is_marked_and_never_the_best(runs):
    scores = load_scores(runs["chat"])
    view = build_view(published_rows(), [scores])
    (row,) = [one for one in view.rows if one.kind == "run"]
    (cell,) = [one for one in row.cells if one.measured]

    assert cell.mark == OTHER_PROTOCOL
    assert not cell.best
    note = f"{OTHER_PROTOCOL} not the column's protocol: PIQA: asked as a conversation"
    assert any(note in one for one in view.notes)


def test_a_cell_of_the_protocol_has_no_mark(runs):
    view = build_view(published_rows(), [load_scores(runs["plain"])])
    (row,) = [one for one in view.rows if one.kind == "run"]

    assert not any(cell.mark for cell in row.cells)


def test_nothing_is_reproduced_under_another_protocol(runs):
    (paper,) = published_rows(["mistral-paper-table2/mistral-7b"])
    section = reproduced(load_scores(runs["chat"]), "tiny", paper, [BY_ID["piqa"]])

    assert section.rows[0][-1] == "another protocol"


def test_a_comparison_is_paired_and_says_that_protocols_differ(runs):
    plain, chat = load_samples([runs["plain"], runs["chat"]])
    (found,) = compare_against(plain, [chat], CompareOptions(resamples=100))
    notes = comparison_sections([found])[0].notes

    assert found.benchmarks[0].n == 2
    assert found.asked_as == {"piqa": ("", "as a conversation")}
    assert any(
        note.startswith(
            "Different protocols: PIQA asked by the benchmark's protocol in A and as a "
            "conversation in B."
        )
        for note in notes
    )
    (same,) = compare_against(chat, [chat], CompareOptions(resamples=100))
    assert not any("Different protocols" in note for note in comparison_sections([same])[0].notes)


def test_other_shots_are_still_refused(runs, tmp_path):
    changed = {"tasks": ("mmlu",), "engine": "random"}
    plain = run_suite(settings(tmp_path, **changed), QUIET)
    chat = run_suite(settings(tmp_path, **changed, **CHAT, num_fewshot=0), QUIET)
    first, second = load_samples([plain, chat])

    with pytest.raises(TaskError, match="the number of shots"):
        compare_against(first, [second])


def test_a_finished_run_is_found_again_and_rescored(runs, tmp_path):
    folder = run_suite(settings(tmp_path, **CHAT), QUIET)
    before = read_run(folder)
    assert run_suite(settings(tmp_path, **CHAT), QUIET) == folder
    assert read_run(folder) == before
    rescore(folder, QUIET, unsafe_code=False)
    after = read_run(folder)

    assert after["scores"] == before["scores"]
    assert after["notes"] == before["notes"]


def test_no_reply_is_shared_with_a_run_by_the_protocol(runs, tmp_path):
    run_suite(settings(tmp_path), QUIET)
    chat = read_run(run_suite(settings(tmp_path, **CHAT), QUIET))
    other = read_run(run_suite(settings(tmp_path, **CHAT, limit=1), QUIET))

    assert chat["counts"]["from_other_runs"] == 0
    assert other["counts"]["computed"] == 0


def test_each_setting_is_part_of_the_runs_id_and_defaults_leave_it_as_it_was():
    """The id was computed before the settings of conversations existed."""
    base = settings("out")
    changed = [
        CHAT,
        {**CHAT, "system_instruction": "a"},
        {**CHAT, "fewshot_as_multiturn": False},
        {**CHAT, "chat_template": "folder"},
        {"system_instruction": "a"},
    ]
    ids = {settings("out", **one).run_id({}) for one in [{}, *changed]}

    assert len(ids) == 6
    assert base.run_id({}) == "piqa-6f150d9d"


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"fewshot_as_multiturn": True}, "--fewshot-as-multiturn shows"),
        ({**CHAT, "tasks": ("lm_eval:piqa",)}, "lm_eval:piqa is a stock task"),
        ({"system_instruction": "a", "tasks": ("lm_eval:piqa",)}, "is a stock task"),
        ({"chat_template": "folder"}, "--chat-template is for conversations"),
        ({**CHAT, "chat_template": "none.jinja"}, "or a file with a Jinja template"),
    ],
)
def test_settings_without_sense_are_refused_in_one_sentence(tmp_path, changed, sentence):
    with pytest.raises(UsageError, match=sentence):
        run_suite(settings(tmp_path, **changed), QUIET)


def test_an_engine_without_chat_is_refused_before_it_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(Random, "can", type(Random.can)())

    with pytest.raises(UsageError, match="--engine random takes texts"):
        run_suite(settings(tmp_path, engine="random", **CHAT), QUIET)
    assert not list(tmp_path.iterdir())
