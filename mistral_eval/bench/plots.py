"""Plots of a bench: one figure per part, as PNG and SVG, drawn without a display."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from mistral_eval.bench.cases import PARTS
from mistral_eval.bench.measurements import MIB, Found, Line, lines, sharing
from mistral_eval.errors import OutputError
from mistral_eval.report.html.svg import BASE_STYLE

# The colours of the report's figures on a light page (report/html/static/report.css).
_INK, _QUIET, _LINE = "#1a1d21", "#5c6370", "#d5d8de"
_COLORS: Final = ("#969eac", "#0072b2", "#d55e00", "#00845f")
_STYLE: Final = BASE_STYLE | {
    "font.size": 9.0,
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _QUIET,
    "axes.titlesize": 9.0,
    "axes.grid.axis": "y",
    "grid.color": _LINE,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "svg.hashsalt": "mistral-eval bench",
}
_DPI: Final = 110
_PANELS: Final[tuple[tuple[str, Callable[[Line], float]], ...]] = (
    ("prefill, tokens/s", lambda line: line.speed.prefill),
    ("attention alone, tokens/s", lambda line: line.speed.attention),
    ("decode, tokens/s", lambda line: line.speed.decode),
    ("cache, MiB", lambda line: line.speed.cache_bytes / MIB),
)
# The chunk size affects neither decoding nor the cache, only a pass's memory (0 if not measured).
_CHUNKED: Final[tuple[tuple[str, Callable[[Line], float]], ...]] = (
    *_PANELS[:2],
    ("peak beyond the weights, MiB", lambda line: (line.speed.peak_bytes or 0) / MIB),
)


def write_plots(found: Found, folder: Path) -> list[Path]:
    """Write one PNG and one SVG for each part; return their paths.

    Raises:
        OutputError: A file cannot be written.
    """
    written = []
    for part in found.settings.parts:
        figure = draw(found, part)
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            path = folder / f"{part}.{kind}"
            try:
                with mpl.rc_context(_STYLE):
                    figure.savefig(path, format=kind, dpi=_DPI, metadata=metadata)
            except OSError as error:
                raise OutputError(
                    f"{path} could not be written ({error.strerror or error}). "
                    "Name another folder with --output-path."
                ) from error
            written.append(path)
    return written


def draw(found: Found, part: str) -> Figure:
    """Return the figure of one part."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.2, 2.6), layout="constrained", facecolor="white")
        figure.suptitle(f"{PARTS[part]} ({found.subject.name})", fontsize=10)
        if part == "prefix":
            _bars(figure, _prefix_bars(found))
        elif part == "chunk":
            chunked = lines(found, part)
            labels = [line.entry.label for line in chunked]
            panels = [(title, labels, [get(line) for line in chunked]) for title, get in _CHUNKED]
            _bars(figure, panels)
        else:
            _curves(figure, lines(found, part))
        return figure


def _curves(figure: Figure, found: Sequence[Line]) -> None:
    """Plot each quantity against the context length, one line per variant."""
    labels = list(dict.fromkeys(line.entry.label for line in found))
    colors = _COLORS if len(labels) > 1 else _COLORS[1:]
    all_axes: Any = figure.subplots(1, len(_PANELS))
    for axes, (title, get) in zip(all_axes, _PANELS, strict=True):
        for label, color in zip(labels, colors, strict=False):
            mine = [line for line in found if line.entry.label == label]
            contexts = [line.entry.case.context for line in mine]
            axes.plot(contexts, list(map(get, mine)), "o-", color=color, label=label, markersize=4)
        _scale(axes, sorted({line.entry.case.context for line in found}))
        axes.set_title(title)
        axes.set_ylim(bottom=0)
    all_axes[-1].legend(fontsize=8)


def _scale(axes: Axes, contexts: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    names = [f"{n // 1024}k" if n % 1024 == 0 else str(n) for n in contexts]
    axes.set_xticks(contexts, names)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.12)


def _prefix_bars(found: Found) -> list[tuple[str, list[str], list[float]]]:
    panels = []
    for pair in sharing(found):
        names = ["per request", "shared"]
        what = pair[0].what
        panels.append((f"{what}: tokens computed", names, [float(one.computed) for one in pair]))
        panels.append((f"{what}: seconds", names, [one.seconds for one in pair]))
    return panels


def _bars(figure: Figure, panels: Sequence[tuple[str, list[str], list[float]]]) -> None:
    all_axes: Any = figure.subplots(1, len(panels))
    for axes, (title, labels, values) in zip(all_axes, panels, strict=True):
        axes.bar(range(len(values)), values, color=_COLORS[: len(values)], width=0.66)
        for place, value in enumerate(values):
            text = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
            axes.text(place, value, text, ha="center", va="bottom", fontsize=8)
        axes.set_xticks(range(len(labels)), labels)
        axes.margins(y=0.14)
        axes.set_title(title)
