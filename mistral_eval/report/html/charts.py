"""The report's figures: the paper's figures 4 and 5, scores by subject, differences of two runs."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mistral_eval.record.comparison import Comparison
from mistral_eval.record.run_scores import one_line
from mistral_eval.report.html.svg import INK, LINE, PAPER, QUIET, RUNS, draw, variable
from mistral_eval.report.table.figures import (
    ABOUT,
    Bar,
    anchors,
    bars_of,
    missing_notes,
    scored,
    size_title,
)
from mistral_eval.report.table.view import RowView, column_of, points
from mistral_eval.stats import Interval, wilson
from mistral_eval.suite.benchmark import Benchmark, Group
from mistral_eval.suite.registry import FIGURE_4

WIDTH: Final = 4.7  # inches: text stays readable on a phone
SIZE: Final = (WIDTH, 2.6)  # of a curve over training steps
LABEL: Final = 30  # characters
LABEL_GAP: Final = 0.075  # of a chart's height, which is one line of its labels


def color_of(rows: Sequence[RowView]) -> dict[str, str]:
    """Return row id -> colour: greys for published rows, hues for runs."""
    shades = {"published": itertools.cycle(PAPER), "run": itertools.cycle(RUNS)}
    return {row.id: next(shades[row.kind]) for row in rows}


def short(name: str) -> str:
    """Return a name, truncated to fit beside a drawing."""
    flat = one_line(name)
    return flat if len(flat) <= LABEL else f"{flat[: LABEL - 1]}…"


def groups_chart(
    rows: Sequence[RowView], columns: Sequence[Benchmark], group: Group
) -> tuple[str, str] | None:
    """Draw one bar of the paper's figure 4 per row.

    Returns:
        Caption and drawing; None if no run has a benchmark of the group.
    """
    bars = bars_of(rows, columns, group)
    drawn = [(row, bar) for row, bar in zip(rows, bars, strict=True) if bar is not None]
    if not _has_run(drawn):
        return None
    colors = color_of(rows)

    def paint(axes: Axes) -> None:
        for place, (row, bar) in enumerate(drawn):
            interval = bar.interval
            alpha = 0.5 if bar.missing else 1.0
            axes.barh(place, interval.value, height=0.68, color=colors[row.id], alpha=alpha)
            end = interval.value
            if interval.low < interval.high:
                _whisker(axes, place, interval, INK)
                end = interval.high
            axes.text(end + 1.2, place, _beside(bar), va="center", fontsize=9.5)
        _name_rows(axes, [row.label for row, _ in drawn])
        axes.set_xlim(0, 124)
        axes.set_xticks(range(0, 101, 25))

    title = FIGURE_4[group]
    notes = [note.rstrip(".") for note in missing_notes(rows, bars, group)]
    said = "; ".join((*(f"{row.label} {_beside(bar)}" for row, bar in drawn), *notes))
    size = (WIDTH, 0.5 + 0.27 * len(drawn))
    return ". ".join(notes) or title, draw(f"figure-4-{group}", f"{title}: {said}", size, paint)


def _beside(bar: Bar) -> str:
    """Return a bar's value, marked if it was read from the paper or lacks members.

    The mean of two published numbers has a second decimal, as in the table.
    """
    is_mean = bar.interval.low == bar.interval.high and not bar.remark
    value = f"{bar.interval.value:.2f}" if is_mean else points(bar.interval.value)
    value = f"{ABOUT if bar.remark else ''}{value}"
    return f"{value} ({bar.part})" if bar.missing else value


def sizes_chart(
    rows: Sequence[RowView], columns: Sequence[Benchmark], group: Group
) -> tuple[str, str] | None:
    """Draw one panel of the paper's figure 5: score against Llama 2's size.

    Llama 2's own rows are the curve; the other models are placed on it.

    Returns:
        Caption and drawing; None if no run has all benchmarks of the curve.
    """
    scale = anchors(group)
    placed = [row for row in rows if row.is_model and "llama2" not in row.id]
    bars = ((row, scored(row, columns, group, scale)) for row in placed)
    drawn = [(row, bar) for row, bar in bars if bar is not None]
    if not _has_run(drawn) or len(scale.sizes) < 2:
        return None
    colors = color_of(rows)
    values = [bar.interval.value for _, bar in drawn]
    edges = [edge for _, bar in drawn for edge in (bar.interval.low, bar.interval.high)]
    spread = max(*edges, *scale.scores) - min(*edges, *scale.scores)
    heights = spaced(values, LABEL_GAP * spread)

    def paint(axes: Axes) -> None:
        axes.plot(scale.sizes, scale.scores, color=QUIET, marker="o", markersize=4, linewidth=1.2)
        for size, score in zip(scale.sizes, scale.scores, strict=True):
            axes.annotate(
                f"Llama 2 {size:.0f}B",
                (size, score),
                (0, 6) if size == scale.sizes[-1] else (6, -10),
                textcoords="offset points",
                fontsize=8,
                color=QUIET,
                ha="right" if size == scale.sizes[-1] else "left",
            )
        for (row, bar), height in zip(drawn, heights, strict=True):
            interval = bar.interval
            size = scale.size_of(interval.value)
            axes.axhspan(interval.low, interval.high, color=colors[row.id], alpha=0.18, linewidth=0)
            axes.axhline(interval.value, color=colors[row.id], linewidth=1.1)
            if scale.sizes[0] <= size <= scale.sizes[-1]:  # no extrapolation
                axes.plot([size], [interval.value], "D", color=colors[row.id], markersize=5)
            axes.annotate(
                short(row.label),
                (scale.sizes[0], height),
                (2, 3),
                textcoords="offset points",
                fontsize=8.5,
            )
        axes.set_xscale("log")
        axes.set_xticks(scale.sizes, [f"{size:.0f}B" for size in scale.sizes])
        axes.minorticks_off()
        axes.tick_params(axis="y", colors=QUIET)
        axes.grid(visible=True, axis="both")
        axes.margins(x=0.06, y=0.14)
        axes.set_ylabel("score, %", fontsize=9)

    title = size_title(group, scale)
    said = f"{title}: scores against the size of Llama 2"
    return title, draw(f"figure-5-{group}", said, (WIDTH, 2.9), paint)


def spaced(places: Sequence[float], gap: float) -> list[float]:
    """Return the places, in their order, moved up until all are at least `gap` apart."""
    moved = list(places)
    order = sorted(range(len(places)), key=lambda i: places[i])
    for lower, upper in itertools.pairwise(order):
        moved[upper] = max(moved[upper], moved[lower] + gap)
    return moved


def subjects_chart(
    names: Sequence[str], strata: Sequence[Mapping[str, Any]], colors: Sequence[str], task: str
) -> str:
    """Draw scores by subject with their intervals, in the order of the first run's scores.

    `names`, `strata` (subject -> correct, asked) and `colors` have one entry per run.
    """
    first = {name: wilson(*counts) for name, counts in strata[0].items()}
    order = sorted(first, key=lambda name: first[name].value)
    step = 0.62 / max(1, len(strata))

    def paint(axes: Axes) -> None:
        for run, (mine, color) in enumerate(zip(strata, colors, strict=True)):
            offset = (run - (len(strata) - 1) / 2) * step
            for place, subject in enumerate(order):
                if subject in mine:
                    interval = wilson(*mine[subject])
                    _whisker(axes, place - offset, interval, color)
                    axes.plot([interval.value], [place - offset], "o", color=color, markersize=3.6)
        axes.set_yticks(range(len(order)), [name.replace("_", " ") for name in order], fontsize=8.5)
        axes.set_ylim(-0.7, len(order) - 0.3)
        axes.set_xlim(-2, 102)
        axes.set_xlabel("score, %", fontsize=9)

    height = 0.7 + len(order) * (0.17 + 0.05 * (len(strata) - 1))
    title = f"{column_of(task)} by subject: {', '.join(names)}"
    return draw(f"subjects-{task}", title, (WIDTH + 0.8, height), paint)


@dataclass(frozen=True, slots=True)
class Training:
    """One training's scores on a benchmark by step: the curve's name, colour and points."""

    name: str
    color: str
    points: Sequence[tuple[int, Interval]]


def training_chart(trainings: Sequence[Training], task: str) -> str:
    """Draw scores on a benchmark over training steps, with the band of their 95 % intervals."""

    def paint(axes: Axes) -> None:
        for one in trainings:
            steps = [step for step, _ in one.points]
            lows, highs = ([getattr(i, end) for _, i in one.points] for end in ("low", "high"))
            axes.fill_between(steps, lows, highs, color=one.color, alpha=0.18, linewidth=0)
            values = [interval.value for _, interval in one.points]
            axes.plot(steps, values, color=one.color, marker="o", markersize=3.6, linewidth=1.2)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
        axes.tick_params(axis="y", colors=QUIET)
        axes.grid(visible=True, axis="both")
        axes.set_xlabel("training step", fontsize=9)
        axes.set_ylabel("score, %", fontsize=9)

    names = ", ".join(one_line(one.name) for one in trainings)
    return draw(f"training-{task}", f"{column_of(task)} by training step: {names}", SIZE, paint)


def difference_chart(comparison: Comparison, number: int) -> str:
    """Draw B minus A per benchmark with its interval; a significant difference is filled."""
    rows = comparison.benchmarks[::-1]

    def paint(axes: Axes) -> None:
        axes.axvline(0, color=INK, linewidth=1)
        for place, one in enumerate(rows):
            color = {"better": RUNS[0], "worse": RUNS[1]}.get(one.reading, QUIET)
            shown = one.reading in ("better", "worse")
            _whisker(axes, place, one.difference, color)
            axes.plot(
                [one.difference.value],
                [place],
                "o",
                color=color,
                markerfacecolor=color if shown else "none",
                markersize=6,
            )
        axes.set_yticks(range(len(rows)), [column_of(one.id) for one in rows])
        axes.set_ylim(-0.7, len(rows) - 0.3)
        edge = max(1.0, *(max(abs(one.difference.low), abs(one.difference.high)) for one in rows))
        axes.set_xlim(-1.08 * edge, 1.08 * edge)
        axes.set_xlabel(f"{short(comparison.b)} minus {short(comparison.a)}, points", fontsize=9)

    title = f"Difference of {one_line(comparison.b)} to {one_line(comparison.a)} per benchmark"
    return draw(f"difference-{number}", title, (WIDTH, 0.8 + 0.27 * len(rows)), paint)


def legend(names: Sequence[str], colors: Sequence[str]) -> str:
    """Return the runs' colours as an HTML list."""
    items = [
        f'<li><span class="swatch" style="background: var({variable(color)})"></span>'
        f"{escape(one_line(name))}</li>"
        for name, color in zip(names, colors, strict=True)
    ]
    return f'<ul class="legend">{"".join(items)}</ul>'


def _whisker(axes: Axes, place: float, interval: Interval, color: str) -> None:
    axes.plot([interval.low, interval.high], [place, place], color=color, linewidth=1.5)


def _name_rows(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), [short(label) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.spines["bottom"].set_color(LINE)


def _has_run(drawn: Sequence[tuple[RowView, Bar]]) -> bool:
    return any(row.kind == "run" for row, _ in drawn)
