"""The report as one HTML document: its sections in order, scripts, style and data."""

import hashlib
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from importlib import resources
from typing import Any, Final

from mistral_eval import __version__
from mistral_eval.console import counted
from mistral_eval.record.comparison import Comparison
from mistral_eval.record.run_record import RunRecord
from mistral_eval.report.html import charts, provenance, training
from mistral_eval.report.html.bundle import Bundle, packed
from mistral_eval.report.table import published_rows
from mistral_eval.report.table.compared import METHOD, comparison_sections
from mistral_eval.report.table.figures import (
    FIGURE_ROWS,
    figure_4,
    figure_5,
    unplaced_notes,
)
from mistral_eval.report.table.html_table import STYLE, html_fragment, section_html
from mistral_eval.report.table.sections import reproduced
from mistral_eval.report.table.view import (
    Section,
    TableOptions,
    TableView,
    build_rows,
    column_of,
)
from mistral_eval.suite.registry import BENCHMARKS, BY_ID, FIGURE_4, FIGURE_5

SCRIPTS: Final = ("text.js", "store.js", "filter.js", "list.js", "detail.js", "app.js")
CONTENTS: Final = {
    "scores": "Scores",
    "figures": "Figures",
    "training": "Training",
    "comparison": "Comparison",
    "subjects": "Subjects",
    "questions": "Questions",
    "speed": "Time and counts",
    "provenance": "Provenance",
}


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a report: the table, the runs with their labels, and the questions.

    `comparisons` are of each further run with the first; `refusal` says why runs could not be
    compared, "" if they were.
    """

    view: TableView
    runs: Sequence[RunRecord]
    names: Sequence[str]
    bundles: Sequence[Bundle]
    comparisons: Sequence[Comparison] = ()
    refusal: str = ""


def document(content: Content) -> Iterator[str]:
    """Yield the document's parts in order; it needs no network."""
    script = "(() => {\n'use strict';\n" + "\n".join(_static(name) for name in SCRIPTS) + "})();"
    assert "</script" not in script.lower()
    title = f"Evaluation of {_listed(content.names)}"
    sections = dict(_sections(content))
    yield _head(title, script)
    yield '<body>\n<a class="skip" href="#questions">Skip to the questions</a>\n<header>'
    yield f"<h1>{escape(title)}</h1>"
    yield f'<p class="about">{escape(_summary(content))}</p>'
    links = [f'<li><a href="#{name}">{CONTENTS[name]}</a></li>' for name in sections]
    yield f'<nav aria-label="Contents"><ul>{"".join(links)}</ul></nav>\n</header>\n<main>'
    yield from sections.values()
    yield "</main>"
    yield _embedded("index", packed(_index(content)))
    yield f"<script>{script}</script>"
    for number, bundle in enumerate(content.bundles):
        yield _embedded(f"blocks-{number}", bundle.blocks)
        for place, chunk in enumerate(bundle.chunks):
            yield _embedded(f"chunk-{number}-{place}", chunk)
    yield "</body>\n</html>"


def _listed(names: Sequence[str]) -> str:
    """Return up to three names, or the first and the number of the others."""
    if len(names) > 3:
        return f"{names[0]} and {len(names) - 1} more runs"
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _head(title: str, script: str) -> str:
    """Return the head; its policy allows exactly one script to run and nothing to be loaded."""
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n"
        f"<style>\n{STYLE}\n{_static('report.css')}</style>\n</head>"
    )


def _index(content: Content) -> dict[str, Any]:
    return {
        "runs": [{"label": name} for name in content.names],
        "benchmarks": [bundle.index for bundle in content.bundles],
    }


def _sections(content: Content) -> Iterator[tuple[str, str]]:
    """Yield name and HTML of each section that is not empty."""
    yield "scores", _section("scores", html_fragment(content.view), *_reproduced(content.view))
    yield "figures", _section("figures", *_figures(content.view))
    if curves := training.curves(content.runs):
        yield "training", _section("training", *_training(curves))
    if content.comparisons or content.refusal:
        yield "comparison", _section("comparison", *_comparison(content))
    subjects = [_subjects(content, task) for task in BY_ID]
    if any(subjects):
        yield "subjects", _section("subjects", f'<div class="figures">{"".join(subjects)}</div>')
    yield "questions", _static("browser.html")
    yield "speed", _section("speed", section_html(provenance.speed(content.runs, content.names)))
    yield "provenance", _section("provenance", *_provenance(content))


def _section(name: str, *parts: str) -> str:
    return f'<section id="{name}">\n<h2>{CONTENTS[name]}</h2>\n' + "\n".join(parts) + "\n</section>"


def _summary(content: Content) -> str:
    dates = ", ".join(sorted({run.date[:10] for run in content.runs}))
    asked = sum(bundle.index["n"] for bundle in content.bundles)
    runs = counted(len(content.runs), "run")
    return (
        f"{runs} of {dates}, {counted(asked, 'question')}, under the Mistral 7B paper's protocol; "
        f"written by mistral-eval {__version__}."
    )


