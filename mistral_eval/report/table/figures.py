"""The paper's figures 4 and 5: bars of group means, and the size of Llama 2 with the same score."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from mistral_eval.report.baselines import Baseline, PublishedCell, load_baselines
from mistral_eval.report.table.view import MISSING, RowView, Section, points
from mistral_eval.stats import Interval, mean_of
from mistral_eval.suite.benchmark import Benchmark, Group
from mistral_eval.suite.registry import FIGURE_4, FIGURE_5, bar_members

# The models of figure 4, in its order, as rows of the table.
FIGURE_ROWS: Final = (
    "mistral-paper-table2/mistral-7b",
    "mistral-paper-table2/llama2-7b",
    "mistral-paper-table2/llama2-13b",
    "mixtral-paper-table2/llama1-33b",
)
READ: Final = "mistral-paper-figure4"  # bars read from the drawing, by the same models' names
FROM_DRAWING: Final = "read from the drawing"  # the usual remark of such a bar
ABOUT: Final = "≈"
# Llama 2 by size: rows of Mistral's own pipeline, or if it printed no whole group, Meta's.
ANCHOR_ROWS: Final = (
    (
        "mistral-paper-table2/llama2-7b",
        "mistral-paper-table2/llama2-13b",
        "mixtral-paper-table2/llama2-70b",
    ),
    ("llama2-paper/llama2-7b", "llama2-paper/llama2-13b", "llama2-paper/llama2-70b"),
)
PRINTED_SIZES: Final = tuple(
    f"{FIGURE_4[group]} {size}B" for group, size in zip(FIGURE_5, (23, 38, 13, 21), strict=True)
)
MEAN_METHOD: Final = (
    "Plain means of the benchmarks' scores, as the paper's bars are. A run's interval adds the "
    "distances of its members' 95 % intervals in squares (Newcombe 1998, Zou and Donner 2008), "
    "so it is about 1.96 standard errors of the mean; published numbers have none."
)
SECOND_SOURCE: Final = "llama3-card"  # for what Meta's Llama 2 paper is not quoted for


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: the plain mean of a group's members, or a value read from the paper's drawing.

    Attributes:
        interval: Value and interval in percent; both ends equal the value if it is published.
        missing: Titles of the members that the mean lacks.
        size: Number of the group's members in the paper.
        remark: What is known of a value that was read from the drawing; "" for a mean.
    """

    interval: Interval
    missing: tuple[str, ...]
    size: int
    remark: str = ""

    @property
    def part(self) -> str:
        """How many members the mean has, e.g. "5 of 8"; "" if it has all."""
        return f"{self.size - len(self.missing)} of {self.size}" if self.missing else ""

    def as_json(self) -> dict[str, object]:
        """Return the bar for programs; `remark` says that the value was read from the drawing."""
        interval = {key: round(value, 4) for key, value in asdict(self.interval).items()}
        return {**interval, "missing": self.missing, "size": self.size, "remark": self.remark}

    @property
    def text(self) -> str:
        """The value for a table."""
        value, low, high = self.interval.value, self.interval.low, self.interval.high
        if self.remark:
            return f"{ABOUT}{points(value)}"
        text = f"{value:.2f}" if low == high else f"{points(value)} [{points(low)}, {points(high)}]"
        return f"{text} ({self.part})" if self.missing else text


def bars_of(
    rows: Sequence[RowView], columns: Sequence[Benchmark], group: Group
) -> list[Bar | None]:
    """Return each row's bar; None if it has no member.

    A published row shows the mean of the members that the runs have, so that the bars compare, and
    otherwise what was read from the drawing. A mean that lacks members says so.
    """
    found = [_members(row, columns, group) for row in rows]
    names = frozenset(bar_members(group))
    measured = [
        frozenset(parts) for row, parts in zip(rows, found, strict=True) if row.run and parts
    ]
    asked = max(measured, key=len, default=names)
    return [_bar(row, parts, asked, group) for row, parts in zip(rows, found, strict=True)]


