"""Published numbers: every digit, their sources, and what a broken file says."""

import json
import re
from pathlib import Path

import pytest

from mistral_eval.errors import BaselineError, UsageError
from mistral_eval.report.baselines import (
    ALIASES,
    PAPER,
    Baseline,
    baselines_folder,
    load_baselines,
    select,
)
from mistral_eval.suite.registry import BY_ID, SUITES, paper_benchmarks

TABLE_2 = """
LLaMA 2 7B    | Pretrained | 44.4 77.1 69.5 77.9 68.7 43.2 24.7 63.8 11.6 26.1 3.9 16.0
LLaMA 2 13B   | Pretrained | 55.6 80.7 72.9 80.8 75.2 48.8 29.0 69.6 18.9 35.4 6.0 34.3
Code-Llama 7B | Finetuned  | 36.9 62.9 62.3 72.8 59.4 34.5 11.0 34.9 31.1 52.5 5.2 20.8
Mistral 7B    | Pretrained | 60.1 81.3 75.3 83.0 80.0 55.5 28.8 69.9 30.5 47.5 13.1 52.2
"""


@pytest.fixture(scope="module")
def everything() -> tuple[Baseline, ...]:
    return load_baselines()


def by_id(everything: tuple[Baseline, ...], name: str) -> Baseline:
    return next(baseline for baseline in everything if baseline.id == name)


def printed(baseline: Baseline) -> list[str]:
    return [
        baseline.cells[b.id].text if b.id in baseline.cells else "-" for b in paper_benchmarks()
    ]


def test_the_papers_table_2_is_there_to_the_digit(everything):
    """All 48 numbers of Table 2, with their trailing zeros, names and modalities, in order."""
    expected = []
    for line in TABLE_2.strip().splitlines():
        name, modality, numbers = (part.strip() for part in line.split("|"))
        expected.append((name, modality, numbers.split()))
    paper = [b for b in everything if b.group == PAPER]
    assert expected == [(b.name, b.modality, printed(b)) for b in paper]


def test_the_papers_table_comes_first(everything):
    assert {b.group for b in everything[:4]} == {PAPER}


@pytest.mark.parametrize(
    ("heading", "group"),
    [
        ("### Table 2, base models", PAPER),
        ("### Mixtral paper Table 2", "mixtral-paper-table2"),
        ("### Llama 1 and 2 as published by Meta", "llama2-paper"),
    ],
)
def test_every_number_agrees_with_the_reference_page(everything, shared: Path, heading, group):
    """The twelve columns of each table of the reference page, read again and compared as text."""
    page = (shared / "reference" / "paper.md").read_text(encoding="utf-8")
    lines = page[page.index(heading) :].splitlines()[1:]
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    skip = 1 if group == "llama2-paper" else 2  # the other tables have a column before MMLU
    expected = {row[0]: row[skip : skip + 12] for row in rows}
    assert expected == {b.name: printed(b) for b in everything if b.group == group}


def test_every_row_of_the_reported_numbers_that_we_carry_agrees(everything, shared: Path):
    """Each number of the groups taken from the reference JSON is in it, as printed there."""
    text = (shared / "reference" / "mistral_7b_reported_numbers.json").read_text(encoding="utf-8")
    known = set(re.findall(r": (\d+(?:\.\d+)?)", text))
    groups = (
        "mistral-card-early", "mistral-docs", "open-llm-leaderboard-v1", "dclm", "mamba-7b-card",
        "math-evaluation-harness", "abel",
    )  # fmt: skip
    ours = {
        cell.text
        for b in everything
        if b.group in groups
        for cell in (*b.cells.values(), *b.other.values())
    }
    assert set() == ours - known
    assert len(ours) > 60


