"""Matplotlib drawings as inline SVG in the page's font, colours and theme.

Placeholder colours are replaced by the page's CSS variables, so one drawing works in light, dark
and print; text stays text, for searching and screen readers.
"""

import io
import re
import warnings
from collections.abc import Callable
from html import escape
from typing import Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK: Final = "#010101"
QUIET: Final = "#010102"
LINE: Final = "#010103"
PAPER: Final = ("#020201", "#020202", "#020203", "#020204")
RUNS: Final = ("#030301", "#030302", "#030303", "#030304", "#030305", "#030306")
_VARIABLES: Final = {
    INK: "--ink",
    QUIET: "--quiet",
    LINE: "--line",
    **{color: f"--paper-{i}" for i, color in enumerate(PAPER)},
    **{color: f"--run-{i}" for i, color in enumerate(RUNS)},
}
BASE_STYLE: Final = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names of models are not formulas
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}
_STYLE: Final = BASE_STYLE | {
    "font.size": 10.0,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": QUIET,
    "axes.spines.left": False,
    "axes.grid.axis": "x",
    "grid.color": LINE,
    "xtick.color": QUIET,
    "ytick.color": INK,
    "ytick.left": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "lines.solid_capstyle": "butt",
}


def variable(color: str) -> str:
    """Return the CSS variable that replaces a placeholder colour."""
    return _VARIABLES[color]


def draw(name: str, title: str, size: tuple[float, float], paint: Callable[[Axes], None]) -> str:
    """Return what `paint` draws as an SVG element, with `size` in inches.

    `name` is its id in the page, one word; `title` is its text for screen readers; a table beside
    the drawing has the numbers.
    """
    with warnings.catch_warnings(), mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)  # page has fonts
        figure = Figure(figsize=size, layout="constrained")
        paint(figure.add_subplot())
        out = io.StringIO()
        FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None})
    return _adopted(out.getvalue(), name, title)


def _adopted(svg: str, name: str, title: str) -> str:
    """Remove what only a file needs; set the drawing's ids, title, colours and font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    width = re.search(r'width="([\d.]+)pt"', svg)
    assert width is not None, "matplotlib gives an SVG its width"
    head = (
        f'<svg role="img" aria-labelledby="{name}-title" '
        f'style="width: 100%; max-width: {float(width[1]) * 4 / 3:.0f}px"'
    )
    svg = re.sub(r'<svg(.*?) width="[^"]*"', lambda m: head + m[1], svg, count=1, flags=re.DOTALL)
    svg = re.sub(r' height="[\d.]+pt"', "", svg, count=1)
    label = f'<title id="{name}-title">{escape(title)}</title>'
    svg = re.sub(r">", lambda _: f">{label}", svg, count=1)
    svg = re.sub(r"font: ((?:\d+ )?[\d.]+px) [^;\"]*", r"font: \1 system-ui, sans-serif", svg)
    svg = re.sub(rf'(?<=\bid=")(?!{name})', f"{name}-", svg)
    svg = svg.replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    return svg
