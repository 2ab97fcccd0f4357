"""What the table says: evidence, marks, best, notes and sections."""

import re
from dataclasses import replace

import pytest

from mistral_eval.errors import UsageError
from mistral_eval.record.run_record import Cell
from mistral_eval.record.run_scores import RunScores
from mistral_eval.report.baselines import load_baselines, select
from mistral_eval.report.table import build_view, figure_view, render_table
from mistral_eval.report.table.figures import anchors, bars_of
from mistral_eval.report.table.view import MISSING, TableOptions, points, signed
from mistral_eval.suite.registry import (
    BENCHMARKS,
    BY_ID,
    FIGURE_4,
    SUITES,
    bar_members,
    paper_benchmarks,
)
from tests.report.table.conftest import limited_run, oracle_run, whole_run

BASELINES = load_baselines()
PAPER = select(["paper"], BASELINES)


def view(baselines=PAPER, runs=(), **options):
    return build_view(baselines, runs, TableOptions(**options))


def notes_of(runs, baselines=PAPER) -> str:
    return "\n".join(view(baselines, runs).notes)


class TestEvidence:
    def test_a_counted_cell_carries_its_wilson_interval(self):
        cell = Cell.counted(8700, 14042, 14042)
        assert tuple(round(x, 1) for x in (cell.value, cell.low, cell.high)) == (62.0, 61.2, 62.8)
        assert not cell.limited
        assert Cell.counted(8, 16, 14042).limited

    def test_a_run_is_a_row_below_the_published_ones(self):
        rows = view(runs=[limited_run()]).rows
        assert [row.kind for row in rows] == ["published"] * 4 + ["run"]
        assert rows[4].cells[0].measured.n == 16

    def test_a_benchmark_that_was_not_run_has_an_empty_cell(self):
        run = whole_run()
        part = RunScores("part", "p", "m", 0, "native", "", {"gsm8k": run.cells["gsm8k"]})
        texts = [cell.text for cell in view(runs=[part]).rows[-1].cells]
        assert texts == ["—"] * 11 + ["52.3"]


class TestBest:
    def test_the_papers_best_are_marked_and_nq_is_not_mistrals(self):
        best = {
            column.column: row.label
            for row in view().rows
            for column, cell in zip(paper_benchmarks(), row.cells, strict=True)
            if cell.best
        }
        assert len(best) == 12
        assert best["NQ"] == "LLaMA 2 13B"
        assert "Code-Llama 7B" == best["HumanEval"] == best["MBPP"]
        assert list(best.values()).count("Mistral 7B") == 9

    def test_limited_runs_oracles_and_other_protocols_never_win(self):
        perfect = Cell.counted(16, 16, 14042)
        lucky = RunScores("lucky", "l", "m", 0, "native", "", {"mmlu": perfect})
        meta = select(["llama2-paper/llama2-70b"], BASELINES)  # TriviaQA 87.6 on the easier set
        rows = view([*PAPER, *meta], [lucky, oracle_run()]).rows
        winners = {row.label for row in rows for cell in row.cells if cell.best}
        assert not winners & {"lucky", "oracle"}
        trivia = [row.label for row in rows if row.cells[7].best]
        assert trivia == ["Mistral 7B"]

    def test_equal_printed_scores_are_all_best(self):
        both = [whole_run("a", path="a"), whole_run("b", path="b")]
        rows = view([], both).rows
        assert all(cell.best for row in rows for cell in row.cells)

    def test_a_single_row_has_no_best(self):
        assert not any(cell.best for cell in view([], [whole_run()]).rows[0].cells)


class TestOtherProtocols:
    def test_zero_shot_numbers_stand_apart_and_never_in_the_column(self):
        mixtral = select(["mixtral"], BASELINES)
        table = view(mixtral)
        nq = [column.id for column in table.columns].index("nq")
        assert {"—"} == {row.cells[nq].text for row in table.rows}
        apart = next(note for note in table.notes if "apart from the columns" in note)
        assert "NQ, 0-shot: LLaMA 2 7B 17.5" in apart
        assert "TriviaQA, 0-shot: LLaMA 2 7B 56.6" in apart

    def test_single_sample_maths_is_marked_and_explained(self):
        table = view(select(["card"], BASELINES))
        marks = {
            c.column: cell.mark
            for c, cell in zip(paper_benchmarks(), table.rows[0].cells, strict=True)
        }
        assert {"MATH", "GSM8K"} == {name for name, mark in marks.items() if mark}
        assert any("† " in note and "not a vote of four" in note for note in table.notes)

    def test_no_number_is_lost_between_columns_and_notes(self):
        """Every number of a suite benchmark, of every publication, is printed somewhere."""
        for baseline in BASELINES:
            text = render_table([baseline], [], "md")
            for name, cell in (*baseline.cells.items(), *baseline.other.items()):
                if name.partition(":")[0] in SUITES["paper"]:
                    assert cell.text in text, (baseline.id, name)