def _reproduced(view: TableView) -> Iterator[str]:
    """Yield each model's intervals against the paper's own row."""
    (paper,) = published_rows([FIGURE_ROWS[0]])
    for row in view.rows:
        if row.run is not None and row.is_model:
            yield _folded(reproduced(row.run, row.label, paper, view.columns))


def _figures(view: TableView) -> Iterator[str]:
    """Yield the paper's figures 4 and 5 with these runs, and their numbers as tables."""
    known = build_rows(published_rows(FIGURE_ROWS), (), TableOptions(BENCHMARKS))
    found = build_rows((), [row.run for row in view.rows if row.run], TableOptions(BENCHMARKS))
    labels = [row.label for row in view.rows if row.run]
    runs = [replace(row, label=label) for row, label in zip(found, labels, strict=True)]
    rows = (*known, *runs)
    bars = [charts.groups_chart(rows, BENCHMARKS, group) for group in FIGURE_4]
    if any(bars):
        said = "group means, 95 % intervals on runs; ≈ read from the drawing"
        yield f"<h3>The paper's figure 4: {said}</h3>"
        yield f'<div class="figures">{"".join(_captioned(bar) for bar in bars)}</div>'
        yield _folded(figure_4(rows, BENCHMARKS), "Figure 4 as a table")
    else:
        yield '<p class="about">No run has a benchmark of figure 4 or 5.</p>'
    sizes = [charts.sizes_chart(rows, BENCHMARKS, group) for group in FIGURE_5]
    if any(sizes):
        yield "<h3>The paper's figure 5: the size of Llama 2 with the same score</h3>"
        yield f'<div class="figures">{"".join(_captioned(size) for size in sizes)}</div>'
        yield from (f'<p class="about">{escape(note)}</p>' for note in unplaced_notes(rows))
        yield _folded(figure_5(rows, BENCHMARKS), "Figure 5 as a table")


def _training(curves: Mapping[str, Sequence[charts.Training]]) -> Iterator[str]:
    """Yield each benchmark's scores over training steps, and their numbers as a table."""
    yield "<h3>Scores over training steps, with 95 % intervals</h3>"
    drawn = [
        _figure(column_of(task), charts.training_chart(lines, task) + _legend(lines))
        for task, lines in curves.items()
    ]
    yield f'<div class="figures">{"".join(drawn)}</div>'
    yield _folded(training.table(curves))


def _legend(lines: Sequence[charts.Training]) -> str:
    """Return the curves' colours; "" for a single curve."""
    if len(lines) == 1:
        return ""
    return charts.legend([one.name for one in lines], [one.color for one in lines])


def _comparison(content: Content) -> Iterator[str]:
    if content.refusal:
        yield f"<p>Not compared. {escape(content.refusal)}</p>"
    for number, comparison in enumerate(content.comparisons):
        caption = "Difference per benchmark, 95 % interval; filled if it is significant"
        drawing = charts.difference_chart(comparison, number)
        yield f'<div class="figures">{_figure(caption, drawing)}</div>'
        table, *flips = comparison_sections([comparison], () if number else METHOD)
        yield _folded(table, is_open=not number)
        run = number + 1
        yield (
            f'<p>Read the questions that flipped: <a href="#f=lost&amp;r={run}">to wrong</a>, '
            f'<a href="#f=gained&amp;r={run}">to right</a>.</p>'
        )
        yield from map(_folded, flips)


def _subjects(content: Content, task: str) -> str:
    """Return one benchmark's scores by subject; "" if no run has them."""
    rows = [row for row in content.view.rows if row.kind == "run"]
    colors = charts.color_of(content.view.rows)
    known = [
        (name, run.strata[task], colors[row.id])
        for name, run, row in zip(content.names, content.runs, rows, strict=True)
        if run.strata.get(task)
    ]
    if not known:
        return ""
    names, strata, shades = (list(part) for part in zip(*known, strict=True))
    drawing = charts.subjects_chart(names, strata, shades, task)
    return _figure(f"{column_of(task)} by subject", drawing + charts.legend(names, shades))


def _provenance(content: Content) -> Iterator[str]:
    yield '<div class="provenance">'
    yield section_html(provenance.settings(content.runs, content.names))
    for run, name in zip(content.runs, content.names, strict=True):
        yield _folded(provenance.protocols(run, name))
    yield "</div>"


def _captioned(drawn: tuple[str, str] | None) -> str:
    """Return a figure from its caption and drawing; "" if there is none."""
    return "" if drawn is None else _figure(*drawn)


def _figure(caption: str, drawing: str) -> str:
    return f"<figure><figcaption><b>{escape(caption)}</b></figcaption>{drawing}</figure>"


def _folded(section: Section, title: str = "", *, is_open: bool = False) -> str:
    opened, html = " open" if is_open else "", section_html(section)
    return f"<details{opened}><summary>{escape(title or section.title)}</summary>{html}</details>"


def _embedded(name: str, data: str) -> str:
    return f'<script type="text/plain" id="{name}">{data}</script>'


def _static(name: str) -> str:
    return resources.files("mistral_eval.report.html").joinpath("static", name).read_text("utf-8")