def test_mistrals_early_card_has_two_decimals_and_single_sample_maths(everything):
    card = by_id(everything, "mistral-card-early/mistral-7b")
    expected = "59.99 81.19 75.53 82.92 80.01 55.38 28.92 69.88 29.88 47.86 11.94 39.35"
    assert expected == " ".join(printed(card))
    marked = {name for name, cell in card.cells.items() if not cell.comparable}
    assert {"math", "gsm8k"} == marked
    assert (card.other["nq:0-shot"].text, card.other["triviaqa:0-shot"].text) == ("23.96", "63.22")


def test_zero_shot_nq_and_triviaqa_of_the_mixtral_paper_fit_no_column(everything):
    for baseline in everything:
        if baseline.group == "mixtral-paper-table2":
            for name in ("nq", "triviaqa"):
                assert baseline.cells[name].protocol.shots == 0
                assert not baseline.cells[name].fits_column(name)


def test_a_comparable_number_always_has_the_columns_shots(everything):
    for baseline in everything:
        for name, cell in baseline.cells.items():
            if cell.comparable:
                assert cell.protocol.shots == BY_ID[name].shots


def test_pinned_test_set_sizes_reproduce_the_printed_numbers(everything):
    """With N pinned, some whole number of right answers rounds to each number Mistral printed."""
    checked = 0
    for baseline in everything:
        if baseline.group not in {PAPER, "mistral-card-early", "mixtral-paper-table2"}:
            continue
        for cell in (*baseline.cells.values(), *baseline.other.values()):
            n = cell.protocol.n
            if n is None or not cell.protocol.n_basis.startswith("pinned"):
                continue
            digits = len(cell.text.partition(".")[2])
            k = round(cell.value * n / 100)
            candidates = [f"{100 * c / n:.{digits}f}" for c in (k - 1, k, k + 1)]
            assert cell.text in candidates, (baseline.id, cell.text, n)
            checked += 1
    assert checked > 60


def test_what_was_read_from_figure_4_is_what_the_reference_page_has(everything, shared: Path):
    """Each reading, to the digit; of a range its middle, with the range as the remark."""
    page = (shared / "reference" / "paper.md").read_text(encoding="utf-8")
    lines = page[page.index("### Figure 4") :].splitlines()[3:11]
    models = ("mistral-7b", "llama2-7b", "llama2-13b", "llama1-33b")
    groups = {"AGI Eval": "agieval", "BBH": "bbh", "MMLU": "mmlu", "Math": "maths", "Code": "code"}
    checked = 0
    for line in lines:
        title, *values, _ = (cell.strip() for cell in line.strip("|").split("|"))
        group = groups.get(title.split(" = ")[0], title.split(" ")[0].lower())
        for model, value in zip(models, values, strict=True):
            read = by_id(everything, f"mistral-paper-figure4/{model}").other.get(f"figure4:{group}")
            assert (read is None) == (not value.startswith("~")), (group, model)
            if read is None:
                continue
            low, _, high = value.removeprefix("~").removesuffix(" (read)").partition("-")
            assert read.value == (float(low) + float(high or low)) / 2
            assert not high or read.remark == f"read as {low} to {high}"
            assert not read.comparable
            checked += 1
    assert checked == 17


def test_metas_aggregates_agree_with_the_reference_page(everything, shared: Path):
    """BBH and AGIEval of eight models, from the sentence that lists them by size."""
    page = (shared / "reference" / "chat.md").read_text(encoding="utf-8")
    page = " ".join(page[page.index("Llama 2 7B / 13B / 34B / 70B (Meta)") :].split())
    llama2, llama1 = page.split("LLaMA 1 7B / 13B / 33B / 65B")
    sizes = {"llama2": ("7b", "13b", "34b", "70b"), "llama1": ("7b", "13b", "33b", "65b")}
    for family, text in (("llama2", llama2), ("llama1", llama1)):
        for word, name in (("BBH", "bbh"), ("AGIEval", "agieval")):
            numbers = re.search(rf"{word} ((?:[\d.]+ ?){{4}})", text)[1].removesuffix(".").split()
            ours = []
            for size in sizes[family]:
                one = by_id(everything, f"llama2-paper/{family}-{size}")
                ours.append({**one.cells, **one.other}[name].text)
            assert [number.rstrip(".") for number in numbers] == ours


