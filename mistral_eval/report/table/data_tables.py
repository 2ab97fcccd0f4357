"""The table for programs: one JSON document (docs/reading-results.md has its keys), and CSV."""

import csv
import io
import json
from dataclasses import asdict
from typing import Any, Final

from mistral_eval.report.baselines import PublishedCell
from mistral_eval.report.table.view import OTHER_PROTOCOL, CellView, RowView, TableView

FORMAT: Final = "mistral-eval/table/1"
EVIDENCE: Final = ("low", "high", "n")


def json_table(view: TableView) -> str:
    """Return the whole view: numbers as numbers, `text` as printed, null for what is missing.

    A published number that has no place in a column (other shots, other benchmark) is in `apart`.
    """
    document = {
        "format": FORMAT,
        "title": view.title,
        "columns": [
            {
                "id": benchmark.id,
                "name": benchmark.column,
                "n": benchmark.n,
                "shots": benchmark.shots,
                "metric": benchmark.cell,
                "group": benchmark.group,
            }
            for benchmark in view.columns
        ],
        "rows": [_json_row(row, view) for row in view.rows],
        "notes": view.notes,
        "sections": [
            {key: getattr(section, key) for key in ("title", "header", "rows", "notes")}
            | ({"data": section.data} if section.data else {})
            for section in view.sections
        ],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _json_row(row: RowView, view: TableView) -> dict[str, Any]:
    cells = {
        benchmark.id: _cell(cell) for benchmark, cell in zip(view.columns, row.cells, strict=True)
    }
    about: dict[str, Any] = {"id": row.id, "name": row.label, "kind": row.kind}
    if row.run is not None:
        run = row.run
        path = None if run.error else run.path
        about |= {"path": path, "model": run.model, "engine": run.engine, "date": run.date}
        numbers = {"seed": run.seed, "is_model": row.is_model, "limited": row.limited}
        step = {"step": run.step.model_dump()} if run.step else {}
        failed = {"error": run.error} if run.error else {}
        return about | numbers | step | failed | {"cells": cells}
    assert row.published is not None, row  # a row is one or the other
    apart = {
        name: _published(cell)
        for name, cell in (*row.published.cells.items(), *row.published.other.items())
        if name not in cells or not cell.fits_column(name)
    }
    about |= {"modality": row.modality, "publication": row.published.group_title}
    return about | {"source": asdict(row.published.source), "cells": cells, "apart": apart}


def _cell(cell: CellView) -> dict[str, Any] | None:
    common = {"text": cell.text, "best": cell.best}
    if cell.published is not None:
        return _published(cell.published) | common
    return None if cell.measured is None else asdict(cell.measured) | common


def _published(cell: PublishedCell) -> dict[str, Any]:
    return asdict(cell.protocol) | {
        "value": cell.value,
        "text": cell.text,
        "comparable": cell.comparable,
        "remark": cell.remark,
    }


def csv_table(view: TableView) -> str:
    """Return the main table as CSV (RFC 4180); a measured column is followed by its evidence.

    A published number of another protocol is put into the last column, as text, so that it is not
    averaged with the others. An empty cell means not measured or not published. Of a figure its
    sections are written, whose cells are text.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if view.is_figure:
        for section in view.sections:
            writer.writerow(section.header)
            writer.writerows((_safe(label), *cells) for label, *cells in section.rows)
        return out.getvalue()
    header = ["Model", "Kind", "Modality"]
    for benchmark in view.columns:
        header.append(benchmark.column)
        if view.has_runs:
            header += [f"{benchmark.column} {what}" for what in EVIDENCE]
    writer.writerow([*header, "Other protocol"])
    for row in view.rows:
        writer.writerow(_csv_row(row, view))
    return out.getvalue()


def _csv_row(row: RowView, view: TableView) -> list[str]:
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
