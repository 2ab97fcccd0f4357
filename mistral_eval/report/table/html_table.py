"""The table as one HTML page without scripts: light and dark, wide and narrow."""

from collections.abc import Sequence
from html import escape
from typing import Final

from mistral_eval.report.table.view import CellView, RowView, Section, TableView

STYLE: Final = """
:root { color-scheme: light dark;
  --page: #fff; --quiet: #5c6370; --line: #d5d8de; --run: #eef4ff; }
@media screen and (prefers-color-scheme: dark) {
  :root { --page: #14171c; --quiet: #a3abb8; --line: #3a3f4a; --run: #1c2738; } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem;
  padding: 0 1rem; background: var(--page); }
h1 { font-size: 1.25rem; } h2 { font-size: 1.05rem; margin-top: 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .93em; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .45rem; text-align: right; vertical-align: top; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
thead th { border-bottom: 2px solid currentcolor; vertical-align: bottom; }
th:first-child, .text { text-align: left; }
th:first-child { position: sticky; left: 0; background: var(--page); white-space: normal;
  min-width: 7rem; max-width: 14rem; overflow-wrap: anywhere; }
tbody th { font-weight: 400; } tr.run th { font-weight: 600; }
tr.run, tr.run th:first-child { background: var(--run); }
small { display: block; color: var(--quiet); font-weight: 400; }
ul { color: var(--quiet); padding-left: 1.2rem; overflow-wrap: anywhere; }
@media print { :root { color-scheme: light; } body { margin: 0; max-width: none; }
  .scroll { overflow: visible; } }
""".strip()


def html_page(view: TableView) -> str:
    """Return a page without scripts or network access; every text is escaped."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(view.title)}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n"
        f"<h1>{escape(view.title)}</h1>\n{html_fragment(view)}\n</body>\n</html>\n"
    )


def html_fragment(view: TableView) -> str:
    """Return the tables and notes without the page's head and style."""
    if view.is_figure:  # the page's heading is the section's title
        return "\n".join(map(section_html, view.sections))
    parts = [_main(view), _notes(view.notes)]
    for section in view.sections:
        parts += [f"<h2>{escape(section.title)}</h2>", section_html(section)]
    return "\n".join(part for part in parts if part)


def section_html(section: Section) -> str:
    """Return a section's table and notes, without its title."""
    return "\n".join(part for part in (_section(section), _notes(section.notes)) if part)


def _main(view: TableView) -> str:
    heads = [f'<th scope="col">{head}</th>' for head in view.lead]
    heads += [
        f'<th scope="col">{escape(b.column)}<small>{b.shots_label}-shot</small></th>'
        for b in view.columns
    ]
    rows = [_row(row, has_runs=view.has_runs) for row in view.rows]
    return _table(view.title, heads, rows)


def _row(row: RowView, *, has_runs: bool) -> str:
    small = f"<small>{', '.join(row.remarks)}</small>" if row.remarks else ""
    cells = [f'<th scope="row">{escape(row.label)}{small}</th>']
    if not has_runs:
        cells.append(f'<td class="text">{escape(row.modality)}</td>')
    cells += [_cell(cell) for cell in row.cells]
    return f'<tr class="{row.kind}">{"".join(cells)}</tr>'


def _cell(cell: CellView) -> str:
    text = escape(cell.text)
    score = f"<strong>{text}</strong>" if cell.best else text
    mark = f'<abbr title="another protocol, see the notes">{cell.mark}</abbr>' if cell.mark else ""
    if not cell.evidence:
        return f"<td>{score}{mark}</td>"
    low, high, n = cell.evidence
    return f"<td>{score}{mark}<small>[{low}, {high}]</small><small>N {n}</small></td>"


def _section(section: Section) -> str:
    kinds = [' class="text"' if i in section.words else "" for i in range(len(section.header))]
    heads = [
        f'<th scope="col"{kind}>{escape(head)}</th>'
        for head, kind in zip(section.header, kinds, strict=True)
    ]
    rows = []
    for first, *rest in section.rows:
        cells = "".join(
            f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(rest, kinds[1:], strict=True)
        )
        rows.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
    return _table(section.title, heads, rows)


def _table(name: str, heads: Sequence[str], rows: Sequence[str]) -> str:
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(name)}">\n<table>\n'
        f"<thead><tr>{''.join(heads)}</tr></thead>\n<tbody>\n"
        + "\n".join(rows)
        + "\n</tbody>\n</table>\n</div>"
    )


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    return "<ul>\n" + "\n".join(f"<li>{escape(note)}</li>" for note in notes) + "\n</ul>"
