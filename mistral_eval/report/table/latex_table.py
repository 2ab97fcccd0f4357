"""The table as LaTeX with booktabs: one `table*` environment per table, ready to be included."""

from collections.abc import Sequence
from typing import Final

from mistral_eval.report.table.view import (
    MISSING,
    OTHER_PROTOCOL,
    CellView,
    RowView,
    Section,
    TableView,
)

SHRINK: Final = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
_ESCAPES: Final = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    MISSING: "---",
    OTHER_PROTOCOL: r"\textsuperscript{\dag}",
}


def latex_table(view: TableView) -> str:
    """Return the table as LaTeX; a comment in the first line names the packages it needs."""
    parts = [
        "% needs \\usepackage{booktabs,graphicx} and \\usepackage[T1]{fontenc}",
        *([] if view.is_figure else _float(view.title, _main(view), view.notes)),
    ]
    for section in view.sections:
        parts += _float(section.title, _section(section), section.notes)
    return "\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Escape text so that LaTeX prints it literally, on one line."""
    flat = " ".join(text.split())
    return "".join(_ESCAPES.get(char, char) for char in flat)


def _float(title: str, tabular: Sequence[str], notes: Sequence[str]) -> list[str]:
    lines = [r"\begin{table*}", r"\centering", rf"\caption{{{escape(title)}}}", r"\small"]
    lines += [r"\setlength{\tabcolsep}{4pt}", SHRINK, *tabular, "}"]
    if notes:
        lines += [r"\par\medskip", r"\begin{minipage}{\linewidth}\footnotesize\raggedright"]
        lines += [rf"{escape(note)}\par" for note in notes]
        lines.append(r"\end{minipage}")
    return [*lines, r"\end{table*}"]


def _main(view: TableView) -> list[str]:
    header = [*view.lead, *(escape(benchmark.column) for benchmark in view.columns)]
    body: list[str] = []
    for i, row in enumerate(view.rows):
        if row.kind == "run" and i and view.rows[i - 1].kind == "published":
            body.append(r"\midrule")
        body += _row(row, view)
    return _tabular(header, body, range(len(view.lead)))


def _row(row: RowView, view: TableView) -> list[str]:
    lead = [escape(row.label)] if view.has_runs else [escape(row.label), escape(row.modality)]
    lines = [_line([*lead, *(_score(cell) for cell in row.cells)])]
    if row.kind == "run":
        remark = "" if row.is_model else ", not a model"
        asked = "questions (limited)" if row.limited else "questions"
        for i, what in enumerate((f"95 % from{remark}", "to", asked)):
            cells = [rf"\scriptsize {c.evidence[i]}" if c.evidence else "" for c in row.cells]
            lines.append(_line([rf"\quad\scriptsize {escape(what)}", *cells]))
    return lines


def _score(cell: CellView) -> str:
    text = escape(cell.text)
    return (rf"\textbf{{{text}}}" if cell.best else text) + escape(cell.mark)


def _section(section: Section) -> list[str]:
    header = [escape(head) for head in section.header]
    body = [_line([escape(cell) for cell in row]) for row in section.rows]
    return _tabular(header, body, section.words)


def _tabular(header: Sequence[str], body: Sequence[str], words: Sequence[int]) -> list[str]:
    columns = "".join("l" if i in words else "r" for i in range(len(header)))
    return [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _line(header),
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
