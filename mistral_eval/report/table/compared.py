"""A comparison of runs for reading: on a terminal, as markdown for CI, as JSON for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from rich.console import RenderableType

from mistral_eval.console import counted
from mistral_eval.errors import UsageError
from mistral_eval.record.comparison import BenchmarkComparison, Comparison, Reading
from mistral_eval.record.reply_differences import CLOSE, ReplyDifferences
from mistral_eval.record.run_scores import one_line
from mistral_eval.report.table.markdown_table import join, sections_markdown
from mistral_eval.report.table.rich_table import RichSections
from mistral_eval.report.table.view import MISSING, Section, column_of, points, signed
from mistral_eval.suite.registry import BY_ID

FORMAT: Final = "mistral-eval/compare/1"
FORMATS: Final = ("rich", "md", "json")
COUNTS: Final = ("Only\nA", "Only\nB", "p", "Would\nshow")
HEADER: Final = ("Benchmark", "N", "A", "B", "B - A", *COUNTS, "Difference")
REPLY_HEADER: Final = (
    "Benchmark",
    "Likelihoods",
    "Median",
    "Largest",
    f"Beyond\n{CLOSE:g}",
    "Flags",
    "Greedy texts",
    "Sampled texts",
)
SHOWN_FLIPS: Final = 10  # of each benchmark and direction; JSON has all
METHOD: Final = (
    (
        "Paired by question. Difference: 95 % interval of a bootstrap over questions, within "
        "subjects where there are any. p: McNemar's exact test, corrected by Holm over all rows."
    ),
    (
        "Would show: the true difference that this test detects with 80 % power (uncorrected, at "
        "the observed share of questions on which the runs disagree); none: too few questions."
    ),
    "Not shown: the test found no difference, which does not prove that there is none.",
)
WORDS: Final[dict[Reading, str]] = {
    "identical": "identical",
    "no difference shown": "not shown",
    "better": "better",
    "worse": "worse",
}


def render_comparison(
    comparisons: Sequence[Comparison], fmt: str, replies: Sequence[Sequence[ReplyDifferences]] = ()
) -> RenderableType:
    """Return the comparisons with one reference run in a format.

    Args:
        comparisons: each run against the reference.
        fmt: one of `FORMATS`.
        replies: of each comparison, how far the replies are apart, if that is to be shown.

    Raises:
        UsageError: The format is unknown.
    """
    if fmt not in FORMATS:
        raise UsageError(f"A comparison can be printed as {', '.join(FORMATS)}; found {fmt!r}.")
    if fmt == "json":
        return _json(comparisons, replies)
    sections = comparison_sections(comparisons)
    sections += [
        _reply_section(one, found) for one, found in zip(comparisons, replies, strict=False)
    ]
    return RichSections(sections) if fmt == "rich" else join(sections_markdown(sections, "###"))


def comparison_sections(
    comparisons: Sequence[Comparison], method: Sequence[str] = METHOD
) -> list[Section]:
    """Return the tables of comparisons with one reference; the first explains the method."""
    return [
        section
        for i, one in enumerate(comparisons)
        for section in _sections(one, method if i == 0 else ())
    ]


def verdict(comparison: Comparison) -> str:
    """Return the gate's result as one sentence."""
    names = ", ".join(column_of(name) for name in comparison.failed)
    beyond = f" by more than {comparison.margin:g} points" if comparison.margin else ""
    chance = ", beyond chance" if comparison.gate == "shown" else ""
    a, b = one_line(comparison.a), one_line(comparison.b)
    if names:
        return f"Failed: {b} is worse than {a}{beyond}{chance}: {names}."
    return f"Passed: on no benchmark is {b} worse than {a}{beyond}{chance}."


def _sections(comparison: Comparison, method: Sequence[str]) -> list[Section]:
    a, b = one_line(comparison.a), one_line(comparison.b)
    absent = (("A", comparison.only_in_a), ("B", comparison.only_in_b))
    alone = list(_engines(comparison))
    alone += [
        f"Not compared, only in {run}: {', '.join(map(column_of, names))}."
        for run, names in absent
        if names
    ]
    alone += [
        f"{column_of(one.id)}: the {counted(one.n, 'question')} that both have, of A's "
        f"{comparison.asked[one.id][0]} and B's {comparison.asked[one.id][1]}."
        for one in comparison.benchmarks
        if one.id in comparison.asked
    ]
    alone += _ways(comparison)
    alone += [
        f"{column_of(one.id)}: the questions answered no worse than by a person, not the cell's "
        f"{BY_ID[one.id].cell}."
        for one in comparison.benchmarks
        if one.id in BY_ID and BY_ID[one.id].is_graded
    ]
    main = Section(
        f"{b} (B) against {a} (A)",
        HEADER,
        tuple(_row(one, comparison) for one in comparison.benchmarks),
        (verdict(comparison), *alone, *method),
        words=(0, 9),
    )
    flips = [row for one in comparison.benchmarks for row in _flip_rows(one)]
    if not flips:
        return [main]
    header = ("Benchmark", "Now", "Questions", "Ids")
    title = f"Questions that flipped, {b} against {a}"
    return [main, Section(title, header, tuple(flips), words=(0, 1, 3))]


