"""Comparing two runs: hand-computed, simulated, refused, and shown."""

import json
import re
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mistral_eval.errors import DataError, TaskError, UsageError
from mistral_eval.record.comparison import (
    BenchmarkSamples,
    CompareOptions,
    Comparison,
    Flip,
    QuestionOutcome,
    RunSamples,
    compare_against,
)
from mistral_eval.report.table.compared import render_comparison, verdict
from mistral_eval.stats import holm, mcnemar
from mistral_eval.suite.registry import BENCHMARKS

QUICK = CompareOptions(resamples=500)
PROTOCOL = {"shots": "8", "task file": "abc"}


def samples(correct, strata=None, protocol=PROTOCOL, digests=None) -> BenchmarkSamples:
    return BenchmarkSamples(
        protocol,
        {
            f"q{i}": QuestionOutcome(
                bool(right),
                strata[i] if strata else "",
                digests[i] if digests else "",
            )
            for i, right in enumerate(correct)
        },
    )


def run(name="a", **benchmarks) -> RunSamples:
    return RunSamples(name, benchmarks)


def compare_runs(a: RunSamples, b: RunSamples, options=None) -> Comparison:
    return compare_against(a, [b], options)[0]


def pair(right_a, right_b, options=QUICK, **kind) -> Comparison:
    a = run("a", gsm8k=samples(right_a, **kind))
    return compare_runs(a, run("b", gsm8k=samples(right_b, **kind)), options)


class TestNumbers:
    def test_hand_computed(self):
        """Ten questions: A alone right on one, B alone on four, both on three."""
        found = pair([1, 0, 0, 0, 0, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1, 1, 1, 0, 0])
        (one,) = found.benchmarks
        assert (one.n, one.only_a, one.only_b) == (10, 1, 4)
        assert (one.a.value, one.b.value, one.difference.value) == (40.0, 70.0, 30.0)
        assert one.p == pytest.approx(2 * (1 + 5) / 32)  # 2 (C(5,0) + C(5,1)) / 2^5
        assert one.flips == (
            Flip("q0", "", now_right=False),
            *(Flip(f"q{i}", "", now_right=True) for i in (1, 2, 3, 4)),
        )
        assert one.reading == "no difference shown"

    def test_a_run_compared_with_itself_is_identical(self):
        (one,) = pair([1, 0, 1], [1, 0, 1]).benchmarks
        assert (one.reading, one.p, one.flips) == ("identical", 1.0, ())

    def test_a_clear_gain_is_better_and_a_clear_loss_worse(self):
        worse, better = [0] * 40 + [1] * 60, [1] * 40 + [1] * 60
        assert pair(worse, better).benchmarks[0].reading == "better"
        assert pair(better, worse).benchmarks[0].reading == "worse"

    def test_order_of_questions_does_not_matter(self):
        a, b = samples([1, 0, 1, 1] * 9), samples([0, 0, 1, 1] * 9)
        turned = BenchmarkSamples(b.protocol, dict(reversed(b.questions.items())))
        assert compare_runs(run(mmlu=a), run("b", mmlu=b)) == compare_runs(
            run(mmlu=a), run("b", mmlu=turned)
        )

    @given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
    def test_turning_the_pair_around_turns_the_difference(self, both):
        there = pair([a for a, _ in both], [b for _, b in both]).benchmarks[0]
        back = pair([b for _, b in both], [a for a, _ in both]).benchmarks[0]
        assert there.difference.value == -back.difference.value
        assert (there.only_a, there.only_b, there.p) == (back.only_b, back.only_a, back.p)
        assert len(there.flips) == there.only_a + there.only_b
        assert there.difference.low <= there.difference.value <= there.difference.high

    def test_subjects_are_resampled_within(self):
        """B gains in every law question and loses every art question: no chance is left."""
        strata = ["law"] * 30 + ["art"] * 20
        (one,) = pair([0] * 30 + [1] * 20, [1] * 30 + [0] * 20, strata=strata).benchmarks
        assert (one.difference.low, one.difference.high) == (20.0, 20.0)

    def test_holm_covers_the_benchmarks_of_a_pair(self):
        rng = np.random.default_rng(3)
        a = {b.id: samples(rng.random(80) < 0.5) for b in BENCHMARKS}
        b = {b.id: samples(rng.random(80) < 0.6) for b in BENCHMARKS}
        found = compare_runs(run(**a), run("b", **b), QUICK).benchmarks
        assert [one.id for one in found] == [b.id for b in BENCHMARKS]
        assert tuple(one.p_holm for one in found) == holm([one.p for one in found])

    def test_holm_covers_all_pairs_against_a_reference(self):
        rng = np.random.default_rng(4)
        reference = run(gsm8k=samples(rng.random(80) < 0.5))
        others = [run(name, gsm8k=samples(rng.random(80) < 0.7)) for name in "bcd"]
        found = compare_against(reference, others, QUICK)
        raw = [mcnemar(c.benchmarks[0].only_a, c.benchmarks[0].only_b) for c in found]
        assert tuple(c.benchmarks[0].p_holm for c in found) == holm(raw)
        assert [(c.a, c.b) for c in found] == [("a", "b"), ("a", "c"), ("a", "d")]


