"""The text formats in front of the programs that read them: a markdown parser, and TeX."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt  # rich brings it

from mistral_eval.report.baselines import load_baselines, select
from mistral_eval.report.table import render_table
from mistral_eval.report.table.view import TableOptions
from mistral_eval.suite.registry import paper_benchmarks
from tests.report.table.conftest import limited_run, whole_run

HOSTILE = "<script>a|b</script> **x** $\\input{/etc/passwd}$ & 100% _y_ `c` [l](javascript:1) ~^ #"
PAPER = select(["paper"], load_baselines())
ALL = TableOptions(
    delta_to="Mistral 7B", reproduced="mistral-paper-table2/mistral-7b", groups=True, sizes=True
)


class _Cells(HTMLParser):
    """Collects a page's tags, and its tables' cells as text."""

    def __init__(self):
        super().__init__()
        self.tags, self.tables, self._open = set(), [], False

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._open = True
        if tag == "br" and self._open:
            self.tables[-1][-1][-1] += " "

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._open = False

    def handle_data(self, data):
        if self._open:
            self.tables[-1][-1][-1] += data


def in_markdown(text: str) -> _Cells:
    cells = _Cells()
    cells.feed(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))
    return cells


def test_markdown_renders_table_2_to_the_digit():
    (table,) = in_markdown(render_table(PAPER, [], "md")).tables
    assert [row[0] for row in table] == ["Model", *(b.name for b in PAPER)]
    assert [row[2:] for row in table[1:]] == [
        [b.cells[c.id].text for c in paper_benchmarks()] for b in PAPER
    ]


def test_markdown_renders_a_run_with_its_evidence_and_all_sections():
    tables = in_markdown(render_table(PAPER, [whole_run()], "md", options=ALL)).tables
    assert len(tables) == 5
    assert tables[0][-1][:2] == ["mistralai/Mistral-7B-v0.1", "62.0 [61.2, 62.8] N 14042"]


def test_markdown_renders_a_hostile_name_as_text():
    page = in_markdown(render_table([], [whole_run(HOSTILE)], "md"))
    assert page.tables[0][1][0] == HOSTILE
    assert len(page.tables[0][1]) == 13
    assert not page.tags & {"script", "a", "code", "em"}


@pytest.mark.slow
def test_latex_compiles_and_fits_the_page(tmp_path):
    """TeX Live: no error, and nothing wider than a page of two columns."""
    if not shutil.which("pdflatex"):
        pytest.skip("needs pdflatex (texlive-latex-recommended, texlive-fonts-recommended)")
    tables = [
        render_table(PAPER, [], "latex"),
        render_table(PAPER, [limited_run(), whole_run()], "latex", options=ALL),
        render_table([], [whole_run(HOSTILE)], "latex"),
    ]
    document = "\n".join(
        [
            r"\documentclass[twocolumn]{article}",
            r"\usepackage[T1]{fontenc}\usepackage{booktabs,graphicx}",
            r"\begin{document}",
            *tables,
            r"\end{document}",
        ]
    )
    (tmp_path / "t.tex").write_text(document, encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "t.pdf").stat().st_size > 10_000
    assert not re.findall(r"Overfull \\hbox \((?:[2-9]\d|\d{3,})\.", done.stdout)
