"""The table as one JSON document; docs/reading-results.md describes its keys."""

import json
from dataclasses import asdict
from typing import Any, Final

from mistral_eval.report.baselines import PublishedCell
from mistral_eval.report.table.view import CellView, RowView, TableView

FORMAT: Final = "mistral-eval/table/1"


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
        "rows": [_row(row, view) for row in view.rows],
        "notes": list(view.notes),
        "sections": [
            {
                "title": section.title,
                "header": list(section.header),
                "rows": [list(row) for row in section.rows],
                "notes": list(section.notes),
            }
            for section in view.sections
        ],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _row(row: RowView, view: TableView) -> dict[str, Any]:
    cells = {
        benchmark.id: _cell(cell) for benchmark, cell in zip(view.columns, row.cells, strict=True)
    }
    about = {"id": row.id, "name": row.label, "kind": row.kind}
    if row.run is not None:
        run = row.run
        about |= {"path": run.path, "model": run.model, "engine": run.engine, "date": run.date}
        numbers = {"seed": run.seed, "is_model": row.is_model, "limited": row.limited}
        return about | numbers | {"cells": cells}
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