def _members(row: RowView, columns: Sequence[Benchmark], group: Group) -> dict[str, Interval]:
    """Return the comparable scores of a row's members of a group, by benchmark."""
    cells = {column.id: cell for column, cell in zip(columns, row.cells, strict=True)}
    known = ((name, cells.get(name)) for name in bar_members(group))
    return {name: cell.interval for name, cell in known if cell and cell.interval and not cell.mark}


def _bar(
    row: RowView, found: Mapping[str, Interval], asked: frozenset[str], group: Group
) -> Bar | None:
    members = bar_members(group)
    if row.run is None:
        if asked <= found.keys():
            found = {name: part for name, part in found.items() if name in asked}
        elif read := _read(row.id, group):
            return _read_bar(read, group)
    if not found:
        return None
    missing = tuple(title for name, title in members.items() if name not in found)
    return Bar(mean_of(list(found.values())), missing, len(members))


def _read(row: str, group: Group) -> PublishedCell | None:
    """Return what was read from figure 4 for one of its models."""
    if row not in FIGURE_ROWS:
        return None
    name = f"{READ}/{row.partition('/')[2]}"
    cells = next(baseline.other for baseline in load_baselines() if baseline.id == name)
    return cells.get(f"figure4:{group}")


def _read_bar(read: PublishedCell, group: Group) -> Bar:
    value = Interval(read.value, read.value, read.value)
    return Bar(value, (), len(bar_members(group)), read.remark)


def figure_4(rows: Sequence[RowView], columns: Sequence[Benchmark]) -> Section:
    """Return the bars of the paper's figure 4 as a table."""
    bars = {group: bars_of(rows, columns, group) for group in FIGURE_4}
    table = [
        (row.remarked, *(MISSING if bar is None else bar.text for bar in line))
        for row, line in zip(rows, zip(*bars.values(), strict=True), strict=True)
    ]
    notes = [MEAN_METHOD]
    notes += [_members_note(group) for group in FIGURE_4 if len(bar_members(group)) > 1]
    notes += [note for group in FIGURE_4 for note in missing_notes(rows, bars[group], group)]
    notes += _read_notes(rows, bars)
    data = (
        {"id": row.id, "name": row.label, "kind": row.kind}
        | {"bars": {g: bar and bar.as_json() for g, bar in zip(bars, line, strict=True)}}
        for row, line in zip(rows, zip(*bars.values(), strict=True), strict=True)
    )
    return Section(
        "Groups of the paper's figure 4",
        ("Model", *FIGURE_4.values()),
        tuple(table),
        tuple(notes),
        turns=True,
        data=tuple(data),
    )


def _members_note(group: Group) -> str:
    return f"{FIGURE_4[group]}: {listed(tuple(bar_members(group).values()))}."


def missing_notes(rows: Sequence[RowView], bars: Sequence[Bar | None], group: Group) -> list[str]:
    """Return a note for each set of members that some rows' means lack."""
    lacking: dict[tuple[str, ...], list[str]] = {}
    parts = {}
    for row, bar in zip(rows, bars, strict=True):
        if bar is not None and bar.missing:
            lacking.setdefault(bar.missing, []).append(row.label)
            parts[bar.missing] = bar.part
    return [
        f"{FIGURE_4[group]} ({parts[missing]}) lacks {listed(missing)}: {'; '.join(labels)}."
        for missing, labels in lacking.items()
    ]


def _read_notes(rows: Sequence[RowView], bars: Mapping[Group, Sequence[Bar | None]]) -> list[str]:
    remarks: dict[str, list[str]] = {}
    for group, line in bars.items():
        for row, bar in zip(rows, line, strict=True):
            if bar is not None and bar.remark:
                remarks.setdefault(bar.remark, []).append(f"{row.label} {FIGURE_4[group]}")
    if not remarks:
        return []
    others = "; ".join(
        f"{', '.join(at)}: {remark}" for remark, at in remarks.items() if remark != FROM_DRAWING
    )
    said = f"{ABOUT}: {FROM_DRAWING} of the paper's figure 4, which prints no numbers."
    return [f"{said} {others}." if others else said]