class TestGate:
    BETTER, WORSE = [1] * 80 + [0] * 20, [1] * 60 + [0] * 40

    def test_a_loss_beyond_chance_fails(self):
        assert pair(self.BETTER, self.WORSE).failed == ("gsm8k",)
        assert pair(self.WORSE, self.BETTER).failed == ()

    def test_a_loss_within_the_margin_passes(self):
        """The loss is 20 points; its interval reaches up to about -12."""
        for margin, failed in ((5.0, ("gsm8k",)), (15.0, ()), (30.0, ())):
            options = replace(QUICK, margin=margin)
            assert pair(self.BETTER, self.WORSE, options).failed == failed

    def test_a_loss_that_may_be_chance_passes_unless_points_decide(self):
        once = ([1, 1, 1, 1], [0, 1, 1, 1])
        assert pair(*once).failed == ()
        assert pair(*once, replace(QUICK, gate="point")).failed == ("gsm8k",)
        assert pair(*once, replace(QUICK, gate="point", margin=25)).failed == ()

    @pytest.mark.parametrize("margin", [-1, 101, float("nan")])
    def test_a_margin_is_a_number_of_points(self, margin):
        with pytest.raises(UsageError, match="margin is a number of points from 0 to 100"):
            CompareOptions(margin=margin)

    def test_an_unknown_gate_is_refused(self):
        with pytest.raises(UsageError, match="gate is shown or point"):
            CompareOptions(gate="strict")

    @pytest.mark.slow
    def test_equal_runs_raise_at_most_five_percent_false_alarms(self):
        """1000 simulated pairs of equally good runs on three benchmarks, 5 % of answers redrawn."""
        rng = np.random.default_rng(1)
        options = CompareOptions(resamples=100)
        shown = failed = 0
        for _ in range(1000):
            a, b = {}, {}
            for name in ("mmlu", "gsm8k", "nq"):
                right = rng.random(200) < 0.5
                again = np.where(rng.random(200) < 0.2, rng.random(200) < 0.5, right)
                a[name], b[name] = samples(right), samples(again)
            found = compare_runs(run(**a), run("b", **b), options)
            shown += any(one.reading in ("better", "worse") for one in found.benchmarks)
            failed += bool(found.failed)
        assert shown <= 50
        assert failed <= 25  # losses alone: half of them


class TestRefusals:
    def test_another_protocol_is_refused_and_named(self):
        other = samples([1], protocol=PROTOCOL | {"shots": "4"})
        with pytest.raises(
            TaskError,
            match=r"gsm8k was not run under the same protocol: shots is 8 in a and 4 in b",
        ):
            compare_runs(run(gsm8k=samples([1])), run("b", gsm8k=other))

    def test_a_part_of_the_protocol_that_one_run_lacks_is_a_difference(self):
        other = samples([1], protocol={"shots": "8"})
        with pytest.raises(TaskError, match="task file is abc in a and nothing in b"):
            compare_runs(run(gsm8k=samples([1])), run("b", gsm8k=other))

    def test_other_questions_are_refused_and_counted(self):
        with pytest.raises(
            DataError, match=r"2 are only in a, 0 only in b \(question q1 is only in a\)"
        ):
            compare_runs(run(gsm8k=samples([1, 0, 1])), run("b", gsm8k=samples([1])))

    def test_questions_of_one_id_and_another_text_are_refused(self):
        a = samples([1, 0], digests=["x", "y"])
        b = samples([1, 0], digests=["x", "z"])
        with pytest.raises(DataError, match="gsm8k: question q1 is not the same text in a and b"):
            compare_runs(run(gsm8k=a), run("b", gsm8k=b))

    def test_nothing_in_common_is_refused(self):
        with pytest.raises(TaskError, match="no benchmark in common: a has mmlu, b has gsm8k"):
            compare_runs(run(mmlu=samples([1])), run("b", gsm8k=samples([1])))

    def test_no_question_is_refused(self):
        with pytest.raises(DataError, match="nothing to compare"):
            compare_runs(run(mmlu=samples([])), run("b", mmlu=samples([])))

    def test_what_only_one_run_has_is_named_and_left_out(self):
        a = run(mmlu=samples([1]), gsm8k=samples([1]))
        b = run("b", mmlu=samples([1]), nq=samples([1]))
        found = compare_runs(a, b, QUICK)
        assert [one.id for one in found.benchmarks] == ["mmlu"]
        assert (found.only_in_a, found.only_in_b) == (("gsm8k",), ("nq",))
        text = render_comparison([found], "md")
        assert "Not compared, only in A: GSM8K." in text
        assert "Not compared, only in B: NQ." in text


