"""The table on a terminal, transposed where the terminal is too narrow for it.

Scores are aligned in their column; a run's interval and N are printed dim below its score. Nothing
is shown by colour alone, so NO_COLOR and a pipe lose nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mistral_eval.report.table.view import MISSING, CellView, RowView, Section, TableView

EVIDENCE: Final = ("  95 % from", "       to", "  questions")
LABEL_WIDTH: Final = 24  # longer labels wrap
LINE_WIDTH: Final = 16  # of texts in a section that does not fit otherwise


@dataclass(frozen=True, slots=True)
class Column:
    """A column of styled text: heading, cells, and whether it is right-aligned."""

    head: Text
    body: tuple[Text, ...]
    right: bool = True

    @property
    def width(self) -> int:
        """Terminal cells of the widest line."""
        lines = (line for text in (self.head, *self.body) for line in text.plain.split("\n"))
        return max((cell_len(line) for line in lines), default=0)


Unit = tuple[Column, ...]
"""Columns that stay together when a table is split."""


@dataclass(frozen=True, slots=True)
class RichTable:
    """A table view that adapts to the console's width when it is printed."""

    view: TableView

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the main table, its notes, then each section with its own."""
        width = options.max_width
        if self.view.is_figure:
            yield RichSections(self.view.sections)
            return
        yield Text(self.view.title, style="bold")
        ends = [row.kind == "run" for row in self.view.rows]
        yield from _fitted(_wide(self.view), lambda: _upright(self.view), width, ends)
        yield _notes(self.view.notes)
        for section in self.view.sections:
            yield Text()
            yield from _titled(section, width)


@dataclass(frozen=True, slots=True)
class RichSections:
    """Sections on their own, one below the other."""

    sections: Sequence[Section]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield each section with its title and notes."""
        for i, section in enumerate(self.sections):
            if i:
                yield Text()
            yield from _titled(section, options.max_width)


def _titled(section: Section, width: int) -> RenderResult:
    yield Text(section.title, style="bold")
    yield from _section(section, width)
    yield _notes(section.notes)


def _wide(view: TableView) -> list[Column]:
    """Return the columns of the paper's layout: models down, benchmarks across."""
    lead = (tuple(map(_label, view.rows)), tuple(Text(row.modality, "dim") for row in view.rows))
    columns = [
        Column(Text(head, "bold"), body, right=False)
        for head, body in zip(view.lead, lead, strict=False)
    ]
    for i, benchmark in enumerate(view.columns):
        head = Text.assemble((benchmark.column, "bold"), (f"\n{benchmark.shots_label}-shot", "dim"))
        cells = [row.cells[i] for row in view.rows]
        marked = any(cell.mark for cell in cells)
        body = tuple(
            _stacked(cell, row, marked=marked) for cell, row in zip(cells, view.rows, strict=True)
        )
        columns.append(Column(head, body))
    return columns


def _label(row: RowView) -> Text:
    lines = "\n".join(_label_lines(row))
    if row.kind == "published":
        return Text(lines)
    if "failed" in row.remarks:
        return Text(lines, "bold cyan")
    return Text.assemble((lines, "bold cyan"), ("\n" + "\n".join(EVIDENCE), "dim"))


def _label_lines(row: RowView) -> list[str]:
    label = f"{row.label} ({', '.join(row.remarks)})" if row.remarks else row.label
    return [label] if cell_len(label) <= LABEL_WIDTH else _broken(label, LABEL_WIDTH)


def _stacked(cell: CellView, row: RowView, *, marked: bool) -> Text:
    """Return a score with its interval and N below, on the lines that `_label` names them on."""
    text = _score(cell, marked=marked)
    if cell.evidence:
        text.append("\n" * (len(_label_lines(row)) - 1))
    for line in cell.evidence:
        text.append(f"\n{line}{' ' if marked else ''}", "dim")
    return text


def _score(cell: CellView, *, marked: bool) -> Text:
    """Return the score, padded if its column has marks so that the digits stay aligned."""
    style = "bold" if cell.best else ("dim" if cell.value is None else "")
    return Text.assemble((cell.text, style), cell.mark or (" " if marked else ""))


