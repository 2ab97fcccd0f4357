"""The table as GitHub-flavoured markdown."""

from collections.abc import Sequence
from typing import Final

from mistral_eval.report.table.view import CellView, RowView, Section, TableView, points

_SPECIAL: Final = "\\`*_{}[]<>#|~&"


def markdown_table(view: TableView) -> str:
    """Return the page as markdown: heading, table, notes, then the sections."""
    parts = [f"### {escape(view.title)}", _main(view), notes_list(view.notes)]
    for section in view.sections:
        parts += [
            f"#### {escape(section.title)}",
            section_table(section),
            notes_list(section.notes),
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


def section_table(section: Section) -> str:
    """Return a section's rows as a markdown table."""
    header = [escape(head) for head in section.header]
    rows = [[escape(cell) for cell in row] for row in section.rows]
    return grid(header, rows, section.words)


def escape(text: str) -> str:
    """Return text that markdown shows as it is, on one line, and that no table is broken by."""
    flat = " ".join(text.split())
    return "".join(f"\\{char}" if char in _SPECIAL else char for char in flat)


def grid(header: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[int]) -> str:
    """Return a markdown table of cells that are already escaped, padded so that the source reads.

    The columns in `words` are set from the left, the others from the right.
    """
    widths = [max(3, *(len(row[i]) for row in (header, *rows))) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if i in words else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * width if i in words else "-" * (width - 1) + ":" for i, width in enumerate(widths)
    ]
    return "\n".join((line(header), line(rule), *(line(row) for row in rows)))


def _main(view: TableView) -> str:
    first = ["Model"] if view.has_runs else ["Model", "Modality"]
    header = [*first, *(escape(benchmark.column) for benchmark in view.columns)]
    rows = [
        [*_lead(row, has_runs=view.has_runs), *(_cell(cell) for cell in row.cells)]
        for row in view.rows
    ]
    return grid(header, rows, range(len(first)))


def _lead(row: RowView, *, has_runs: bool) -> list[str]:
    label = escape(row.label)
    if row.kind == "run":
        label = f"**{label}**" + (f" ({', '.join(row.remarks)})" if row.remarks else "")
    return [label] if has_runs else [label, escape(row.modality)]


def _cell(cell: CellView) -> str:
    text = f"**{cell.text}**" if cell.best else cell.text
    if cell.n is None or cell.low is None or cell.high is None:
        return text + cell.mark
    return f"{text}<br>\\[{points(cell.low)}, {points(cell.high)}\\]<br>N {cell.n}"


def notes_list(notes: Sequence[str]) -> str:
    """Return notes as a markdown list."""
    return "\n".join(f"- {escape(note)}" for note in notes)