class TestNotes:
    def test_what_several_runs_share_is_said_once(self):
        """Two runs alike but for one note, and a third of another limit."""
        a = limited_run()
        b = replace(a, name="b", cells={k: replace(c, notes=("own",)) for k, c in a.cells.items()})
        text = notes_of([a, b, whole_run()])
        assert text.count("limited: 16 questions of each benchmark") == 1, text
        assert f"{a.name}; b: limited: 16 questions" in text
        assert "b: own." in text
        alike = notes_of([a, replace(a, name="b")])
        assert "All runs: limited: 16 questions" in alike
        assert "b: " not in alike

    def test_a_limited_run_says_of_how_many(self):
        run = limited_run()
        two = {name: run.cells[name] for name in ("mmlu", "gsm8k")}
        some = RunScores("tiny", "t", "tiny", 0, "native", "", two)
        assert (
            "tiny: limited: 16 of 14042 questions (MMLU), 16 of 1319 questions (GSM8K)."
        ) in notes_of([some])
        assert "tiny: limited: 16 questions of each benchmark; in full: MMLU 14042" in notes_of(
            [run]
        )

    def test_what_the_paper_contradicts_is_said_where_its_rows_are_shown(self):
        assert "28.8 against 29.0" in notes_of([])
        assert "about 62.5" in notes_of([])
        assert "28.8 against 29.0" not in notes_of([], PAPER[:1])
        assert "about 62.5" not in notes_of([], PAPER[:1])

    def test_unread_replies_and_timeouts_are_shares_of_the_questions(self):
        text = notes_of([limited_run()])
        assert "tiny: no readable answer, counted as wrong: MATH 18.8 %, GSM8K 18.8 %." in text
        assert "tiny: checker timed out, counted as wrong: MBPP 6.2 %." in text

    def test_a_share_too_small_to_print_is_not_zero(self):
        cell = Cell.counted(60, 14042, 14042, no_answer=1)
        run = RunScores("r", "r", "r", 0, "native", "", {"mmlu": cell})
        assert "no readable answer, counted as wrong: MMLU under 0.1 %." in notes_of([run])

    def test_single_samples_stand_beside_the_votes(self):
        assert "mean of the single samples: MATH 1.6, GSM8K 1.6." in notes_of([limited_run()])

    def test_fingerprints_are_named_and_the_exception_too(self):
        assert "tiny: data: sample." in notes_of([limited_run()])
        text = notes_of([whole_run("m")])
        assert "m: data: hub, except HellaSwag: hellaswag-reconstructed." in text
        assert "m: never checked against the hub." in text

    @pytest.mark.parametrize("engine", ["oracle", "oracle-wrong", "random"])
    def test_what_is_no_model_says_so_in_label_and_note(self, engine):
        run = whole_run("r", engine=engine)
        assert "not a model" in notes_of([run])
        assert view(runs=[run]).rows[-1].remarks == ("not a model",)


