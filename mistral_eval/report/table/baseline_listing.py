"""The published rows that `--baselines` takes, as a list for reading."""

from collections.abc import Sequence

from mistral_eval.report.baselines import ALIASES, Baseline
from mistral_eval.report.table.view import Section

HEADER = ("Name", "Model", "Columns")
NAMES = (
    (
        "--baselines takes a group (the titles above), a short name, group/name, or a name or "
        "model that only one group has; several are separated by commas."
    ),
    (
        "Columns: benchmarks of the suite with a published number; in brackets how many of them "
        "were measured under another protocol, shown with a mark or apart."
    ),
)


def baseline_listing(baselines: Sequence[Baseline]) -> tuple[Section, ...]:
    """Return one table per publication, and one of the short names of groups."""
    sections = []
    for group in dict.fromkeys(baseline.group for baseline in baselines):
        mine = [baseline for baseline in baselines if baseline.group == group]
        rows = tuple((b.id.partition("/")[2], b.name, _columns(b)) for b in mine)
        source = mine[0].source
        note = f"{mine[0].group_title}: {source.table}, {source.url}"
        sections.append(Section(group, HEADER, rows, (note,), words=(0, 1)))
    short = (
        ("all", "every row"),
        ("none", "no row"),
        *((name, ", ".join(groups)) for name, groups in ALIASES.items()),
    )
    return (*sections, Section("Short names", ("Name", "Groups"), short, NAMES, words=(0, 1)))


def _columns(baseline: Baseline) -> str:
    other = sum(not cell.comparable for cell in baseline.cells.values())
    return f"{len(baseline.cells)} ({other})" if other else str(len(baseline.cells))