def test_every_source_has_an_address_and_a_table(everything):
    for baseline in everything:
        assert baseline.source.url.startswith("https://")
        assert baseline.source.title
        assert baseline.source.table


def test_ids_are_unique_and_start_with_their_group(everything):
    ids = [baseline.id for baseline in everything]
    assert len(ids) == len(set(ids))
    assert all(b.id.startswith(f"{b.group}/") for b in everything)


def test_the_short_names_of_groups_cover_every_file_once(everything):
    covered = [group for groups in ALIASES.values() for group in groups]
    assert sorted(covered) == sorted(file.stem for file in baselines_folder().glob("*.json"))


def test_suites_name_the_twelve_in_the_papers_order():
    assert len(SUITES["paper"]) == 12
    columns = "MMLU HellaSwag WinoG PIQA Arc-e Arc-c NQ TriviaQA HumanEval MBPP MATH GSM8K"
    assert columns == " ".join(b.column for b in paper_benchmarks())
    sizes = [14042, 10042, 1267, 1838, 2376, 1172, 3610, 11313, 164, 257, 5000, 1319]
    assert sizes == [b.n for b in paper_benchmarks()]


class TestSelect:
    def test_a_group_an_alias_and_all_its_ids_mean_the_same(self, everything):
        whole = select([PAPER], everything)
        assert whole == select(["paper"], everything)
        assert whole == select([b.id for b in whole], everything)
        assert len(whole) == 4

    def test_names_keep_their_order_and_repeat_nothing(self, everything):
        names = [f"{PAPER}/mistral-7b", "paper"]
        chosen = [b.name for b in select(names, everything)]
        assert chosen == ["Mistral 7B", "LLaMA 2 7B", "LLaMA 2 13B", "Code-Llama 7B"]

    def test_all_and_none(self, everything):
        assert everything == select(["all"], everything)
        assert select(["none"], everything) == ()
        assert select([], everything) == ()

    def test_a_short_name_prefers_the_papers_own_table(self, everything):
        assert [f"{PAPER}/llama2-7b"] == [b.id for b in select(["llama2-7b"], everything)]
        assert [f"{PAPER}/mistral-7b"] == [b.id for b in select(["Mistral 7B"], everything)]
        assert [b.id for b in select(["gemma-2b"], everything)] == ["gemma-paper/gemma-2b"]

    def test_an_unknown_name_gets_the_nearest(self, everything):
        with pytest.raises(UsageError, match=r"'mixtral-papr'.*Nearest: mixtral-paper-table2"):
            select(["mixtral-papr"], everything)

    def test_a_hopeless_name_gets_the_groups(self, everything):
        with pytest.raises(UsageError, match=r"Groups: mistral-paper-table2"):
            select(["qqqqqqqq"], everything)

    def test_an_ambiguous_short_name_lists_the_publications(self, everything):
        with pytest.raises(UsageError, match=r"llama2-paper/llama1-7b|llama3-card/llama3-8b"):
            select(["llama3-8b"], everything)


GOOD = {
    "group": "mine",
    "title": "My paper",
    "source": {"title": "My paper", "url": "https://example.org", "table": "Table 1"},
    "protocol": {"mmlu": {"shots": 5, "metric": "acc", "n": 14042, "comparable": True}},
    "baselines": [
        {
            "id": "a",
            "name": "A",
            "modality": "Pretrained",
            "parameters_b": 7,
            "cells": {"mmlu": 44.4},
        }
    ],
}


def broken(path: tuple, value: object) -> dict:
    """GOOD with one place changed, or removed where the value is `del`."""
    data = json.loads(json.dumps(GOOD))
    at = data
    for key in path[:-1]:
        at = at[key]
    if value == "del":
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return data


def write(folder: Path, data: object, name: str = "mine.json") -> Path:
    (folder / name).write_text(json.dumps(data), encoding="utf-8")
    return folder