def _upright(view: TableView) -> list[Unit]:
    """Return the narrow layout: benchmarks down, models across, three columns per run."""
    names = tuple(Text(benchmark.column) for benchmark in view.columns)
    units: list[Unit] = [(Column(Text("Benchmark", "bold"), names, right=False),)]
    for row in view.rows:
        marked = any(cell.mark for cell in row.cells)
        lines = [*_broken(row.label), *(f"({remark})" for remark in row.remarks)]
        head = Text("\n".join(lines), "bold" if row.kind == "published" else "bold cyan")
        scores = Column(head, tuple(_score(cell, marked=marked) for cell in row.cells))
        ends = [cell.evidence for cell in row.cells]
        ranges = tuple(Text(f"{end[0]} to {end[1]}" if end else MISSING, "dim") for end in ends)
        asked = tuple(Text(end[2] if end else MISSING, "dim") for end in ends)
        more = (Column(Text("95 %", "dim"), ranges), Column(Text("N", "dim"), asked))
        units.append((scores,) if row.kind == "published" else (scores, *more))
    return units


def _broken(label: str, width: int = 8) -> list[str]:
    """Break a label at spaces, hyphens and slashes into lines of about `width` cells."""
    lines, line = [], ""
    for word in label.replace("/", "/ ").replace("-", "- ").split():
        joined = line + ("" if not line or line[-1] in "/-" else " ") + word
        if line and cell_len(joined) > width:
            lines.append(line)
            joined = word
        line = joined
    return [*lines, line]


def _section(section: Section, width: int) -> Iterator[Table]:
    columns = [
        Column(
            Text(head, "bold"),
            tuple(Text(row[i].replace(" [", "\n[")) for row in section.rows),
            right=i not in section.words,
        )
        for i, head in enumerate(section.header)
    ]
    if not section.turns:
        widest = max(column.width for column in columns)
        if _total(columns, 1) - max(0, widest - LINE_WIDTH) <= width:
            gap = 2 if _total(columns, 2) <= width else 1
            yield _table(columns, gap, width)
            return
        broken = [_in_lines(column) for column in columns]
        names = next((i for i in range(len(broken)) if i not in section.words), len(broken))
        units: list[Unit] = [tuple(broken[:names]), *((column,) for column in broken[names:])]
        yield from _fitted(broken, lambda: units, width)
        return

    heads = tuple(Text(head) for head in section.header[1:])
    turned: list[Unit] = [(Column(Text(section.header[0], "bold"), heads, right=False),)]
    turned += [
        (Column(Text("\n".join(_broken(row[0])), "bold"), tuple(Text(cell) for cell in row[1:])),)
        for row in section.rows
    ]

    yield from _fitted(columns, lambda: turned, width)


def _in_lines(column: Column) -> Column:
    """Return a column with its texts broken into lines of about `LINE_WIDTH` cells."""

    def broken(text: Text) -> Text:
        lines = [part for line in text.plain.split("\n") for part in _broken(line, LINE_WIDTH)]
        return Text("\n".join(lines), text.style)

    return Column(broken(column.head), tuple(map(broken, column.body)), column.right)


def _fitted(
    wide: Sequence[Column],
    upright: Callable[[], Sequence[Unit]],
    width: int,
    ends: Sequence[bool] = (),
) -> Iterator[Table]:
    """Yield the wide table if it fits, else the narrow layout split into tables that fit."""
    for gap in (2, 1):
        if _total(wide, gap) <= width:
            yield _table(wide, gap, width, ends)
            return
    first, *rest = upright()
    block = list(first)
    for unit in rest:
        if len(block) > len(first) and _total([*block, *unit], 2) > width:
            yield _table(block, 2, width)
            block = list(first)
        block += unit
    yield _table(block, 2, width)


def _total(columns: Sequence[Column], gap: int) -> int:
    first, *rest = columns
    return 2 + first.width + sum(gap + column.width for column in rest)


def _table(columns: Sequence[Column], gap: int, width: int, ends: Sequence[bool] = ()) -> Table:
    """Return a rich table; a blank line follows each row whose entry in `ends` is true."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, gap - 1, 0, 0), pad_edge=False, header_style="")
    fits = _total(columns, gap) <= width
    widest = max(columns, key=lambda column: column.width)  # the one to wrap where all do not fit
    for column in columns:
        table.add_column(
            column.head,
            justify="right" if column.right else "left",
            no_wrap=fits or column is not widest,
            min_width=column.width if fits or column is not widest else None,
            overflow="fold",
        )
    for i, cells in enumerate(zip(*(column.body for column in columns), strict=True)):
        table.add_row(*cells, end_section=i < len(ends) and ends[i])
    return table


def _notes(notes: Sequence[str]) -> Padding:
    grid = Table.grid(padding=(0, 1, 0, 0))
    for note in notes:
        grid.add_row(Text("·", "dim"), Text(note, "dim", overflow="fold"))
    return Padding(grid, (0, 0, 0, 1))