class TestSections:
    def test_differences_are_to_the_chosen_row(self):
        (section,) = view(delta_to="LLaMA 2 13B").sections
        rows = {row[0]: row[1:] for row in section.rows}
        assert (rows["Mistral 7B"][:8]) == (
            "+4.5",
            "+0.6",
            "+2.4",
            "+2.2",
            "+4.8",
            "+6.7",
            "-0.2",
            "+0.3",
        )
        assert "LLaMA 2 13B" not in rows

    def test_an_unknown_reference_row_gets_the_nearest(self):
        with pytest.raises(UsageError, match=r"no row called 'LLaMA 13B'. Nearest: LLaMA 2 13B"):
            view(delta_to="LLaMA 13B")

    def test_differences_between_protocols_are_not_taken(self):
        (section,) = view([*PAPER, *select(["card"], BASELINES)], delta_to="Mistral 7B").sections
        assert section.rows[-1][-2:] == ("—", "—")

    def test_reproduced_reads_the_interval_and_no_more(self):
        (section,) = view(runs=[whole_run()], reproduced="mistral-paper-table2/mistral-7b").sections
        rows = {row[0]: row for row in section.rows}
        assert rows["MMLU"] == (
            "MMLU",
            "60.1",
            "62.0",
            "[61.2, 62.8]",
            "14042",
            "outside: 1.9 above",
        )
        assert rows["GSM8K"][-1] == "inside"
        assert any("does not prove" in note for note in section.notes)

    def test_reproduced_says_how_few_questions_a_limited_run_had(self):
        published = "mistral-paper-table2/mistral-7b"
        (section,) = view(runs=[limited_run()], reproduced=published).sections
        assert section.rows[0][4] == "16 of 14042"

    def test_an_oracle_reproduces_nothing(self):
        published = "mistral-paper-table2/mistral-7b"
        (section,) = view(runs=[oracle_run()], reproduced=published).sections
        assert {"not a model"} == {row[-1] for row in section.rows}

    def test_reproduced_refuses_another_protocol(self):
        (section,) = view(runs=[whole_run()], reproduced="mistral-card-early/mistral-7b").sections
        readings = {row[0]: row[-1] for row in section.rows}
        assert readings["GSM8K"] == "not published under this protocol"
        assert "outside" in readings["MMLU"] or readings["MMLU"] == "inside"

    def test_groups_are_the_bars_of_figure_4(self):
        """Knowledge 49.35, 44.25, 49.30; Math 32.65, 9.95, 20.15; Code 39.0, 18.85, 27.15."""
        (section,) = view(groups=True).sections
        rows = {row[0]: row[1:] for row in section.rows}
        assert list(section.header[1:]) == list(FIGURE_4.values())
        expected = ("60.10", "49.35", "≈69.2", "≈64.4", "≈43.5", "32.65", "≈37.9", "39.00")
        assert rows["Mistral 7B"] == expected
        expected = ("44.40", "44.25", "≈63.4", "≈58.9", "≈30.0", "9.95", "≈36.0", "18.85")
        assert rows["LLaMA 2 7B"] == expected
        assert rows["LLaMA 2 13B"][1::4] == ("49.30", "20.15")
        assert rows["LLaMA 2 13B"][7] == "27.15"

    def test_a_mean_that_lacks_members_says_so_and_names_them(self):
        """Nothing was read from the figure for Code Llama, so its mean is of five of eight."""
        (section,) = view(groups=True).sections
        rows = {row[0]: row[1:] for row in section.rows}
        values = (62.9, 62.3, 72.8, 59.4, 34.5)
        assert rows["Code-Llama 7B"][2] == f"{sum(values) / 5:.2f} (5 of 8)"
        assert rows["Code-Llama 7B"][3] == MISSING
        assert (
            "Reasoning (5 of 8) lacks SIQA, OpenbookQA and CommonsenseQA: Code-Llama 7B."
        ) in section.notes

    @pytest.mark.parametrize("group", FIGURE_4)
    def test_each_member_is_missed_by_name(self, group):
        """Whatever one member a run lacks, its bar is marked and the member is named."""
        members = bar_members(group)
        cells = {name: Cell.counted(60, 100, 100) for name in members if name in BY_ID}
        for lost in cells:
            run = replace(oracle_run(), engine="native")
            run = replace(run, cells={name: cells[name] for name in cells if name != lost})
            rows = view([], [run], benchmarks=BENCHMARKS).rows
            (bar,) = bars_of(rows, BENCHMARKS, group)
            if len(cells) == 1:
                assert bar is None
                continue
            assert members[lost] in bar.missing
            assert bar.part == f"{len(cells) - 1} of {len(members)}"
            assert bar.interval.value == pytest.approx(60)

    def test_published_rows_show_the_mean_of_what_the_runs_have(self):
        """With a run of Table 2's five the paper's rows have the same five, not what was read."""
        (section,) = view(runs=[whole_run()], groups=True).sections
        rows = {row[0]: row[1:] for row in section.rows}
        assert rows["Mistral 7B"][2] == "75.02 (5 of 8)"
        assert rows["LLaMA 2 7B"][2] == "67.28 (5 of 8)"
        assert re.fullmatch(r"\d+\.\d \[.*\] \(5 of 8\)", section.rows[-1][3])

    def test_a_run_of_the_whole_group_stands_beside_what_was_read(self):
        whole = {name: Cell.counted(60, 100, 100) for name in SUITES["figure4"]}
        run = replace(whole_run(), cells=whole)
        section = figure_view([run], "figure4").sections[0]
        rows = {row[0]: row[1:] for row in section.rows}
        assert len(rows) == 5
        assert rows["Mistral 7B"][2] == "≈69.2"
        assert re.fullmatch(r"60\.0 \[5\d\.\d, 6\d\.\d\]", section.rows[-1][3])

    def test_sizes_are_those_of_figure_5(self):
        """Reasoning 38B and Comprehension 21B as the paper prints; MMLU 22B where it prints 23B."""
        (section,) = view(sizes=True).sections
        rows = {row[0]: row[1:] for row in section.rows}
        assert section.header[1:] == ("MMLU", "Reasoning (5 of 8)", "Knowledge", "Comprehension")
        assert rows["Mistral 7B"] == ("22B", "38B", "over 13B", "≈21B")
        assert rows["LLaMA 2 7B"] == ("7B", "7B", "7B", "≈7B")
        assert rows["LLaMA 2 13B"] == ("13B", "13B", "13B", "≈13B")
        assert rows["Code-Llama 7B"] == (*("under 7B",) * 3, MISSING)

    def test_metas_scores_fit_what_was_read_from_mistrals_figure(self):
        """Comprehension's curve is Meta's; the paper's own bars are within half a point of it."""
        scale = anchors("comprehension")
        assert scale.sizes == (7, 13, 70)
        assert scale.scores == pytest.approx((58.9, 63.3, 67.2), abs=0.5)

    def test_sizes_of_a_run_come_with_an_interval(self):
        (section,) = view(runs=[whole_run()], sizes=True).sections
        assert re.fullmatch(r"\d+B \[\d+B, \d+B\]", section.rows[-1][1])