def listed(names: Sequence[str]) -> str:
    """Return names as a list in words."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


@dataclass(frozen=True, slots=True)
class Anchors:
    """Known (score in percent, size in billions) points, by size.

    Attributes:
        members: The benchmarks whose mean the scores are, by id, with their titles.
        remark: Where the scores are from, if not from the pipeline of the paper's Table 2.
    """

    scores: tuple[float, ...]
    sizes: tuple[float, ...]
    members: Mapping[str, str]
    remark: str = ""

    def size_of(self, score: float) -> float:
        """Return the size in billions with that score; 0 below the smallest, inf above all."""
        if score < self.scores[0]:
            return 0.0
        if score > self.scores[-1]:
            return math.inf
        pairs = tuple(zip(self.scores, self.sizes, strict=True))
        for (s0, b0), (s1, b1) in itertools.pairwise(pairs):
            if s0 <= score <= s1:
                share = (score - s0) / (s1 - s0)
                return math.exp(math.log(b0) + share * (math.log(b1) - math.log(b0)))
        return self.sizes[-1]

    def sizes_of(self, score: Interval) -> dict[str, float | None]:
        """Return the sizes of a score and of its interval's ends; None outside the known ones."""
        ends = {"size_b": score.value, "size_b_low": score.low, "size_b_high": score.high}
        sizes = {name: self.size_of(end) for name, end in ends.items()}
        return {
            name: round(size, 2) if 0 < size < math.inf else None for name, size in sizes.items()
        }

    def words(self, score: Interval) -> str:
        """Return the size in words, e.g. "22B", "under 7B" or "22B [20B, 24B]"."""
        value = self._one(self.size_of(score.value))
        if score.low == score.high:
            return value
        low, high = (self._one(self.size_of(end)) for end in (score.low, score.high))
        return value if low == value == high else f"{value} [{low}, {high}]"

    def _one(self, size: float) -> str:
        if size == 0:
            return f"under {self.sizes[0]:.0f}B"
        if math.isinf(size):
            return f"over {self.sizes[-1]:.0f}B"
        return f"{size:.0f}B"


def anchors(group: Group) -> Anchors:
    """Return the scores of Llama 2's sizes over the members of a group that are known of them.

    Mistral's own pipeline is used for the members that it printed of two sizes or more. If there
    is no such member, Meta's numbers are, under whatever protocol they were measured.
    """
    known = {baseline.id: baseline for baseline in load_baselines()}
    own, metas = ([known[name] for name in names] for names in ANCHOR_ROWS)
    members = bar_members(group)
    values = {name: [_comparable(baseline, name) for baseline in own] for name in members}
    used = {name: title for name, title in members.items() if values[name].count(None) < 2}
    if used:
        return _anchors(own, {name: values[name] for name in used}, used)
    others = [known[f"{SECOND_SOURCE}/{one.id.partition('/')[2]}"] for one in metas]
    found = {
        name: [
            _any(one, name) or _any(other, name) for one, other in zip(metas, others, strict=True)
        ]
        for name in members
    }
    source = f"{metas[0].group_title}'s and {others[0].group_title}'s numbers"
    return _anchors(metas, found, members, source)


def _anchors(
    rows: Sequence[Baseline],
    values: Mapping[str, Sequence[float | None]],
    members: Mapping[str, str],
    remark: str = "",
) -> Anchors:
    """Return the sizes of which every member is known."""
    pairs = []
    for row, scores in zip(rows, zip(*values.values(), strict=True), strict=True):
        whole = [score for score in scores if score is not None]
        if len(whole) == len(members):
            pairs.append((math.fsum(whole) / len(whole), row.parameters_b))
    return Anchors(
        tuple(score for score, _ in pairs), tuple(size for _, size in pairs), members, remark
    )


def _comparable(baseline: Baseline, name: str) -> float | None:
    cell = baseline.cells.get(name)
    return cell.value if cell is not None and cell.comparable else None


def _any(baseline: Baseline, name: str) -> float | None:
    """Return a benchmark's number, with whatever number of shots it was measured."""
    every = {**baseline.other, **baseline.cells}
    fitting = (cell.value for key, cell in every.items() if key.partition(":")[0] == name)
    return next(fitting, None)