class TestBrokenFiles:
    def test_a_good_file_loads(self, tmp_path):
        loaded = load_baselines(write(tmp_path, GOOD))
        assert [b.id for b in loaded] == ["mine/a"]
        assert (loaded[0].cells["mmlu"].text, loaded[0].cells["mmlu"].value) == ("44.4", 44.4)

    @pytest.mark.parametrize(
        ("path", "value", "sentence"),
        [
            (("group",), "other", r"mine\.json: group: expected the file's name, 'mine'"),
            (("source", "url"), "del", r"source\.url: expected a value, found no such field"),
            (("source", "url"), "see above", r"source\.url: expected an https:// address"),
            (("source", "table"), "", r"source\.table: expected text, found ''"),
            (("protocol", "mmlu"), "del", r"protocol\.mmlu: expected a value"),
            (("protocol", "mmlu", "shots"), "5", r"protocol\.mmlu\.shots: expected a whole number"),
            (("protocol", "mmlu", "shots"), -1, r"protocol\.mmlu\.shots: expected 0 or more"),
            (("protocol", "mmlu", "metric"), "del", r"protocol\.mmlu\.metric: expected a value"),
            (("protocol", "mmlu", "comparable"), 1, r"comparable: expected true or false"),
            (("protocol", "mmlu", "shots"), 0, r"comparable: expected false, as the shots"),
            (("protocol", "mmlu", "shot"), 5, r"protocol\.mmlu\.shot: unknown field"),
            (("baselines",), [], r"baselines: expected a list that is not empty"),
            (("baselines", 0), 3, r"baselines\[0\]: expected a mapping"),
            (("baselines", 0, "name"), "del", r"baselines\[0\]\.name: expected a value"),
            (("baselines", 0, "cells", "mmlu"), 144.4, r"cells\.mmlu\.value: expected a perc"),
            (("baselines", 0, "cells", "mmlu"), "44.4", r"cells\.mmlu\.value: expected a number"),
            (("baselines", 0, "cells", "mmlu"), None, r"cells\.mmlu\.value: expected a number"),
            (("baselines", 0, "cells", "mmlu"), True, r"cells\.mmlu\.value: expected a number"),
        ],
    )
    def test_each_complaint_names_the_file_and_the_field(self, tmp_path, path, value, sentence):
        with pytest.raises(BaselineError, match=sentence) as caught:
            load_baselines(write(tmp_path, broken(path, value)))
        assert "mine.json" in str(caught.value)

    def test_one_id_twice_is_refused(self, tmp_path):
        data = broken(("baselines",), GOOD["baselines"] * 2)
        with pytest.raises(BaselineError, match="each id once, found 'a' twice"):
            load_baselines(write(tmp_path, data))

    def test_what_is_not_json_is_named(self, tmp_path):
        (tmp_path / "mine.json").write_text("{", encoding="utf-8")
        with pytest.raises(BaselineError, match=r"mine\.json is not readable as JSON"):
            load_baselines(tmp_path)

    def test_not_a_number_is_no_percentage(self, tmp_path):
        text = json.dumps(GOOD).replace("44.4", "NaN")
        (tmp_path / "mine.json").write_text(text, encoding="utf-8")
        with pytest.raises(BaselineError, match=r"cells\.mmlu\.value"):
            load_baselines(tmp_path)

    def test_an_empty_folder_says_what_was_expected(self, tmp_path):
        with pytest.raises(BaselineError, match=r"expected files named <group>\.json"):
            load_baselines(tmp_path)

    def test_a_cell_may_override_its_columns_protocol(self, tmp_path):
        cell = {"value": 40.0, "shots": 0, "comparable": False, "remark": "an aside"}
        loaded = load_baselines(write(tmp_path, broken(("baselines", 0, "cells", "mmlu"), cell)))
        mmlu = loaded[0].cells["mmlu"]
        assert (mmlu.protocol.shots, mmlu.comparable, mmlu.remark) == (0, False, "an aside")
        assert not mmlu.fits_column("mmlu")
