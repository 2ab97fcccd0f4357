"""Tables 3 and 4 with measured rows: what stands in a row, and what the notes must say."""

import json
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from mistral_eval.answers.moderation.quality import ReflectedText, moderation_figures
from mistral_eval.answers.moderation.self_reflection import Reading
from mistral_eval.answers.mt_bench.means import RatedAnswer, over_runs, score
from mistral_eval.answers.refusals.judge import Response
from mistral_eval.answers.refusals.rates import Counted, Prompts, refusal_rate
from mistral_eval.report.table import FORMATS
from mistral_eval.report.table import _rendered as rendered
from mistral_eval.report.table.chat_tables import (
    ChatResult,
    ReflectionResult,
    RefusalResult,
    chat_sections,
    guardrail_sections,
)
from mistral_eval.report.table.rich_table import RichSections
from mistral_eval.report.table.view import TableView


def result(*ratings: float | None, runs=None, label="ours") -> ChatResult:
    rows = [RatedAnswer("m", 81 + i, 1, "j", rating) for i, rating in enumerate(ratings)]
    return ChatResult(label, "mistral", "gpt-4-0613", "ours", score(rows), runs)


def refusals() -> RefusalResult:
    answers = [Response.FULL_REFUSAL] * 30 + [Response.FULL_COMPLIANCE] * 70
    rates = {
        (prompts, counted): refusal_rate(answers, counted, prompts)
        for prompts in Prompts
        for counted in Counted
    }
    return RefusalResult("ours", "mistral", "XSTest", rates)


def reflection() -> ReflectionResult:
    texts = [ReflectedText(True, Reading.ACCEPTABLE)] * 9 + [ReflectedText(False, Reading.UNREAD)]
    return ReflectionResult("ours", "mistral", "XSTest", moderation_figures(texts))


def test_a_measured_row_stands_below_table_3():
    table, _ = chat_sections([result(7.0, 8.0)])
    assert table.rows[1][:3] == ("Mistral 7B Instruct", "1031", "6.84 ± 0.07")
    assert table.rows[-1][:3] == ("ours", "—", "7.50")
    assert table.rows[-1][5:] == ("2", "0", "gpt-4-0613, our rule")
    assert len(table.data) == len(table.rows)
    assert table.data[1]["mt_bench"]["deviation"] == "0.07"


def test_the_notes_say_that_6_84_and_6_65_do_not_differ_and_what_the_deviation_is():
    for section in (chat_sections()[0], guardrail_sections()[0]):
        notes = " ".join(section.notes)
        assert "6.84 and 6.65 is within chance" in notes
        assert "says nothing about other questions" in notes
        assert "https://arxiv.org/abs/2310.06825v1" in notes
        assert "another judge" not in notes.lower()
    assert any("another judge" in note for note in chat_sections([result(7.0)])[0].notes)


def test_unread_judgments_show_both_means():
    table, _ = chat_sections([result(8.0, None)])
    assert table.rows[-1][2] == "8.00"
    assert table.rows[-1][6] == "1 (3.50 with each as -1)"


def test_the_other_rules_mean_stands_there_where_it_differs():
    one = replace(result(8.0, 6.0), rule="fastchat", other_rule=7.5)
    assert chat_sections([one])[0].rows[-1][7] == (
        "gpt-4-0613, FastChat's rule (the other rule: 7.50)"
    )


def test_several_runs_show_their_deviation_beside_the_interval_over_questions():
    section = guardrail_sections([result(7.0, 8.0, runs=over_runs([7.4, 7.6]))])[0]
    assert section.rows[-1][:3] == ("ours", "mistral", "7.50 ± 0.14 (2 runs)")
    assert section.rows[-1][3] != "—"
    assert any("± is the standard deviation of their means" in note for note in section.notes)
    alone = guardrail_sections([result(7.0, 8.0)])[0]
    assert not any("a row with several runs" in note for note in alone.notes)


def test_nothing_rated_is_a_dash():
    assert chat_sections([result(None)])[0].rows[-1][2:5] == ("—", "—", "—")


def test_refusals_have_the_judges_known_error_beside_them():
    section = guardrail_sections(refusals=[refusals()])[1]
    people = ("mistral", "XSTest: 250 safe, 200 unsafe", "96.5 [93.0, 98.3]")
    assert section.rows[2][1:4] == people
    assert section.rows[-1][:3] == ("ours", "mistral", "XSTest: 100 safe, 100 unsafe")
    rate = section.data[-1]["xstest_unsafe_any"]
    fixed = rate["corrected"]
    corrected = f"{fixed['value']:.1f} [{fixed['low']:.1f}, {fixed['high']:.1f}]"
    assert section.rows[-1][3] == f"30.0, corrected {corrected}"
    assert any("the judge finds 178 of 196" in note for note in section.notes)
    assert section.data[-1]["xstest_safe_any"]["n"] == 100


def test_self_reflection_has_its_floor_below_it():
    rows = guardrail_sections(reflections=[reflection()])[2].rows
    assert rows[0][3:6] == ("99.4", "95.6", "—")
    assert rows[1][:3] == ("ours", "mistral", "XSTest")
    assert [row[0] for row in rows[1:]] == ["ours", "all acceptable (the floor)"]
    assert [row[-1] for row in rows[1:]] == ["1", "0"]


@pytest.mark.parametrize("fmt", [fmt for fmt in FORMATS if fmt != "rich"])
def test_a_hostile_label_breaks_no_format(fmt):
    name = "<script>|**x**$\\input{x}$"
    sections = (*chat_sections([result(7.0, label=name)]), *guardrail_sections([result(7.0)]))
    text = rendered(TableView("t", (), (), (), sections), fmt)
    assert "<script>|" not in text or fmt in ("csv", "json")
    if fmt == "json":
        assert json.loads(text)["sections"][0]["rows"][-1][0] == name


@pytest.mark.parametrize("width", [80, 96, 110, 140, 200])
def test_no_column_is_lost_on_a_narrow_terminal(width):
    by_model = replace(refusals(), judge="gpt-4-0613")
    sections = (
        *chat_sections([result(7.0, 8.0)]),
        *guardrail_sections([result(7.0)], [refusals(), by_model], [reflection()]),
    )
    for section in sections:
        out = StringIO()
        one = RichSections([replace(section, notes=())])
        Console(file=out, width=width, color_system=None).print(one)
        shown = out.getvalue()
        assert max(map(len, shown.splitlines())) <= width
        texts = (*section.header, *(cell for row in section.rows for cell in row))
        words = {word for text in texts for word in text.split()}
        assert words <= set(shown.split()), section.title