def _engines(comparison: Comparison) -> tuple[str, ...]:
    """Return a warning if two engines answered."""
    if comparison.engines is None:
        return ()
    a, b = comparison.engines
    warning = (
        f"Warning: the engine {a} answered A and {b} answered B. A difference can come from the "
        "engines: they round differently and draw other samples."
    )
    return (warning,)


def _ways(comparison: Comparison) -> list[str]:
    """Return sentences about benchmarks that the two runs were asked in different ways."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, ways in comparison.asked_as.items():
        found.setdefault(ways, []).append(column_of(name))
    told = {"": "by the benchmark's protocol"}
    return [
        f"Different protocols: {', '.join(names)} asked {told.get(a, a)} in A and {told.get(b, b)} "
        "in B. The difference is that of model and protocol together."
        for (a, b), names in found.items()
    ]


def _row(one: BenchmarkComparison, comparison: Comparison) -> tuple[str, ...]:
    d = one.difference
    failed = one.fails(comparison.margin, comparison.gate)
    return (
        column_of(one.id),
        str(one.n),
        points(one.a.value),
        points(one.b.value),
        f"{signed(d.value)} [{signed(d.low)}, {signed(d.high)}]",
        str(one.only_a),
        str(one.only_b),
        _p(one.p_holm),
        "none" if one.detectable is None else points(one.detectable),
        f"{WORDS[one.reading]}, FAILED" if failed else WORDS[one.reading],
    )


def _flip_rows(one: BenchmarkComparison) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for now_right, words in ((False, "wrong"), (True, "right")):
        flipped = [flip for flip in one.flips if flip.now_right is now_right]
        if flipped:
            names = [f"{f.id} ({f.stratum})" if f.stratum else f.id for f in flipped[:SHOWN_FLIPS]]
            more = len(flipped) - len(names)
            listed = ", ".join(names) + (f" and {more} more" if more else "")
            rows.append((column_of(one.id), words, str(len(flipped)), one_line(listed)))
    return rows


def _reply_section(comparison: Comparison, found: Sequence[ReplyDifferences]) -> Section:
    a, b = one_line(comparison.a), one_line(comparison.b)
    method = (
        "Likelihoods: number of log-likelihoods, median and largest difference in nats, and how "
        f"many differ by more than {CLOSE:g}. Flags: greedy flags that differ. Texts: equal ones "
        "of all."
    )
    unpaired = sum(one.unpaired for one in found)
    said = f"{counted(unpaired, 'reply')} to prompts that differ: not compared."
    notes = (method, said) if unpaired else (method,)
    return Section(
        f"Replies of {b} (B) and {a} (A)",
        REPLY_HEADER,
        tuple(
            (
                column_of(one.id),
                str(one.scores or MISSING),
                _nats(one.median),
                _nats(one.largest),
                *((str(one.beyond), str(one.flags)) if one.scores else (MISSING, MISSING)),
                f"{one.same_greedy} of {one.greedy}" if one.greedy else MISSING,
                f"{one.same_sampled} of {one.sampled}" if one.sampled else MISSING,
            )
            for one in found
        ),
        notes,
    )


def _nats(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1e}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _json(comparisons: Sequence[Comparison], replies: Sequence[Sequence[ReplyDifferences]]) -> str:
    documents = [_document(one) for one in comparisons]
    for document, found in zip(documents, replies, strict=False):
        document["replies"] = [asdict(one) for one in found]
    return (
        json.dumps({"format": FORMAT, "comparisons": documents}, indent=2, ensure_ascii=False)
        + "\n"
    )


def _document(comparison: Comparison) -> dict[str, Any]:
    rows = [asdict(one) | {"reading": one.reading} for one in comparison.benchmarks]
    return asdict(comparison) | {
        "benchmarks": rows,
        "failed": comparison.failed,
        "verdict": verdict(comparison),
    }
