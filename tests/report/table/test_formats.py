"""The formats: hostile names break none, CSV and JSON read back, the terminal's width is kept."""

import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mistral_eval.errors import UsageError
from mistral_eval.report.baselines import load_baselines, select
from mistral_eval.report.table import FORMATS, render_table
from mistral_eval.report.table.latex_table import escape as latex_escape
from mistral_eval.report.table.markdown_table import escape as markdown_escape
from mistral_eval.report.table.view import TableOptions
from mistral_eval.suite.registry import paper_benchmarks
from tests.report.table.conftest import limited_run, whole_run

BASELINES = load_baselines()
PAPER = select(["paper"], BASELINES)


class TestHostileNames:
    NAME = '<script>a|b</script> **x** $\\input{/etc/passwd}$ & 100% _y_ ~^ #1 "q" [red]z[/red]'

    @pytest.fixture
    def evil(self):
        return [whole_run(self.NAME)]

    def test_markdown_shows_it_as_it_is(self, evil):
        text = render_table([], evil, "md")
        assert "<script>" not in text
        row = next(line for line in text.splitlines() if line.startswith("| **\\<script"))
        assert len(re.findall(r"(?<!\\)\|", row)) == 14

    def test_latex_runs_nothing(self, evil):
        text = render_table([], evil, "latex")
        assert "\\input" not in text
        assert r"\textbackslash{}input\{/etc/passwd\}" in text

    def test_html_holds_it_as_text(self, evil):
        page = render_table([], evil, "html")
        parser = _Texts()
        parser.feed(page)
        assert "script" not in parser.tags
        assert any(self.NAME in text for text in parser.texts)

    def test_csv_and_json_give_it_back(self, evil):
        rows = list(csv.reader(io.StringIO(render_table([], evil, "csv"))))
        assert rows[1][0] == self.NAME
        assert json.loads(render_table([], evil, "json"))["rows"][0]["name"] == self.NAME

    def test_a_spreadsheet_takes_no_label_for_a_formula(self):
        rows = list(csv.reader(io.StringIO(render_table([], [whole_run("=1+1")], "csv"))))
        assert rows[1][0] == "'=1+1"

    def test_the_terminal_shows_its_brackets(self, evil):
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(render_table([], evil, "rich"))
        assert "[red]z[/red]" in " ".join(console.export_text().split())

    @given(st.text(max_size=40))
    def test_no_name_breaks_a_format(self, name):
        runs = [whole_run(name)]
        for fmt in FORMATS:
            out = render_table(PAPER[:1], runs, fmt)
            if fmt == "csv":
                assert {57 - 5} == {len(row) for row in csv.reader(io.StringIO(out))}
            if fmt == "json":
                json.loads(out)
            if fmt == "md":
                lines = [line for line in out.splitlines() if line.startswith("|")]
                assert {14} == {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
            if fmt == "latex":
                assert _balanced(out)


class _Texts(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.texts = set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.texts.append(data)


def _balanced(tex: str) -> bool:
    """Whether braces that are not escaped close what they open, and environments too."""
    bare = re.sub(r"\\[\\{}]", "", tex)
    depth = 0
    for char in bare:
        depth += (char == "{") - (char == "}")
        if depth < 0:
            return False
    opened, closed = re.findall(r"\\begin{(\w+)", tex), re.findall(r"\\end{(\w+)", tex)
    return depth == 0 and sorted(opened) == sorted(closed)


@given(st.text(max_size=60))
def test_escaped_latex_has_no_special_character_left(text):
    """Outside of the commands that escaping writes, no character that TeX would act on remains."""
    rest = re.sub(r"\\text\w+\{(\\dag)?\}|\\[{}$&%#_]", "", latex_escape(text))
    assert not set(rest) & set('\\{}$&%#_~^<>|"')


@given(st.text(max_size=60))
def test_escaped_markdown_is_one_line_and_gives_the_text_back(text):
    escaped = markdown_escape(text)
    assert "\n" not in escaped
    assert " ".join(text.split()) == re.sub(r"\\([\\`*_{}\[\]<>#|~&])", r"\1", escaped)


class TestCsv:
    def test_every_number_of_table_2_parses_back(self):
        rows = list(csv.DictReader(io.StringIO(render_table(PAPER, [], "csv"))))
        found = [[row[b.column] for b in paper_benchmarks()] for row in rows]
        assert [[b.cells[c.id].text for c in paper_benchmarks()] for b in PAPER] == found

    def test_a_run_has_its_interval_and_n(self):
        text = render_table([], [whole_run()], "csv")
        row = next(csv.DictReader(io.StringIO(text)))
        assert tuple(row[f"MMLU{end}"] for end in ("", " low", " high", " n")) == (
            "62.0",
            "61.15",
            "62.76",
            "14042",
        )

    def test_other_protocols_stay_out_of_the_columns(self):
        text = render_table(select(["card"], BASELINES), [], "csv")
        row = next(csv.DictReader(io.StringIO(text)))
        assert (
            row["MATH"], row["GSM8K"], row["Other protocol"],
        ) == ("", "", "MATH 11.94; GSM8K 39.35")  # fmt: skip


class TestJson:
    def test_the_documents_keys(self):
        document = json.loads(render_table(PAPER, [limited_run()], "json"))
        assert {"format", "title", "columns", "rows", "notes", "sections"} == set(document)
        assert document["format"] == "mistral-eval/table/1"
        published, run = document["rows"][0], document["rows"][-1]
        assert {
            "id", "name", "kind", "modality", "publication", "source", "cells", "apart",
        } == set(published)  # fmt: skip
        assert {
            "id", "name", "kind", "path", "model", "engine", "date", "seed", "is_model", "limited",
            "cells",
        } == set(run)  # fmt: skip
        assert {
            "value", "text", "comparable", "remark", "best", "shots", "metric", "n", "n_basis",
            "note",
        } == set(published["cells"]["mmlu"])  # fmt: skip
        assert {
            "value", "text", "low", "high", "n", "n_total", "correct", "no_answer", "timeout",
            "data_fingerprint", "secondary", "limited", "notes", "asked_as", "judged_by", "best",
        } == set(run["cells"]["mmlu"])  # fmt: skip

    def test_numbers_apart_are_there_with_their_protocol(self):
        document = json.loads(render_table(select(["mixtral"], BASELINES), [], "json"))
        row = document["rows"][0]
        assert row["cells"]["nq"] is None
        assert (row["apart"]["nq"]["value"], row["apart"]["nq"]["shots"]) == (17.5, 0)


def test_an_unknown_format_lists_the_known():
    with pytest.raises(UsageError, match="rich, md, latex, csv, html, json; found 'pdf'"):
        render_table(PAPER, [], "pdf")


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_table_without_rows_is_still_a_table(fmt):
    out = render_table([], [], fmt, options=TableOptions(groups=True, sizes=True))
    console = Console(width=80, file=io.StringIO())
    console.print(out, markup=False)
    assert "MMLU" in console.file.getvalue()


@pytest.mark.parametrize("width", [48, 60, 80, 100, 120, 200])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_cut(width):
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(
        render_table(PAPER, [whole_run(), limited_run()], "rich")
    )
    lines = out.getvalue().splitlines()
    assert width >= max(len(line) for line in lines)
    words = set(out.getvalue().split())
    for baseline in PAPER:
        assert {cell.text for cell in baseline.cells.values()} <= words
    assert "…" not in out.getvalue()


def test_no_color_leaves_no_escape_for_colour(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    Console(file=out, width=120, force_terminal=True).print(
        render_table(PAPER, [whole_run()], "rich")
    )
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", out.getvalue())
    assert "\x1b[1m" in out.getvalue()  # bold is not a colour: the best stay marked
