"""The table as GitHub-flavoured markdown."""

from collections.abc import Sequence
from typing import Final

from mistral_eval.report.table.view import CellView, RowView, Section, TableView

_SPECIAL: Final = "\\`*_{}[]<>#|~&"


def markdown_table(view: TableView) -> str:
    """Return the table as markdown: heading, table, notes, then the sections."""
    if view.is_figure:
        return join(sections_markdown(view.sections, "###"))
    parts = [f"### {escape(view.title)}", _main(view), notes_list(view.notes)]
    return join([*parts, *sections_markdown(view.sections, "####")])


def sections_markdown(sections: Sequence[Section], heading: str) -> list[str]:
    """Return each section's heading, table and notes; `heading` is the markdown prefix."""
    parts = []
    for section in sections:
        header = [escape(head) for head in section.header]
        rows = [[escape(cell) for cell in row] for row in section.rows]
        parts += [f"{heading} {escape(section.title)}", grid(header, rows, section.words)]
        parts.append(notes_list(section.notes))
    return parts


def join(parts: Sequence[str]) -> str:
    """Join the blocks of a page that are not empty, separated by blank lines."""
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: str) -> str:
    """Escape text so that markdown shows it literally, on one line, also inside a table."""
    flat = " ".join(text.split())
    return "".join(f"\\{char}" if char in _SPECIAL else char for char in flat)


def grid(header: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[int]) -> str:
    """Return a markdown table of escaped cells, padded so that the source is readable.

    The columns in `words` are left-aligned, the others right-aligned.
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
    header = [*view.lead, *(escape(benchmark.column) for benchmark in view.columns)]
    rows = [
        [*_lead(row, has_runs=view.has_runs), *(_cell(cell) for cell in row.cells)]
        for row in view.rows
    ]
    return grid(header, rows, range(len(view.lead)))


def _lead(row: RowView, *, has_runs: bool) -> list[str]:
    label = escape(row.label)
    if row.kind == "run":
        label = f"**{label}**" + (f" ({', '.join(row.remarks)})" if row.remarks else "")
    return [label] if has_runs else [label, escape(row.modality)]


def _cell(cell: CellView) -> str:
    text = f"**{cell.text}**" if cell.best else cell.text
    if not cell.evidence:
        return text + cell.mark
    low, high, n = cell.evidence
    return f"{text}{cell.mark}<br>\\[{low}, {high}\\]<br>N {n}"


def notes_list(notes: Sequence[str]) -> str:
    """Return notes as a markdown list."""
    return "\n".join(f"- {escape(note)}" for note in notes)