class TestCommon:
    """`--common`: runs of other limits are compared on the questions that both have."""

    COMMON = replace(QUICK, common=True)

    def test_only_common_questions_count_and_their_number_is_said(self):
        a = run(gsm8k=samples([1, 0, 1, 1]), nq=samples([1, 0]))
        b = run("b", gsm8k=samples([0, 0]), nq=samples([1, 1]))
        found = compare_runs(a, b, self.COMMON)
        by_id = {one.id: one for one in found.benchmarks}
        assert (by_id["gsm8k"].n, by_id["gsm8k"].only_a, by_id["gsm8k"].only_b) == (2, 1, 0)
        assert (by_id["nq"].n, by_id["nq"].only_a, by_id["nq"].only_b) == (2, 0, 1)
        assert found.asked == {"gsm8k": (4, 2)}
        text = render_comparison([found], "md")
        assert "GSM8K: the 2 questions that both have, of A's 4 and B's 2." in text
        assert "NQ: the" not in text

    def test_it_changes_nothing_where_the_questions_are_the_same(self):
        a, b = run(nq=samples([1, 0, 1])), run("b", nq=samples([1, 1, 0]))
        assert compare_runs(a, b, self.COMMON) == compare_runs(a, b, QUICK)

    def test_questions_of_one_id_and_another_text_are_still_refused(self):
        a = run(nq=samples([1, 0], digests=["x", "y"]))
        b = run("b", nq=samples([1], digests=["z"]))
        with pytest.raises(DataError, match="not the same text"):
            compare_runs(a, b, self.COMMON)

    def test_no_common_question_is_refused(self):
        a = run(nq=samples([1]))
        b = run("b", nq=BenchmarkSamples(PROTOCOL, {"other": QuestionOutcome(correct=True)}))
        with pytest.raises(DataError, match="nothing to compare"):
            compare_runs(a, b, self.COMMON)


class TestShown:
    @pytest.fixture
    def found(self) -> Comparison:
        a = run("base", mmlu=samples([1] * 80 + [0] * 20, ["law"] * 100), nq=samples([1, 0] * 9))
        b = run("new", mmlu=samples([1] * 60 + [0] * 40, ["law"] * 100), nq=samples([1, 0] * 9))
        return compare_runs(a, b, replace(QUICK, margin=2))

    def test_the_verdict_is_a_sentence(self, found):
        assert verdict(found) == (
            "Failed: new is worse than base by more than 2 points, beyond chance: MMLU."
        )
        assert verdict(replace(found, margin=50.0, gate="point")) == (
            "Passed: on no benchmark is new worse than base by more than 50 points."
        )

    def test_markdown_has_scores_interval_counts_and_flips(self, found):
        text = render_comparison([found], "md")
        row = next(line for line in text.splitlines() if line.startswith("| MMLU"))
        cells = [cell.strip().replace("\\", "") for cell in row.strip("|").split("|")]
        assert cells[:4] == ["MMLU", "100", "80.0", "60.0"]
        assert re.fullmatch(r"-20\.0 \[-2\d\.\d, -1\d\.\d\]", cells[4])
        assert cells[5:8] == ["20", "0", "< 0.001"]
        assert cells[9] == "worse, FAILED"
        assert "q60 (law), q61 (law)" in text
        assert "and 10 more" in text

    def test_json_has_every_flip(self, found):
        document = json.loads(render_comparison([found], "json"))
        assert document["format"] == "mistral-eval/compare/1"
        (one,) = document["comparisons"]
        assert set(one) == {
            "a", "b", "benchmarks", "only_in_a", "only_in_b", "asked", "asked_as", "margin", "gate",
            "failed", "verdict",
        }  # fmt: skip
        assert one["failed"] == ["mmlu"]
        mmlu = one["benchmarks"][0]
        assert len(mmlu["flips"]) == 20
        assert mmlu["flips"][0] == {"id": "q60", "stratum": "law", "now_right": False}
        assert set(mmlu) == {
            "id", "n", "a", "b", "difference", "only_a", "only_b", "p", "p_holm", "detectable",
            "flips", "reading",
        }  # fmt: skip

    @pytest.mark.parametrize("width", [80, 120])
    def test_the_terminal_shows_it_within_its_width(self, found, width):
        out = StringIO()
        Console(file=out, width=width, color_system=None).print(render_comparison([found], "rich"))
        lines = out.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        assert any("worse, FAILED" in line for line in lines)
        assert any("identical" in line for line in lines)

    def test_hostile_ids_stay_in_their_cells(self):
        evil = BenchmarkSamples({}, {"a|b\n\x1b[31m<b>": QuestionOutcome(correct=True)})
        good = BenchmarkSamples({}, {"a|b\n\x1b[31m<b>": QuestionOutcome(correct=False)})
        found = compare_runs(run("x|\ny", nq=evil), run(nq=good), QUICK)
        text = render_comparison([found], "md")
        assert "\x1b" not in text
        assert "<b>" not in text
        rows = [line for line in text.splitlines() if line.startswith("| NQ")]
        assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [11, 5]

    def test_an_unknown_format_lists_the_known(self, found):
        with pytest.raises(UsageError, match="rich, md, json; found 'html'"):
            render_comparison([found], "html")
