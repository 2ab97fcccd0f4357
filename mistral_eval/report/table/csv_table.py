"""The table as CSV (RFC 4180): one row per model, only comparable numbers in the columns."""

import csv
import io
from typing import Final

from mistral_eval.report.table.view import OTHER_PROTOCOL, RowView, TableView

EVIDENCE: Final = ("low", "high", "n")


def csv_table(view: TableView) -> str:
    """Return the main table; a measured column is followed by its interval's ends and N.

    A published number of another protocol is put into the last column, as text, so that it is not
    averaged with the others. An empty cell means not measured or not published.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header = ["Model", "Kind", "Modality"]
    for benchmark in view.columns:
        header.append(benchmark.column)
        if view.has_runs:
            header += [f"{benchmark.column} {what}" for what in EVIDENCE]
    writer.writerow([*header, "Other protocol"])
    for row in view.rows:
        writer.writerow(_row(row, view))
    return out.getvalue()


def _row(row: RowView, view: TableView) -> list[str]:
    kind: str = row.kind if row.is_model else "not a model"
    kind = f"{kind} (limited)" if row.limited else kind
    line = [_safe(row.label), kind, row.modality]
    apart = []
    for benchmark, cell in zip(view.columns, row.cells, strict=True):
        inside = cell.value is not None and not cell.mark
        line.append(cell.text if inside else "")
        if cell.mark == OTHER_PROTOCOL:
            apart.append(f"{benchmark.column} {cell.text}")
        if view.has_runs:
            run = cell.measured
            line += [f"{run.low:.2f}", f"{run.high:.2f}", str(run.n)] if run else ["", "", ""]
    return [*line, "; ".join(apart)]


def _safe(label: str) -> str:
    """Prevent a spreadsheet from reading a label as a formula (OWASP, CSV injection)."""
    return f"'{label}" if label[:1] in ("=", "+", "-", "@", "\t", "\r") else label