def scored(row: RowView, columns: Sequence[Benchmark], group: Group, scale: Anchors) -> Bar | None:
    """Return a row's mean over the scale's members, to be placed on it; None if one is missing."""
    found = _members(row, columns, group)
    members = bar_members(group)
    if scale.members.keys() <= found.keys():
        missing = tuple(title for name, title in members.items() if name not in scale.members)
        parts = [found[name] for name in scale.members]
        return Bar(mean_of(parts), missing, len(members))
    read = _read(row.id, group)
    return _read_bar(read, group) if read and len(scale.members) == len(members) else None


def figure_5(rows: Sequence[RowView], columns: Sequence[Benchmark]) -> Section:
    """Return, per row, the size of the Llama 2 model with the same score, as in figure 5."""
    scales = {group: anchors(group) for group in FIGURE_5}
    table, data = [], []
    for row in rows:
        if row.is_model:
            placed = {group: scored(row, columns, group, scale) for group, scale in scales.items()}
            table.append(
                (row.remarked, *(_size(bar, scales[group]) for group, bar in placed.items()))
            )
            sizes = {
                group: bar and {**bar.as_json(), **scales[group].sizes_of(bar.interval)}
                for group, bar in placed.items()
            }
            data.append({"id": row.id, "name": row.label, "kind": row.kind, "sizes": sizes})
    return Section(
        "Llama 2 size with the same score (the paper's figure 5)",
        ("Model", *(size_title(group, scale) for group, scale in scales.items())),
        tuple(table),
        (
            (
                "Method: the group's mean score against the logarithm of the size, straight lines "
                "between Llama 2's published sizes, no extrapolation. The interval is that of the "
                "score, carried over; the lines' own uncertainty is not in it."
            ),
            *(_scale_note(group, scale) for group, scale in scales.items()),
            (
                f"The paper prints {', '.join(PRINTED_SIZES)} for Mistral 7B and does not state "
                f"its method. Meta's own 68.9 for Llama 2 70B in {FIGURE_4[FIGURE_5[0]]}, in the "
                "place of 69.9, would give its 23B."
            ),
            *unplaced_notes(rows),
        ),
        data=tuple(data),
    )


def size_title(group: Group, scale: Anchors) -> str:
    """Return a panel's title, with the number of its members if the scale lacks some."""
    whole, part = len(bar_members(group)), len(scale.members)
    return FIGURE_4[group] if part == whole else f"{FIGURE_4[group]} ({part} of {whole})"


def unplaced_notes(rows: Sequence[RowView]) -> list[str]:
    """Return why runs that have benchmarks of figure 5 are not in some of its panels."""
    models = [row for row in rows if row.run and row.is_model]
    lacks = [_unplaced(row, group, anchors(group)) for row in models for group in FIGURE_5]
    others = (f"{row.label} is not a model, so it has no size." for row in rows if not row.is_model)
    return [*filter(None, lacks), *others]


def _unplaced(row: RowView, group: Group, scale: Anchors) -> str:
    """Return why a run that has some of a panel's benchmarks is not in it; "" otherwise."""
    has = row.run.cells.keys() if row.run else ()
    missing = tuple(title for name, title in scale.members.items() if name not in has)
    if not missing or len(missing) == len(scale.members):
        return ""
    return f"{FIGURE_4[group]}: {row.label} lacks {listed(missing)}, so it has no size."


def _size(bar: Bar | None, scale: Anchors) -> str:
    if bar is None:
        return MISSING
    return f"{ABOUT if bar.remark else ''}{scale.words(bar.interval)}"


def _scale_note(group: Group, scale: Anchors) -> str:
    pairs = zip(scale.sizes, scale.scores, strict=True)
    known = ", ".join(f"{size:.0f}B {points(score)}" for size, score in pairs)
    missing = tuple(t for name, t in bar_members(group).items() if name not in scale.members)
    lacks = (
        f"; without {listed(missing)}, whose scores by size Mistral did not print"
        if missing
        else ""
    )
    source = scale.remark or "Mistral's pipeline (Mistral 7B and Mixtral papers)"
    return f"{FIGURE_4[group]}: {known} by {source}{lacks}."
