"""The report's figures of conversations: refusals by kind of prompt, ratings by category."""

from collections.abc import Sequence
from typing import Final

from matplotlib.axes import Axes

from mistral_eval.answers.mt_bench.ratings import HIGHEST, LOWEST
from mistral_eval.answers.refusals.rates import Counted, Prompts
from mistral_eval.report.html.charts import WIDTH, short
from mistral_eval.report.html.svg import INK, LINE, QUIET, RUNS, draw
from mistral_eval.report.table.chat_tables import ChatResult, RefusalResult, labelled_rates
from mistral_eval.report.table.view import points
from mistral_eval.stats import Interval

Pair = tuple[str, dict[Prompts, Interval]]
"""A row's label, and how often it refuses prompts of either kind, in percent."""
ROW: Final = 0.36  # inches


def refusals_chart(results: Sequence[RefusalResult]) -> tuple[str, str] | None:
    """Draw how often unsafe and safe prompts are refused, by model and system prompt.

    Published rows are people's labels; measured rates are corrected by the judge's error where that
    is known.

    Returns:
        Caption and drawing; None if nothing was measured.
    """
    if not results:
        return None
    rows = [*_published(), *map(_measured, results)]

    def paint(axes: Axes) -> None:
        for place, (_, rates) in enumerate(rows):
            if len(rates) == len(Prompts):
                ends = [rate.value for rate in rates.values()]
                axes.plot(ends, [place, place], color=LINE, linewidth=3, zorder=1)
            for kind, rate in rates.items():
                is_unsafe = kind is Prompts.UNSAFE
                color = RUNS[0] if is_unsafe else RUNS[1]
                nudge = -0.12 if is_unsafe else 0.12
                ends = [rate.low, rate.high]
                axes.plot(ends, [place + nudge] * 2, color=color, linewidth=1.5)
                axes.plot(
                    [rate.value],
                    [place + nudge],
                    "o" if is_unsafe else "s",
                    color=color,
                    markerfacecolor=color if is_unsafe else "none",
                    markersize=6,
                )
        axes.set_yticks(range(len(rows)), [label for label, _ in rows], fontsize=8.5)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(-2, 102)
        axes.set_xlabel("any refusal, %: ● of unsafe prompts, □ of safe prompts", fontsize=9)

    said = "; ".join(f"{label.replace(chr(10), ', ')} {_words(rates)}" for label, rates in rows)
    caption = "Refused unsafe and refused safe prompts, by system prompt; 95 % intervals"
    size = (WIDTH + 0.8, 0.8 + ROW * len(rows))
    return caption, draw("refusals", f"Any refusal, in percent: {said}", size, paint)


def _published() -> list[Pair]:
    return [
        (_label(row.name, row.system_prompt, "people's labels"), rates)
        for row, rates in labelled_rates(Counted.ANY)
    ]


def _measured(one: RefusalResult) -> Pair:
    rates = {kind: one.rates.get((kind, Counted.ANY)) for kind in Prompts}
    about = one.prompts if one.judge is None else f"{one.prompts} by {short(one.judge)}"
    label = _label(one.label, one.system_prompt, about)
    return label, {kind: rate.best for kind, rate in rates.items() if rate}


def _label(name: str, system_prompt: str, about: str) -> str:
    return f"{short(name)}\nprompt {short(system_prompt)}; {about}"


def _words(rates: dict[Prompts, Interval]) -> str:
    return ", ".join(f"{kind} {points(rate.value)}" for kind, rate in rates.items())


def categories_chart(result: ChatResult, number: int) -> tuple[str, str] | None:
    """Draw a rated run's mean by category as bars, with intervals over questions.

    Returns:
        Caption and drawing; None if no rating with a category could be read.
    """
    means = {name: one.interval for name, one in result.scores.categories.items()}
    drawn = [(name, interval) for name, interval in means.items() if interval is not None]
    if not drawn:
        return None

    def paint(axes: Axes) -> None:
        for place, (_, interval) in enumerate(drawn):
            axes.barh(place, interval.value, height=0.68, color=RUNS[number % len(RUNS)])
            axes.plot([interval.low, interval.high], [place, place], color=INK, linewidth=1.5)
            end = max(interval.high, interval.value)
            axes.text(end + 0.15, place, f"{interval.value:.2f}", va="center", fontsize=9.5)
        axes.set_yticks(range(len(drawn)), [name for name, _ in drawn])
        axes.set_ylim(len(drawn) - 0.4, -0.6)
        axes.set_xlim(0, HIGHEST + 1.6)
        axes.set_xticks([LOWEST, 4, 7, HIGHEST])
        axes.tick_params(axis="x", colors=QUIET)

    said = ", ".join(f"{name} {interval.value:.2f}" for name, interval in drawn)
    title = f"MT-Bench by category: {short(result.label)}, rated by {short(result.judge)}"
    size = (WIDTH, 0.5 + 0.27 * len(drawn))
    return title, draw(f"categories-{number}", f"{title}: {said}", size, paint)