class TestLabels:
    def test_repeated_names_get_their_seed_then_their_folder(self):
        twins = [whole_run("m", seed=0), whole_run("m", seed=1), whole_run("m", seed=1, path="z")]
        labels = [row.label for row in view([], twins).rows]
        assert labels == ["m, seed 0", "m, seed 1, b", "m, seed 1, z"]

    def test_line_breaks_and_controls_of_a_name_do_not_reach_the_table(self):
        label = view([], [whole_run("a\nb\x1b[31m\x00")]).rows[0].label
        assert label == "a�b�[31m�"

    def test_signs(self):
        assert [signed(x) for x in (1.21, -0.4, 0.04, -0.04)] == ["+1.2", "-0.4", "0.0", "0.0"]
        assert points(49.36) == "49.4"


class TestOtherBenchmarks:
    """A benchmark outside the paper's suite has a column where a run has it, and only there."""

    def test_the_paper_s_table_has_the_paper_s_columns(self):
        assert set(BY_ID) > set(SUITES["paper"])
        assert [column.id for column in view().columns] == list(SUITES["paper"])
        assert [column.id for column in view(runs=[oracle_run()]).columns] == list(SUITES["paper"])

    def test_a_run_s_other_benchmark_stands_after_them(self):
        other = next(one for one in BY_ID.values() if one.id not in SUITES["paper"])
        cell = Cell.counted(10, 16, other.n, data_fingerprint="sample")
        run = oracle_run()
        run = replace(run, cells={**run.cells, other.id: cell})
        found = view(runs=[run], delta_to="Mistral 7B", groups=True, sizes=True)
        assert [column.id for column in found.columns] == [*SUITES["paper"], other.id]
        assert found.rows[-1].cells[-1].text == "62.5"
        assert {row.cells[-1].text for row in found.rows[:-1]} == {MISSING}

    @pytest.mark.parametrize("other", [b for b in BENCHMARKS if b.id not in SUITES["paper"]])
    def test_a_run_of_nothing_else_is_a_table_of_what_was_run(self, other):
        """No column and no row of the paper is empty; a row with a number of it is kept."""
        cell = Cell.counted(10, 16, other.n, data_fingerprint="sample")
        run = replace(oracle_run(), cells={other.id: cell})
        found = build_view(load_baselines(), [run])
        assert [column.id for column in found.columns] == [other.id]
        assert all(row.cells[0].text != MISSING for row in found.rows)
        assert "paper's suite" not in found.title
        assert [row.label for row in view([], [run], delta_to="oracle").rows] == ["oracle"]
