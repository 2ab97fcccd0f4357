"""Published numbers of chat models: every digit of Tables 3 and 4, sources, and broken files."""

import copy
import csv
import json
import re

import pytest

from mistral_eval.errors import BaselineError
from mistral_eval.report.chat_baselines import (
    LMSYS,
    TABLE_3,
    TABLE_4,
    XSTEST,
    load_chat_baselines,
)

TABLES = load_chat_baselines()


def rows_of_page(page: str, heading: str) -> list[list[str]]:
    lines = page[page.index(heading) :].splitlines()[3:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_table_3_is_the_papers(shared):
    page = (shared / "reference" / "paper.md").read_text("utf-8")
    ours = [
        [row.name, str(row.cells["arena_elo"]), str(row.cells["mt_bench"]).replace("±", "+/-")]
        for row in TABLES[TABLE_3].rows
    ]
    assert rows_of_page(page, "### Table 3, chat models") == ours


def test_table_4_is_the_papers(shared):
    page = (shared / "reference" / "paper.md").read_text("utf-8")
    line = next(text for text in page.splitlines() if text.startswith("No system prompt 6.84"))
    ours = [str(row.cells["mt_bench"]).replace("±", "+/-") for row in TABLES[TABLE_4].rows]
    assert re.findall(r"\d\.\d\d(?: \+/- \d\.\d\d)?", line) == ours
    assert [row.system_prompt for row in TABLES[TABLE_4].rows[:3]] == ["none", "llama2", "mistral"]


def test_the_official_means_are_the_published_ones(shared):
    with (shared / "transcripts" / "chat" / "mt_bench_published.csv").open(
        encoding="utf-8"
    ) as file:
        expected = sorted(row["published"] for row in csv.DictReader(file))
    ours = [row.cells["mt_bench"].text for row in TABLES[LMSYS].rows]
    assert len(expected) == 17
    assert not [value for value in expected if value not in ours]
    assert {"6.86", "6.35", "6.00"} <= set(ours)  # of the reference page, beside the 17
    assert ours == sorted(ours, reverse=True)


def test_the_human_rates_are_those_of_the_labels(shared):
    import pandas as pd

    table = pd.read_parquet(shared / "transcripts" / "chat" / "xstest_refusals.parquet")
    ids = {"mistralguard": "mistral-7b-instruct-guardrail", "llama2orig": "llama2-chat"}
    for model, part in table.groupby("model"):
        row = TABLES[XSTEST].row(ids[model])
        for prompts, unsafe in (("safe", False), ("unsafe", True)):
            labels = part[part.type.str.startswith("contrast") == unsafe].final_label
            counts = {"full": ["2"], "any": ["2", "3"]}
            for name, kinds in counts.items():
                found = int(labels.str[0].isin(kinds).sum())
                assert row.cells[f"xstest_{prompts}_{name}"].count == found


def test_a_rate_has_wilsons_interval_and_a_rating_has_none():
    table = TABLES[XSTEST]
    interval = table.interval(table.row("mistral-7b-instruct-guardrail"), "xstest_safe_any")
    assert [round(end, 1) for end in (interval.low, interval.high)] == [14.4, 24.1]
    assert TABLES[TABLE_3].interval(TABLES[TABLE_3].rows[0], "mt_bench") is None


def test_every_number_has_a_source_a_metric_and_an_n_or_a_reason():
    for table in TABLES.values():
        assert table.source.url.startswith("https://")
        for name, column in table.columns.items():
            assert column.n or column.note, name
            assert any(name in row.cells for row in table.rows), name


GOOD = {
    "group": "g",
    "title": "t",
    "source": {"title": "t", "url": "https://x", "table": "1"},
    "columns": {"a": {"metric": "share in percent", "n": 250}},
    "rows": [{"id": "m", "name": "M", "cells": {"a": {"value": 18.8, "count": 47}}}],
}


def broken(*path: object, value: object) -> dict:
    data = copy.deepcopy(GOOD)
    inner = data
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return data


def test_a_good_file_is_read(tmp_path):
    (tmp_path / "g.json").write_text(json.dumps(GOOD), "utf-8")
    assert load_chat_baselines(tmp_path)["g"].row("m").cells["a"].value == 18.8


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "expected an object, found a list"),
        (broken("group", value="h"), "expected the file's name, 'g', found 'h'"),
        (broken("rows", value=[]), "rows: expected a list that is not empty"),
        (broken("rows", value=3), "rows: expected a list, found 3"),
        (broken("rows", 0, "cells", "a", value="18.8"), "expected a number, found '18.8'"),
        (broken("rows", 0, "cells", "b", value=1), r"columns\.b: expected a value"),
        (broken("rows", 0, "cells", "a", "count", value=48), "to be a count of 250, found 48"),
        (broken("columns", "a", "n", value=None), "to be a count of None"),
        (broken("source", "url", value="http://x"), "expected an https:// address"),
        (broken("rows", value=GOOD["rows"] * 2), "each model once per system prompt"),
        (broken("extra", value=1), "unknown field"),
    ],
)
def test_a_broken_file_is_named_with_its_field(tmp_path, data, words):
    (tmp_path / "g.json").write_text(json.dumps(data), "utf-8")
    with pytest.raises(BaselineError, match=words) as caught:
        load_chat_baselines(tmp_path)
    assert str(tmp_path / "g.json") in str(caught.value)


def test_an_empty_folder_and_no_json_are_errors(tmp_path):
    with pytest.raises(BaselineError, match="No published numbers"):
        load_chat_baselines(tmp_path / "none")
    (tmp_path / "g.json").write_text("{", "utf-8")
    with pytest.raises(BaselineError, match="not readable as JSON"):
        load_chat_baselines(tmp_path)
